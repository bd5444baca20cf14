"""Queries that the model writes from nothing but its chat template: Magpie's way.

A chat model that is given its template up to where the user speaks goes on as a user would (arXiv
2406.08464). A large model's users ask about everything. A small one's ramble, so that its turn is
begun for it here: with a topic, and with a word that a request begins with.

    <|im_start|>user
    I'm curious about film cameras. How │ do they differ from digital ones?
    └────────── lead ────────────┘ start└────── what the model writes ────┘

Where what comes after the lead names the topic by itself, the lead is taken off again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from delia_data.engines.base import Engine, Request, Sampling
from delia_data.errors import InputError
from delia_data.outputs import canonical_json
from delia_data.ranking import rank, row_seed
from delia_data.records import Message, content_id
from delia_data.sampling.queries import Query, bundled_topics
from delia_data.sampling.words import words
from delia_data.sampling.written_queries import WrittenQueries
from delia_data.tokens import DEFAULT_TOKEN

SELF_SAMPLING: Final = Sampling(temperature=0.8, top_p=0.95, max_tokens=64)
"""How queries are drawn; decisions.md says why not at temperature 1."""

LEADS: Final = (
    "",
    "",
    "I have a question about {topic}.",
    "I have been thinking about {topic}.",
    "I know little about {topic}.",
    "I need some help with {topic}.",
    "I want to learn about {topic}.",
    "I'm curious about {topic}.",
    "I'm reading about {topic}.",
    "I'm writing something about {topic}.",
    "Let's talk about {topic}.",
    "My class is about {topic}.",
    "My friend told me about {topic}.",
    "Yesterday I heard about {topic}.",
)
"""How a topic is brought up; once in seven times there is none."""

STARTS: Final = (
    "Can you",
    "Compare the",
    "Could you",
    "Describe a",
    "Describe how",
    "Explain how",
    "Explain the",
    "Give me",
    "Help me",
    "How can I",
    "How do",
    "How would",
    "Is there",
    "List the",
    "Name some",
    "Suggest a",
    "Tell me",
    "What are",
    "What happens",
    "What is",
    "What would",
    "When should",
    "Which",
    "Why",
    "Write a",
)
"""Words that a request begins with; none that an ending makes another word of, as in "Listed"."""

_TOGETHER: Final = 32
_ROUNDS_AHEAD: Final = 128
_STEM: Final = 4  # letters by which a word of the topic is found again in another form


def self_queries(
    engine: Engine,
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    topics: Sequence[str] | None = None,
    starts: Sequence[str] = STARTS,
    sampling: Sampling = SELF_SAMPLING,
    token: str = DEFAULT_TOKEN,
    english: bool = True,
    limit: int | None = None,
) -> WrittenQueries:
    """Queries that the model itself writes, from its chat template alone.

    Query number `i` depends on the seed and on `i`, and on no other. A large model needs no help:
    `topics=(), starts=("",)` is Magpie as published.

    Args:
        engine: What writes; it must be able to speak for the user.
        folder: Where texts are kept; a folder of their own.
        seed: Seed of topics, words and draws.
        topics: What is asked about, each fit for "about {topic}"; the bundled ones if None, the
            model's own choice if empty.
        starts: Words that a request begins with.
        sampling: How texts are drawn.
        token: The special token, which no query may name.
        english: Take English queries alone.
        limit: Queries that are written at most; more can be had later, after the same ones.

    Raises:
        InputError: The engine cannot speak for the user, or there are no starts, or the limit is
            below 1.
    """
    if not engine.writes_users:
        raise InputError(
            f"engine {engine.describe().get('engine')!r} cannot write the user's turn: "
            "use transformers or vllm, or grow queries from a few seeds (--expand)"
        )
    if not starts:
        raise InputError('there are no starts: give at least one; "" leaves it to the model')
    known = tuple(bundled_topics() if topics is None else topics)
    author = _User(seed, known, tuple(starts))
    return WrittenQueries(
        engine, author, folder, sampling=sampling, token=token, english=english, limit=limit
    )


@dataclass(frozen=True)
class _User:
    """The author that begins the user's turn."""

    seed: int
    topics: tuple[str, ...]
    starts: tuple[str, ...]
    kind: str = "self"
    first: Sequence[Query] = ()
    together: int = _TOGETHER
    rounds_ahead: int = _ROUNDS_AHEAD
    leads: tuple[str, ...] = field(default=LEADS)

    def describe(self) -> dict[str, Any]:
        return {
            "source": "self",
            "seed": self.seed,
            "topics": hashlib.sha256(canonical_json(self.topics)).hexdigest(),
            "leads": list(self.leads),
            "starts": list(self.starts),
        }

    def request(self, number: int, taken: Sequence[Query]) -> Request:
        lead, start, _ = self._opening(number)
        row_id = content_id([Message("user", f"self:{number}")])
        seed = row_seed(self.seed, row_id, "query")
        prefill = f"{lead} {start}".strip()
        return Request(row_id, (), seed, role="user", prefill=prefill)

    def texts(self, number: int, text: str) -> list[str]:
        lead, _, topic = self._opening(number)
        rest = text.removeprefix(lead).strip()
        return [rest if _names(rest, topic) else text.strip()]

    def _opening(self, number: int) -> tuple[str, str, str]:
        """Lead, start and topic of a number; the lead may be empty."""
        start = self.starts[rank(self.seed, str(number), "start") % len(self.starts)]
        if not self.topics:
            return "", start, ""
        lap, place = divmod(number, len(self.topics))
        topic = _order_of(self.seed, self.topics, lap)[place]
        lead = self.leads[rank(self.seed, str(number), "lead") % len(self.leads)]
        return lead.format(topic=topic), start, topic


@cache
def _order_of(seed: int, topics: tuple[str, ...], lap: int) -> tuple[str, ...]:
    """The topics in the order of a lap; each has its turn in every lap."""
    return tuple(sorted(topics, key=lambda topic: rank(seed, topic, f"topics:{lap}")))


def _names(text: str, topic: str) -> bool:
    """Whether a text has a long word of the topic, in whatever form."""
    stems = {word[: max(_STEM, len(word) - 2)] for word in words(topic) if len(word) >= _STEM}
    return any(word.startswith(stem) for word in words(text) for stem in stems)
