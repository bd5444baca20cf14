"""A user's task, from rows in whatever form they have.

rows ──▶ query and answer ──▶ instruction ──▶ what the token stands for ──▶ splits ──▶ Task
         by format or          given, in a     given, or told by the
         by template           column, or the  answers where they tell
                               last paragraph
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delia_data.errors import FormatError, InputError
from delia_data.mixing.sources import Pairs, rows_of
from delia_data.records import Format, Record, detect_format, read_record
from delia_data.tasks.instruction import one_instruction, split_last_paragraph, with_query
from delia_data.tasks.making import make_task
from delia_data.tasks.scoring import Scoring
from delia_data.tasks.splits import hold_out, limit
from delia_data.tasks.task import Task
from delia_data.tasks.template import Template
from delia_data.tokens import DEFAULT_TOKEN

_NAMED: Final = 3  # rows that an error names


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """How a row is read."""

    query: Template | None
    answer: Template | None
    format: Format | None
    column: str | None
    last_paragraph: bool

    def read(self, row: Any) -> tuple[Record, str | None]:
        """The row's record, without its instruction; and the instruction, where it has one."""
        if isinstance(row, Record):
            return split_last_paragraph(row) if self.last_paragraph else (row, None)
        if not isinstance(row, Mapping):
            raise FormatError(f"the row is a {type(row).__name__}: give mappings or records")
        if self.column is not None and self.column not in row:
            known = ", ".join(map(str, row)) or "none"
            raise FormatError(f"the row has no column {self.column!r}: it has {known}")
        record, instruction = self._record(row)
        if self.last_paragraph:
            return split_last_paragraph(record)
        if self.column is not None:
            instruction = str(row[self.column] or "")
        return record, instruction

    def _record(self, row: Mapping[str, Any]) -> tuple[Record, str | None]:
        if self.query is not None and self.answer is not None:
            return Record.pair(self.query.fill(row), self.answer.fill(row)), None
        record = read_record(row, self.format)
        given = row.get("input")
        if (self.format or detect_format(row)) == "alpaca" and isinstance(given, str) and given:
            return with_query(record, given), str(row["instruction"])
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
        name: The task's name; by default the file's.
        query: Template of the query, such as `"{question}"`; with `answer`.
        answer: Template of the answer, such as `"{label}"`.
        format: The rows' format; told by their columns where it is not given.
        instruction: The instruction, in one plain phrasing.
        instruction_column: Or the column that holds it.
        last_paragraph: Or whether it is the last paragraph of each query. Rows of Alpaca that
            have an `input` bring theirs.
        stands_for: What the token stands for: the form of the answer, in words. Where answers
            are JSON objects or a few labels, they tell it.
        request: The instruction without what it says of the format; by default its sentences
            that do not speak of it.
        meanings: More plain phrasings of the request.
        keys: Keys of the answer's object; told by the answers.
        keywords: Words near which the token's representation is expected to move.
        scoring: How an answer is scored; by default `json` for objects, else `exact`.
        token: The special token, a task's own such as `<sep:table>`.
        forbidden: Words that no wording may use, beside those of the format.
        test: Held-out rows, read in the same way.
        test_share: Or the share of the rows that is held out, by keyed hash.
        rows: Rows to take at most, of those that are trained on; by keyed hash.
        seed: Seed of these.

    Raises:
        InputError: Something is missing, empty, or does not fit.
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
    if test is None and not test_share and isinstance(given, Mapping) and "test" in given:
        test = given["test"]
    if test is not None and test_share:
        raise InputError("give rows to test on, or a share to hold out, not both")
    reader = _Reader(
        query=None if query is None else Template(query, "query"),
        answer=None if answer is None else Template(answer, "answer"),
        format=format,
        column=instruction_column,
        last_paragraph=last_paragraph,
    )
    train, told = _read(given, reader, "train")
    held, _ = ((), None) if test is None else _read(test, reader, "test")
    where = f"column {instruction_column!r}" if instruction_column else "the rows"
    if instruction is None and any(told):
        instruction = one_instruction(told, where)
    if test is None:
        train, held = hold_out(train, test_share, seed)
    return make_task(
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


def _read(given: Any, reader: _Reader, split: str) -> tuple[tuple[Record, ...], list[str | None]]:
    """All rows; those that cannot be read are counted, and the first ones named."""
    if isinstance(given, Mapping):
        if split not in given:
            known = ", ".join(map(str, given)) or "none"
            raise InputError(f"the splits are {known}: give one of them as rows")
        given = given[split]
    records: list[Record] = []
    told: list[str | None] = []
    wrong: list[str] = []
    count = 0
    rows: Iterable[tuple[str, Any]] = rows_of(given, split=split)
    for where, row in rows:
        count += 1
        try:
            record, instruction = reader.read(row)
        except FormatError as error:
            wrong.append(f"{where}: {error}" if len(wrong) < _NAMED else "")
            continue
        records.append(record)
        told.append(instruction)
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        raise FormatError(
            f"{len(wrong):,} of {count:,} rows cannot be used: {'; '.join(wrong[:_NAMED])}{more}"
        )
    return tuple(records), told


def _name_of(given: Any) -> str:
    if isinstance(given, str | Path):
        return Path(given).stem or Path(given).name
    return "task"
