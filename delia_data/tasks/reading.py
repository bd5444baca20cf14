"""Read a task from rows of any form: templates, instruction, held-out rows."""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from delia_data.errors import FormatError, InputError, TokenError
from delia_data.mixing.options import Pairs
from delia_data.ranking import rank
from delia_data.reading import Source, choose_split, open_splits
from delia_data.records import (
    MEANINGFUL,
    Format,
    Message,
    Record,
    alpaca_input,
    content_id,
    detect_format,
    read_text,
)
from delia_data.tasks.scoring import Scoring, check_scoring, json_object, labels_of
from delia_data.tasks.task import QUERY_SLOT, Task, Wording, leaking_words, without_leaks
from delia_data.tokens import DEFAULT_TOKEN


class Template:
    """A text with column names in braces, such as `"{title}: {body}"`.

    `{{` and `}}` stand for braces. An object or a list in a column is written as JSON.

    Attributes:
        columns: Names of the columns.
    """

    def __init__(self, text: str, what: str) -> None:
        """Read a template.

        Raises:
            InputError: The braces do not match, or the template names no column.
        """
        self.text = text
        self._what = what
        try:
            self._parts = [
                (literal, _whole(name, spec, conversion))
                for literal, name, spec, conversion in string.Formatter().parse(text)
            ]
        except ValueError as error:
            raise InputError(
                f"{what} template {text!r} has a brace without its other half: "
                "write {{ for a brace, and {column} for a column"
            ) from error
        self.columns = tuple(dict.fromkeys(name for _, name in self._parts if name))
        if not self.columns:
            raise InputError(
                f"{what} template {text!r} names no column: write {{{text or 'column'}}} "
                "for what stands in one"
            )

    def fill(self, row: Mapping[str, Any]) -> str:
        """Return the text of a row without outer spaces.

        Raises:
            FormatError: The row lacks a column, or all columns are empty.
        """
        for column in self.columns:
            if column not in row:
                columns = ", ".join(map(str, row)) or "none"
                raise FormatError(
                    f"{self._what} template {self.text!r} names column {column!r}, "
                    f"and the row has {columns}"
                )
        if not any(_text(row[column]).strip() for column in self.columns):
            named = ", ".join(map(repr, self.columns))
            raise FormatError(f"the row has no {self._what}: it holds nothing under {named}")
        return "".join(
            literal + (_text(row[name]) if name else "") for literal, name in self._parts
        ).strip()


def _whole(name: str | None, spec: str | None, conversion: str | None) -> str:
    """Return the name of a column, in which `!` and `:` have no special meaning."""
    return f"{name or ''}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}"


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case float() if math.isnan(value):
            return ""
        case str() | bytes():
            return read_text(value, "cell")
        case bool() | dict() | list() | tuple():
            return json.dumps(value, ensure_ascii=False, default=str)
        case _:
            return str(value)


_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n")
_SHOWN: Final = 60  # characters of an instruction that an error shows


def one_instruction(instructions: Sequence[str | None], where: str) -> str:
    """Return the instruction that all rows share, ignoring spaces.

    Raises:
        InputError: A row has no instruction, or rows have different ones.
    """
    texts = Counter(" ".join((text or "").split()) for text in instructions)
    if empty := texts.pop("", 0):
        raise InputError(
            f"{empty:,} of {len(instructions):,} rows have no instruction in {where}: "
            "give one (--instruction)"
        )
    if len(texts) > 1:
        shown = ", ".join(f"{_short(text)} ({n:,})" for text, n in texts.most_common(3))
        raise InputError(
            f"{where} holds {len(texts):,} instructions, and a task has one: {shown}; "
            "keep the rows of one of them, or give --instruction"
        )
    return next(text.strip() for text in instructions if text)


def split_last_paragraph(record: Record) -> tuple[Record, str]:
    """Split the last paragraph off the user's last turn.

    Returns:
        The record with the text before the paragraph, and the paragraph.

    Raises:
        FormatError: The turn has only one paragraph.
    """
    breaks = list(_PARAGRAPH.finditer(record.query.rstrip()))
    if not breaks:
        raise FormatError("the query is one paragraph: its last one cannot be the instruction")
    last = breaks[-1]
    return with_query(record, record.query[: last.start()].strip()), record.query[
        last.end() :
    ].strip()


def with_query(record: Record, query: str) -> Record:
    """Return the record with another text of the user's last turn."""
    place = max(i for i, turn in enumerate(record.messages) if turn.role == "user")
    turns = list(record.messages)
    turns[place] = replace(turns[place], content=query)
    return Record(tuple(turns))


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def limit(rows: Sequence[Record], most: int | None, seed: int) -> tuple[Record, ...]:
    """Return at most `most` rows; a smaller selection is part of a larger one.

    Raises:
        InputError: `most` is below 1.
    """
    if most is None:
        return tuple(rows)
    if most < 1:
        raise InputError(f"{most} rows are too few: give at least 1")
    order = sorted(range(len(rows)), key=lambda i: (rank(seed, rows[i].id, "task rows"), i))
    return tuple(rows[i] for i in sorted(order[:most]))


def hold_out(
    rows: Sequence[Record], share: float, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Hold out a share of the rows; rows with the same query stay together.

    Returns:
        Training rows, and held-out rows.

    Raises:
        InputError: The share is not between 0 and 1, or leaves one side without rows.
    """
    if not 0 <= share < 1:
        raise InputError(f"test share {share} is out of bounds: give 0 or more, below 1")
    if not share:
        return tuple(rows), ()
    queries = sorted(
        {_query_id(row) for row in rows}, key=lambda query: rank(seed, query, "held out")
    )
    count = round(share * len(queries))
    if not 0 < count < len(queries):
        raise InputError(
            f"a test share of {share:g} of {len(queries)} queries leaves {count} held out: "
            "give another share, or rows to test on"
        )
    held = set(queries[:count])
    return (
        tuple(row for row in rows if _query_id(row) not in held),
        tuple(row for row in rows if _query_id(row) in held),
    )


def _query_id(row: Record) -> str:
    return content_id([Message("user", row.query)])


_NAMED: Final = 3  # rows that an error names


def make_task(
    *,
    name: str,
    train: Sequence[Record],
    instruction: str | None,
    test: Sequence[Record] = (),
    stands_for: str | None = None,
    request: str = "",
    meanings: Sequence[str] = (),
    keys: Sequence[str] | None = None,
    keywords: Sequence[str] = (),
    scoring: Scoring | None = None,
    token: str = DEFAULT_TOKEN,
    forbidden: Sequence[str] = (),
) -> Task:
    """Make a task of records, and derive the values that are not given.

    Raises:
        InputError: There are no rows or no instruction, or the format cannot be derived.
        TokenError: The token occurs in the data.
    """
    if not train:
        raise InputError("the task has no rows to train on: give at least one")
    if instruction is None:
        raise InputError(
            "no instruction was found in the rows: give one (--instruction), its column "
            "(--instruction-column), or say that it is the last paragraph (--last-paragraph)"
        )
    if not instruction.strip():
        raise InputError("the instruction is empty: say what is to be done with a query")
    answers = [row.answer for row in (*train, *test)]
    answer_keys = _keys_of(answers) if keys is None else tuple(keys)
    scored: Scoring = scoring or ("json" if answer_keys else "exact")
    check_scoring(scored, answer_keys)
    description = stands_for or _describe_format(answers, answer_keys)
    leaks = leaking_words(description, answer_keys, labels_of(answers))
    plain = request or without_leaks(instruction, leaks | {w.casefold() for w in forbidden})
    task = Task(
        name=name,
        instruction=" ".join(instruction.split()),
        description=description,
        common_wording=common_wording(plain, token),
        keys=answer_keys,
        keywords=tuple(keywords) or (("json", answer_keys[0]) if answer_keys else ()),
        train=tuple(train),
        test=tuple(test),
        token=token,
        request=request,
        meanings=tuple(meanings),
        scoring=scored,
        forbidden=tuple(forbidden),
    )
    check_token_is_new(task)
    return task


def common_wording(request: str, token: str) -> Wording:
    """Return the single wording of the undiversified task."""
    plain = f"{request.strip()}\n\n{QUERY_SLOT}"
    named = f"{request.strip()} Reply in the {token} format.\n\n{QUERY_SLOT}"
    return Wording(named, kind="common", plain=plain)


def check_token_is_new(task: Task) -> None:
    """Check that the token does not occur in the data as text.

    Raises:
        TokenError: A row, the instruction or the description contains the token, or the token is
            empty or has spaces.
    """
    token = task.token
    if not token or token != token.strip() or len(token.split()) != 1 or QUERY_SLOT in token:
        raise TokenError(f"token {token!r} is empty or has spaces: give one such as <sep>")
    other = f"choose another one (--token), such as <sep:{task.name.split('-')[0] or 'task'}>"
    for what, text in (("instruction", task.instruction), ("description", task.description)):
        if token in text:
            raise TokenError(f"the {what} holds {token} already, as text: {other}")
    rows = (*task.train, *task.test)
    having = [i for i, row in enumerate(rows) if any(token in m.content for m in row.messages)]
    if having:
        named = ", ".join(f"row {i}" for i in having[:_NAMED])
        raise TokenError(
            f"{len(having):,} of {len(rows):,} rows hold {token} already, as text ({named}): "
            f"{other}"
        )


def _keys_of(answers: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of the answers if all are objects with the same keys; else none."""
    keys: tuple[str, ...] | None = None
    for answer in answers:
        value = json_object(answer)
        if value is None or (keys is not None and set(value) != set(keys)):
            return ()
        keys = keys or tuple(value)
    return keys or ()


def _describe_format(answers: Sequence[str], keys: Sequence[str]) -> str:
    """Return a description of the answers' format.

    Raises:
        InputError: The answers are free text.
    """
    labels = labels_of(answers)
    if keys:
        several = f"the keys {_and(keys)}" if len(keys) > 1 else f"the key {keys[0]}"
        values = f", whose values are {_and(labels, 'or')}" if labels and len(keys) == 1 else ""
        return f"a JSON object with {several}{values}"
    if labels:
        return f"one of {_and(labels, 'or')}, and nothing else"
    raise InputError(
        "the answers are free text, which does not tell what the token stands for: "
        'say it (--stands-for), such as "three bullet points"'
    )


def _and(words: Sequence[str], last: str = "and") -> str:
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """The way to read a row: templates or a row format, and the place of the instruction."""

    query: Template | None
    answer: Template | None
    column: str | None
    last_paragraph: bool

    def read_all(self, source: Source) -> tuple[tuple[Record, ...], list[str | None]]:
        """Return all records without their instructions, and the instruction of each, if any."""
        rows = [row for _, row in source.map(lambda row: self._read(source, row))]
        return tuple(record for record, _ in rows), [instruction for _, instruction in rows]

    def _read(self, source: Source, row: Any) -> tuple[Record, str | None]:
        if isinstance(row, Record):
            return split_last_paragraph(row) if self.last_paragraph else (row, None)
        if not isinstance(row, Mapping):
            raise FormatError(f"the row is a {type(row).__name__}: give mappings or records")
        if self.column is not None and self.column not in row:
            columns = ", ".join(map(str, row)) or "none"
            raise FormatError(f"the row has no column {self.column!r}: it has {columns}")
        record, instruction = self._record(source, row)
        if self.last_paragraph:
            return split_last_paragraph(record)
        if self.column is not None:
            value = row[self.column]
            instruction = None if value is None else read_text(value, self.column)
        return record, instruction

    def _record(self, source: Source, row: Mapping[str, Any]) -> tuple[Record, str | None]:
        if self.query is not None and self.answer is not None:
            used = {*self.query.columns, *self.answer.columns, self.column or ""}
            system = source.system_turn(row, used)
            pair = Record.pair(self.query.fill(row), self.answer.fill(row))
            return Record((*system, *pair.messages)), None
        if self.column in MEANINGFUL:
            row = {name: value for name, value in row.items() if name != self.column}
        record = source.record(row, used=(self.column or "",))
        if (source.format or detect_format(row)) == "alpaca":
            given, instruction = alpaca_input(row.get("input")), row["instruction"]
            if given:
                return with_query(record, given), instruction
        return record, None


def read_task(
    given: Pairs,
    *,
    name: str | None = None,
    query: str | None = None,
    answer: str | None = None,
    format: Format | None = None,
    instruction: str | None = None,
    instruction_column: str | None = None,
    last_paragraph: bool = False,
    stands_for: str | None = None,
    request: str = "",
    meanings: Sequence[str] = (),
    keys: Sequence[str] | None = None,
    keywords: Sequence[str] = (),
    scoring: Scoring | None = None,
    token: str = DEFAULT_TOKEN,
    forbidden: Sequence[str] = (),
    test: Pairs | None = None,
    test_share: float = 0.0,
    rows: int | None = None,
    seed: int = 0,
) -> Task:
    """Read a task from a file, a glob, a folder, a Hub id, a dataset, or rows in memory.

    Args:
        given: The rows, in any of the row formats, or with columns that templates name.
        name: Name of the task. Default: the name of the file.
        query: Template of the query, such as `"{question}"`; needs `answer`.
        answer: Template of the answer, such as `"{label}"`; needs `query`.
        format: Row format. Default: detected from the columns.
        instruction: The instruction in one plain phrasing. Alpaca rows with an `input` have their
            own.
        instruction_column: Column that holds the instruction.
        last_paragraph: Whether the last paragraph of each query is the instruction.
        stands_for: Format that the token stands for, in words. Default: derived from answers that
            are JSON objects or labels.
        request: The instruction without the format. Default: its sentences without format words.
        meanings: More plain phrasings of the request.
        keys: Keys of the answer's object. Default: those of the answers.
        keywords: Words near which the token's representation is expected to move.
        scoring: How an answer is scored. Default: `json` for objects, else `exact`.
        token: The special token, such as `<sep:table>`.
        forbidden: Words that no wording may use, in addition to those of the format.
        test: Held-out rows, read in the same way.
        test_share: Share of the rows to hold out, selected by keyed hash.
        rows: Maximum number of training rows, selected by keyed hash.
        seed: Seed of the selections.

    Raises:
        InputError: An argument is missing, empty, or contradicts another.
        FormatError: Rows have no query or no answer; the message counts them and names three.
        TokenError: The token occurs in the data.
    """
    if (query is None) != (answer is None):
        raise InputError("a query and an answer template belong together: give both or neither")
    ways = [instruction is not None, instruction_column is not None, last_paragraph]
    if sum(ways) > 1:
        raise InputError(
            "the instruction is given, in a column, or the last paragraph: give one of these"
        )
    if test is not None and test_share:
        raise InputError("give rows to test on, or a share to hold out, not both")
    splits, held_out = open_splits(given, purpose="task", format=format), None
    if test is not None:
        others = open_splits(test, purpose="task", format=format)
        held_out = choose_split(test, others, "test" if "test" in others else "train")
    elif not test_share:
        held_out = splits.get("test")
    named = ["test"] if held_out is splits.get("test") else []
    source = choose_split(given, splits, "train", *named)
    reader = _Reader(
        query=None if query is None else Template(query, "query"),
        answer=None if answer is None else Template(answer, "answer"),
        column=instruction_column,
        last_paragraph=last_paragraph,
    )
    train, instructions = reader.read_all(source)
    held = () if held_out is None else reader.read_all(held_out)[0]
    report = source.report if held_out is None else source.report.add(held_out.report)
    where = f"column {instruction_column!r}" if instruction_column else "the rows"
    if instruction is None and any(instructions):
        instruction = one_instruction(instructions, where)
    if held_out is None:
        train, held = hold_out(train, test_share, seed)
    task = make_task(
        name=name or _name_of(given),
        train=limit(train, rows, seed),
        test=held,
        instruction=instruction,
        stands_for=stands_for,
        request=request,
        meanings=meanings,
        keys=keys,
        keywords=keywords,
        scoring=scoring,
        token=token,
        forbidden=forbidden,
    )
    return replace(task, read=report.details())


def _name_of(given: Any) -> str:
    if isinstance(given, str | Path):
        return Path(given).stem or Path(given).name
    return "task"
