"""The bundled queries: short, plain requests on as many matters as possible.

A chat model answers them in its own words, and those answers are the diverse data of the
method. Breadth is what they are for; none is meant to be hard. They are written as tables and
templates in `data/queries.yaml`, whose head explains the format, and are expanded here:

    "Describe {animal} {manner}."  x  "an owl"  x  "like a poet"
                              |
               "Describe an owl like a poet."

Every kind takes its templates in turn until it has its share. Whatever a template needs from a
table is the next entry of that table, in an order that follows from a hash; no entry comes back
before all have had their turn, so that all are used, and about equally often.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

import yaml

from delia_data.errors import InputError
from delia_data.outputs import canonical_json
from delia_data.ranking import rank

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
    """One request to put to a chat model.

    Attributes:
        text: The request as the user's turn holds it; 3 to 60 words.
        kind: What is asked for, such as `"explain"`, `"compute"` or `"translate"`.
        reference: A known answer, where there is one; only asking with an exemplar needs it.
    """

    text: str
    kind: str
    reference: str | None = None


class Queries(Protocol):
    """Where queries come from: read again and again, always in the same order."""

    def describe(self) -> dict[str, Any]:
        """What a manifest says of them: all that their texts and order depend on.

        It holds no paths, and not how many there are where more can be had in the same order.
        """
        ...

    def __iter__(self) -> Iterator[Query]:
        """Give the queries from the first one on, without reading all of them first."""
        ...


class BundledQueries:
    """The queries that come with the package, as `Queries`."""

    def __init__(self, seed: int = 0) -> None:
        """Choose an order.

        Args:
            seed: Decides the order, and nothing else.
        """
        self._seed = seed

    def describe(self) -> dict[str, Any]:
        """The seed, and a hash of all texts, as a later version may have others."""
        texts = sorted(query.text for query in _expansion())
        digest = hashlib.sha256(canonical_json(texts)).hexdigest()
        return {"source": "bundled", "seed": self._seed, "sha256": digest}

    def __iter__(self) -> Iterator[Query]:
        """Give all of them in the seed's order."""
        return iter(bundled_queries(seed=self._seed))


def bundled_queries(limit: int | None = None, *, seed: int = 0) -> list[Query]:
    """Queries that come with the package, in an order of the seed's choosing.

    A longer list begins with the shorter one of the same seed; another seed gives the same
    queries in another order. No two have the same text, nor one that differs only in case and
    white space. Every kind has about the same share.

    Args:
        limit: How many to return, counted in queries; all, about 11,000, if `None` or if there
            are fewer.
        seed: Decides the order, and nothing else.

    Returns:
        The queries, a new list at every call.

    Raises:
        InputError: If `limit` is negative.
    """
    if limit is not None and limit < 0:
        raise InputError(
            f"limit={limit} is negative: give a number of queries, or None for all of them"
        )
    return sorted(_expansion(), key=lambda query: (rank(seed, query.text), query.text))[:limit]


def bundled_topics() -> list[str]:
    """The topics of the bundled queries, each fit for "about {topic}": about 570."""
    return [topic for (topic,) in _tables(_source())["topic"]]


@cache
def _expansion() -> tuple[Query, ...]:
    """All queries, kind by kind; the first of equal ones stays."""
    source = _source()
    streams = {name: _endless(name, entries) for name, entries in _tables(source).items()}
    queries: dict[str, Query] = {}
    for kind, block in source["kinds"].items():
        for text in _take_turns([_fill(line, streams) for line in block.splitlines()]):
            queries.setdefault(_folded(text), Query(text, kind))
    return tuple(queries.values())


def _source() -> dict[str, Any]:
    """The file as it is written."""
    text = files("delia_data.sampling").joinpath("data/queries.yaml").read_text("utf-8")
    source: dict[str, Any] = yaml.safe_load(text)
    return source


def _tables(source: Mapping[str, Any]) -> dict[str, list[_Entry]]:
    """Everything that a slot can name: tables, domains, groups of domains, ranges, `topic`."""
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
    """One text of every source in turn, without repeats, until the kind has its share."""
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
    """All entries in one order, then in another, and so on."""
    for lap in itertools.count():
        yield from sorted(
            entries, key=lambda entry: (rank(0, "\0".join(entry), f"{name}\0{lap}"), entry)
        )


def _fill(template: str, streams: _Streams) -> Iterator[str]:
    """Distinct texts of a template, at most `_PER_TEMPLATE`."""
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
    """The template with its slots filled, and a capital where a slot began it."""
    text = _SLOT.sub(lambda match: _value(match[1], drawn), template).replace("\\n", "\n")
    return text[0].upper() + text[1:] if template.startswith("{") else text


def _value(slot: str, drawn: Mapping[str, _Entry]) -> str:
    """What stands in for a slot: an entry's column, or the sum of products that it spells."""
    if "+" not in slot and "*" not in slot:
        return _column(slot, drawn)
    terms = (
        math.prod(int(_column(factor, drawn)) for factor in term.split("*"))
        for term in slot.split("+")
    )
    return str(sum(terms))


def _column(reference: str, drawn: Mapping[str, _Entry]) -> str:
    """One column of a drawn entry, the first unless said; a plain number stands for itself."""
    if reference.isdecimal():
        return reference
    match = _REFERENCE.fullmatch(reference)
    assert match is not None, f"the slot {reference!r} is not written as a slot"
    return drawn[match["name"]][int(match["column"] or 0)]


def _folded(text: str) -> str:
    """The text without its case and with single spaces, by which equal ones are found."""
    return " ".join(text.casefold().split())
