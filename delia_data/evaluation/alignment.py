"""How near the token has come to its keywords, beside controls that training never touched.

Paper, Table 1 and Figure 2, which give the L2 distance alone. Its size depends on the model's
hidden states, so that three more numbers are given for each block:

    relative   L2 over the median L2 between ordinary words in the same context and block
    cosine     1 - cosine similarity
    nearer     how many of the ordinary words are nearer to the token than the keyword is

Means and standard deviations are over the contexts. What a distance is worth shows beside the
same distance of a random ordinary word, and of a new token that was never trained. `aligning`
measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from delia_data.evaluation._plain import from_plain, to_plain

Measure = Literal["l2", "relative", "cosine"]


@dataclass(frozen=True, slots=True)
class Curve:
    """A number for each block, over the contexts.

    Attributes:
        mean: Its mean, of shape (blocks,).
        sd: Its standard deviation, of shape (blocks,); None where there is one context.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Band:
    """A number for each block, over several words; each word's is a mean over the contexts.

    Attributes:
        mean: Its mean, of shape (blocks,).
        low: The least, of shape (blocks,).
        high: The greatest, of shape (blocks,).
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances from one token to one keyword: L2, L2 over the ordinary median, and cosine."""

    l2: Curve
    relative: Curve
    cosine: Curve


@dataclass(frozen=True, slots=True)
class KeywordAlignment:
    """The token beside one keyword.

    Attributes:
        keyword: The word that it is compared with.
        token: The token's distances to it.
        untrained: Those of a new token before training, by how its row was made.
        ordinary: Those of random ordinary words, by the distance's name.
        nearer: Ordinary words that are nearer to the token, by L2, than the keyword is, of shape
            (blocks,).
    """

    keyword: str
    token: Distances
    untrained: Mapping[str, Distances]
    ordinary: Mapping[str, Band]
    nearer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An ordinary word near the token: mean L2 and cosine distance over the contexts."""

    word: str
    l2: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where the token stands in one model.

    Attributes:
        token: The token.
        contexts: The texts in which it was read.
        words: Ordinary words that were looked at: a sample of the vocabulary, not all of it.
        controls: The random ordinary words of the controls, the first of the sample.
        seed: Seed of the sample and of the random row.
        median: Median L2 between two ordinary words, its mean over the contexts, of shape
            (blocks,).
        keywords: The token beside each keyword.
        nearest: The nearest of the ordinary words, by L2, of shape (blocks, some).
    """

    token: str
    contexts: tuple[str, ...]
    words: int
    controls: tuple[str, ...]
    seed: int
    median: tuple[float, ...]
    keywords: tuple[KeywordAlignment, ...]
    nearest: tuple[tuple[Neighbour, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "the alignment") -> Alignment:
        """Make it of what `as_dict` gave.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_plain(cls, values, where)
