"""Queries grown from a few: self-instruct, with any model that chats.

    six of the seeds, two of those that were grown ──▶ "write eight more" ──▶ a numbered list
              ▲                                                                    │
              └──────── taken, where new and askable (next rounds show them) ◀─────┘

As published (arXiv 2212.10560, section 2.2): eight queries are shown, and one is taken where
ROUGE-L with every query taken before is below 0.7. What is shown in a round follows from the seed
and from what was taken in the rounds before it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from delia_data.engines.base import Engine, Request, Sampling
from delia_data.errors import InputError
from delia_data.outputs import canonical_json
from delia_data.ranking import rank, row_seed
from delia_data.records import Message, content_id
from delia_data.sampling.queries import Query
from delia_data.sampling.query_checks import MAX_WORDS
from delia_data.sampling.written_queries import WrittenQueries
from delia_data.tokens import DEFAULT_TOKEN

EXPAND_SAMPLING: Final = Sampling(temperature=0.8, top_p=0.95, max_tokens=256)
"""How lists of queries are drawn."""

PROMPT: Final = """Here are {shown} requests that people make of an assistant:

{list}

Write {wanted} more requests. Each is about something else and asks for another kind of answer. \
Give a numbered list of requests, and nothing else."""
"""What the model is asked."""

_SHOWN: Final = 8
_GROWN: Final = 2  # of those shown, once there are as many
_WANTED: Final = 8
_TOGETHER: Final = 32
_ITEM: Final = re.compile(r"^\s*(?:\W{0,2}\d{1,2}\s*[.):]|[-*•])\s*(?:\(\d{1,2}\))?(.*)", re.M)
_AROUND: Final = ' \t\n*_"“”'


def expanded_queries(
    engine: Engine,
    seeds: Iterable[Query],
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    sampling: Sampling = EXPAND_SAMPLING,
    token: str = DEFAULT_TOKEN,
    english: bool = True,
    limit: int | None = None,
) -> WrittenQueries:
    """Queries that a model grows from seeds; the seeds come first.

    Args:
        engine: What writes; any that answers.
        seeds: Queries to begin with; they are held in memory.
        folder: Where texts are kept; a folder of their own.
        seed: Seed of what is shown and of the draws.
        sampling: How lists are drawn.
        token: The special token, which no query may name.
        english: Take English queries alone.
        limit: Queries that are written at most; more can be had later, after the same ones.

    Raises:
        InputError: There are no seeds, or the limit is below 1.
    """
    known = tuple({query.text: query for query in seeds}.values())
    if not known:
        raise InputError("there are no seeds to grow queries from: give at least one")
    author = _Instructor(seed, known)
    return WrittenQueries(
        engine, author, folder, sampling=sampling, token=token, english=english, limit=limit
    )


@dataclass(frozen=True)
class _Instructor:
    """The author that shows queries and asks for others."""

    seed: int
    first: tuple[Query, ...]
    kind: str = "expanded"
    together: int = _TOGETHER
    rounds_ahead: int = 1

    def describe(self) -> dict[str, Any]:
        seeds = [[query.text, query.reference] for query in self.first]
        return {
            "source": "expand",
            "seed": self.seed,
            "seeds": hashlib.sha256(canonical_json(seeds)).hexdigest(),
            "prompt": PROMPT,
        }

    def request(self, number: int, taken: Sequence[Query]) -> Request:
        grown = self._some(taken[len(self.first) :], _GROWN, f"{number}:grown")
        given = self._some(self.first, _SHOWN - len(grown), f"{number}:seeds")
        shown = [" ".join(query.text.split()) for query in (*given, *grown)]
        lines = "\n".join(f"{place}. {text}" for place, text in enumerate(shown, 1))
        prompt = PROMPT.format(shown=len(shown), list=lines, wanted=_WANTED)
        row_id = content_id([Message("user", f"expand:{number}")])
        seed = row_seed(self.seed, row_id, "query")
        return Request(row_id, (Message("user", prompt),), seed)

    def texts(self, number: int, text: str) -> list[str]:
        """The items of a list, each a line as it was shown; whatever is said around it goes."""
        items = [item.strip(_AROUND) for item in _ITEM.findall(text)]
        return [item for item in items if item]

    def _some(self, queries: Sequence[Query], count: int, purpose: str) -> list[Query]:
        """Different queries out of many, drawn by their places; short ones where there are any."""
        picked: dict[int, Query] = {}
        for draw in range(4 * count):
            if not queries or len(picked) == min(count, len(queries)):
                break
            place = rank(self.seed, str(draw), purpose) % len(queries)
            if len(queries[place].text.split()) <= MAX_WORDS or draw > 2 * count:
                picked[place] = queries[place]
        return list(picked.values())
