"""Queries: the bundled ones, and those of files, datasets and lists.

The bundled queries are short, plain requests on as many subjects as possible. Their purpose is
breadth; none is meant to be hard. They are tables and templates in `data/queries.yaml`, whose head
explains the format, and are expanded here:

    "Describe {animal} {manner}."  x  "an owl"  x  "like a poet"
                              |
               "Describe an owl like a poet."

Every kind uses its templates in turn until it has its share of queries. A template gets the next
entry of each table it names, in an order that follows from a hash. No entry repeats before all
entries were used, so all are used about equally often.

A row in any format is a query too (`read_query`):

    messages, conversations     the user's first turn
    query, question, prompt     the text as it is; a prompt may hold turns too
    instruction, input          both, with an empty line between them

Later turns build on answers that another model gave, so they are left out. A system turn, or the
column `system`, is the system prompt of that query, and becomes a turn of its pair.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import yaml

from delia_data.errors import FormatError, InputError, UnsupportedRowError
from delia_data.outputs import canonical_json
from delia_data.ranking import rank
from delia_data.reading import Problems, open_source
from delia_data.records import (
    MEANINGFUL,
    Losses,
    Message,
    Record,
    check_supported,
    is_blank,
    join_input,
    read_history,
    read_text,
    read_turns,
    system_turn,
)
from delia_data.sampling.budget import Budget

if TYPE_CHECKING:
    import os

    import datasets
    import pyarrow as pa

# One entry of a table: its columns. Most tables have a single one.
_Entry = tuple[str, ...]
_Streams = Mapping[str, Iterator[_Entry]]  # by table, without end

_PER_KIND = 420  # queries that a kind gives, if it has as many
_PER_TEMPLATE = 60  # queries that a template gives at most
_TURNS = 4 * _PER_TEMPLATE  # draws after which a template has nothing new to say

_SLOT = re.compile(r"\{([^{}]+)\}")
_REFERENCE = re.compile(r"(?P<name>(?P<table>[a-z_]+)\d*)(?:\[(?P<column>\d)\])?")


@dataclass(frozen=True)
class Query:
    """One request to a chat model.

    Attributes:
        text: The request, as the content of the user's turn.
        kind: Kind of request, such as `"explain"`, `"compute"` or `"translate"`.
        reference: Known answer, if any; only prompts with an exemplar need it.
        system: System prompt of this query, if any. It takes precedence over the run's.
    """

    text: str
    kind: str
    reference: str | None = None
    system: str | None = None


class Queries(Protocol):
    """Source of queries that can be iterated repeatedly, always in the same order."""

    def describe(self) -> dict[str, Any]:
        """Return the entry for a manifest: everything that texts and order depend on.

        It contains no paths, and no number of queries if more can be generated.
        """
        ...

    def __iter__(self) -> Iterator[Query]:
        """Yield the queries from the first one on, without reading all of them first."""
        ...


@runtime_checkable
class GrowableQueries(Queries, Protocol):
    """Queries of which more can be generated; they follow the existing ones."""

    def __len__(self) -> int:
        """Return the number of existing queries."""
        ...

    @property
    def spent(self) -> tuple[int, float]:
        """Tokens and dollars spent on the queries so far."""
        ...

    @property
    def dropped(self) -> dict[str, int]:
        """Number of texts that were rejected as queries, by reason."""
        ...

    def ensure(self, count: int, *, budget: Budget | None = None) -> int:
        """Generate until there are `count` queries; return the number of queries."""
        ...


QuerySource: TypeAlias = (
    "str | os.PathLike[str] | Queries | Sequence[Query | Record | str | Mapping[str, Any]] "
    "| pa.Table | datasets.Dataset"
)
"""Source of queries; `load_queries` opens it."""


class BundledQueries:
    """The bundled queries as `Queries`."""

    def __init__(self, seed: int = 0) -> None:
        """Choose an order.

        Args:
            seed: Seed of the order.
        """
        self._seed = seed

    def describe(self) -> dict[str, Any]:
        """Return the seed, and a hash of all texts because a later version may change them."""
        texts = sorted(query.text for query in _expansion())
        digest = hashlib.sha256(canonical_json(texts)).hexdigest()
        return {"source": "bundled", "seed": self._seed, "sha256": digest}

    def __iter__(self) -> Iterator[Query]:
        """Yield all queries in the order of the seed."""
        return iter(bundled_queries(seed=self._seed))


def bundled_queries(limit: int | None = None, *, seed: int = 0) -> list[Query]:
    """Return the queries that come with the package, in an order that depends on the seed.

    A longer list begins with the shorter one of the same seed. No two queries have the same text
    after ignoring case and whitespace. Every kind has about the same share.

    Args:
        limit: Maximum number of queries; all of them, about 11,000, if None.
        seed: Seed of the order.

    Raises:
        InputError: If `limit` is negative.
    """
    if limit is not None and limit < 0:
        raise InputError(
            f"limit={limit} is negative: give a number of queries, or None for all of them"
        )
    return sorted(_expansion(), key=lambda query: (rank(seed, query.text), query.text))[:limit]


def bundled_topics() -> list[str]:
    """Return the topics of the bundled queries, each fit for "about {topic}": about 570."""
    return [topic for (topic,) in _tables(_source())["topic"]]


@cache
def _expansion() -> tuple[Query, ...]:
    """Return all queries, kind by kind, without duplicates."""
    source = _source()
    streams = {name: _endless(name, entries) for name, entries in _tables(source).items()}
    queries: dict[str, Query] = {}
    for kind, block in source["kinds"].items():
        for text in _take_turns([_fill(line, streams) for line in block.splitlines()]):
            queries.setdefault(_folded(text), Query(text, kind))
    return tuple(queries.values())


def _source() -> dict[str, Any]:
    """Return the content of the YAML file."""
    text = files("delia_data.sampling").joinpath("data/queries.yaml").read_text("utf-8")
    source: dict[str, Any] = yaml.safe_load(text)
    return source


def _tables(source: Mapping[str, Any]) -> dict[str, list[_Entry]]:
    """Return everything that a slot can name: tables, domains, groups, ranges, `topic`."""
    blocks = {**source["domains"], **source["tables"]}
    tables = {
        name: [tuple(line.split(" | ")) for line in block.splitlines()]
        for name, block in blocks.items()
    }
    groups = {**source["groups"], "topic": list(source["domains"])}
    for name, domains in groups.items():
        tables[name] = [entry for domain in domains for entry in tables[domain]]
    for name, (first, last, step) in source["ranges"].items():
        tables[name] = [(str(number),) for number in range(first, last + 1, step)]
    return tables


def _take_turns(sources: list[Iterator[str]]) -> list[str]:
    """Return one text of every source in turn, without repeats, until the kind has its share."""
    taken: dict[str, str] = {}
    while sources and len(taken) < _PER_KIND:
        for source in list(sources):
            text = next(source, None)
            if text is None:
                sources.remove(source)
            else:
                taken.setdefault(_folded(text), text)
    return list(taken.values())[:_PER_KIND]


def _endless(name: str, entries: Sequence[_Entry]) -> Iterator[_Entry]:
    """Yield all entries in one order, then in another, endlessly."""
    for lap in itertools.count():
        yield from sorted(
            entries, key=lambda entry: (rank(0, "\0".join(entry), f"{name}\0{lap}"), entry)
        )


def _fill(template: str, streams: _Streams) -> Iterator[str]:
    """Yield distinct texts of a template, at most `_PER_TEMPLATE`."""
    references = [match for slot in _SLOT.findall(template) for match in _REFERENCE.finditer(slot)]
    slots = {match["name"]: match["table"] for match in references}
    seen: set[str] = set()
    for _ in range(_TURNS):
        drawn = {name: next(streams[table]) for name, table in slots.items()}
        if len({(slots[name], entry) for name, entry in drawn.items()}) < len(slots):
            continue  # {name} and {name2} came out the same
        text = _written(template, drawn)
        if text not in seen:
            seen.add(text)
            yield text
        if len(seen) == _PER_TEMPLATE:
            return


def _written(template: str, drawn: Mapping[str, _Entry]) -> str:
    """Fill the slots of a template; capitalize a slot at the beginning."""
    text = _SLOT.sub(lambda match: _value(match[1], drawn), template).replace("\\n", "\n")
    return text[0].upper() + text[1:] if template.startswith("{") else text


def _value(slot: str, drawn: Mapping[str, _Entry]) -> str:
    """Return the value of a slot: a column of an entry, or a sum of products."""
    if "+" not in slot and "*" not in slot:
        return _column(slot, drawn)
    terms = (
        math.prod(int(_column(factor, drawn)) for factor in term.split("*"))
        for term in slot.split("+")
    )
    return str(sum(terms))


def _column(reference: str, drawn: Mapping[str, _Entry]) -> str:
    """Return one column of a drawn entry, the first by default, or a literal number."""
    if reference.isdecimal():
        return reference
    match = _REFERENCE.fullmatch(reference)
    assert match is not None, f"the slot {reference!r} is not written as a slot"
    return drawn[match["name"]][int(match["column"] or 0)]


def _folded(text: str) -> str:
    """Return the text in lower case with single spaces, to find equal ones."""
    return " ".join(text.casefold().split())


class QueryList:
    """A sequence of `Query` objects as `Queries`."""

    def __init__(self, queries: Sequence[Query]) -> None:
        """Check and store the queries.

        Raises:
            InputError: There are no queries, or one is empty.
        """
        if not queries:
            raise InputError("there are no queries: give at least one")
        if any(not query.text.strip() for query in queries):
            raise InputError("a query is empty: give it a text or remove it")
        self._queries = tuple(queries)

    def describe(self) -> dict[str, Any]:
        """Return a hash of all texts and references in order."""
        texts = canonical_json([_parts(query) for query in self._queries])
        return {"source": "list", "sha256": hashlib.sha256(texts).hexdigest()}

    def __iter__(self) -> Iterator[Query]:
        """Yield the queries in order."""
        return iter(self._queries)


_COLUMNS: Final = ("query", "question", "messages", "conversations", "prompt", "instruction")
_KIND: Final = "user"  # of rows without the column `kind`
_ANSWERERS: Final = ("assistant", "gpt")
_ANSWERS: Final = ("reference", "output", "completion", "answer", "response")
_KNOWN: Final = MEANINGFUL | {*_COLUMNS, *_ANSWERS, "kind", "input", "history"}


def read_query(row: Any) -> Query:
    """Read the query of one row.

    Args:
        row: A mapping in one of the row formats, or with a column `query` or `question`; or a
            `Record`, a `Query`, or a text. Its reference is the answer to the user's first turn;
            or, without turns, the first of the columns `reference`, `output`, `completion`,
            `answer` and `response` that is not empty. Answers labeled as bad do not count.

    Raises:
        UnsupportedRowError: The row has tools, images or audio.
        FormatError: The row has no query.
    """
    if isinstance(row, Query):
        query = row
    elif isinstance(row, str):
        query = Query(row, _KIND)
    elif isinstance(row, Record):
        query = _first_of(row.messages, _KIND)
    elif isinstance(row, Mapping):
        check_supported(row, answers=False)
        query = _first_of(_turns_of(row), str(row.get("kind") or _KIND))
    else:
        raise FormatError(f"it is a {type(row).__name__}: give mappings or texts")
    if is_blank(query.text):
        raise FormatError("the query is empty")
    return query


def _turns_of(row: Mapping[str, Any]) -> list[Message]:
    """Return the turns of a row; they need not end with an answer."""
    column = next((name for name in _COLUMNS if row.get(name) is not None), None)
    if column is None:
        columns = ", ".join(map(str, row)) or "none"
        raise FormatError(f"its columns ({columns}) are none of {', '.join(_COLUMNS)}")
    value = row[column].tolist() if hasattr(row[column], "tolist") else row[column]
    if isinstance(value, list | tuple) and column in ("messages", "conversations", "prompt"):
        turns = read_turns([turn for turn in value if not _is_unanswered(turn)], column)
        if column == "prompt":
            turns += _answer_of(row)
    else:
        if column in ("messages", "conversations"):
            read_turns(value, column)  # which says what is wrong with it
        query = read_text(value, column)
        given = row.get("input") if column == "instruction" else None
        turns = [
            *(
                Message(role, text)  # type: ignore[arg-type]
                for pair in read_history(row.get("history"))
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ),
            Message("user", join_input(query, given)),
            *_answer_of(row),
        ]
    try:
        check_supported(row)
    except UnsupportedRowError:
        turns = [turn for turn in turns if turn.role != "assistant"]
    return [*system_turn(row, turns), *turns]


def _is_unanswered(turn: Any) -> bool:
    """Return whether a turn is the assistant's, and empty or a bad answer."""
    if not isinstance(turn, Mapping) or (turn.get("role") or turn.get("from")) not in _ANSWERERS:
        return False
    check_supported(turn, answers=False)
    try:
        check_supported(turn)
    except UnsupportedRowError:
        return True
    return not (turn.get("content") or turn.get("value"))


def _answer_of(row: Mapping[str, Any]) -> Sequence[Message]:
    """Return the first answer that is not empty as a turn; numbers as text."""
    for name in _ANSWERS:
        value = row.get(name)
        if isinstance(value, int | float):
            return [Message("assistant", str(value))]
        if isinstance(value, str) and not is_blank(value):
            return [Message("assistant", value)]
        if isinstance(value, list | tuple) and value and name == "completion":
            return read_turns(value, name)
    return []


def _first_of(turns: Sequence[Message], kind: str) -> Query:
    """Return the user's first turn, with the system turn before it and the answer to it."""
    place = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if place is None:
        raise FormatError("the row has no question: one turn must be the user's")
    system = [turn.content for turn in turns[:place] if turn.role == "system"]
    answer = next(iter(turns[place + 1 :]), None)
    answered = answer is not None and answer.role == "assistant" and not is_blank(answer.content)
    return Query(
        turns[place].content,
        kind,
        answer.content if answer is not None and answered else None,
        "\n\n".join(system) or None,
    )


class _Summary(NamedTuple):
    rows: int
    referenced: int
    sha256: str
    read: dict[str, Any]


class FileQueries:
    """Queries of any input that `open_source` reads, as `Queries`.

    The first use reads all rows once, finds the rows without a query, and hashes the others. Rows
    are read one by one, so a million queries need no more memory than one.
    """

    def __init__(self, given: Any) -> None:
        """Open an input.

        Args:
            given: A file, glob, folder, Hub id, dataset, table, or list. Rows are mappings in any
                row format, `Record` or `Query` objects, or texts.

        Raises:
            InputError: The input does not exist, or can be read only once.
        """
        if isinstance(given, Iterator):
            raise InputError("an iterator can be read only once: give a list, a dataset or a path")
        self._source = open_source(given, purpose="queries")

    @property
    def rows(self) -> int:
        """Number of queries."""
        return self._summary.rows

    @property
    def read(self) -> dict[str, Any]:
        """Losses of reading for a manifest: ignored columns, skipped files."""
        return self._summary.read

    @property
    def referenced(self) -> int:
        """Number of queries with a reference answer, which prompts with an exemplar need."""
        return self._summary.referenced

    def describe(self) -> dict[str, Any]:
        """Return the number of queries and a hash of texts and references in order.

        Raises:
            InputError: The input is empty, cannot be read, or has rows without a query; the
                message counts them and names the first three.
        """
        return {"source": "rows", "rows": self.rows, "sha256": self._summary.sha256}

    def __iter__(self) -> Iterator[Query]:
        """Yield the queries in the order of the rows.

        Raises:
            InputError: As `describe`; or the rows have changed since.
        """
        before = self._summary.sha256
        digest = hashlib.sha256()
        for where, row in self._source.rows():
            try:
                query = read_query(row)
            except FormatError as error:
                raise InputError(f"{where} changed while it was read: {error}") from error
            _update(digest, query)
            yield query
        if digest.hexdigest() != before:
            raise InputError("the queries changed while they were read: run again")

    @cached_property
    def _summary(self) -> _Summary:
        """Read all rows."""
        digest = hashlib.sha256()
        problems, lost = Problems(), Losses()
        rows = referenced = 0
        for where, row in self._source.rows():
            rows += 1
            try:
                query = read_query(row)
            except FormatError as error:
                problems.add(where, error)
                continue
            referenced += query.reference is not None
            if isinstance(row, Mapping) and not row.keys() <= _KNOWN:
                lost.ignore(row, _KNOWN)
            _update(digest, query)
        problems.raise_if_any(rows)
        if not rows:
            raise InputError("there are no queries: give at least one")
        self._source.report.ignored |= lost.ignored
        return _Summary(rows, referenced, digest.hexdigest(), self._source.report.details())


def _update(digest: Any, query: Query) -> None:
    digest.update(canonical_json(_parts(query)) + b"\n")


def _parts(query: Query) -> list[str | None]:
    """Return what identifies a query; without a system prompt as in version 0.1.0."""
    return [query.text, query.reference, *([query.system] if query.system else [])]
