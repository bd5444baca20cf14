"""Select wordings that differ most, and measure their spread next to synonym swaps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
import yaml

from delia_data.diversify.check import Embed, GateResult, bare_text
from delia_data.errors import InputError
from delia_data.ranking import rank
from delia_data.sampling.embeddings import Vectors
from delia_data.tasks import Task, Wording


def synonym_swaps(text: str, count: int, *, seed: int = 0) -> list[str]:
    """Return different texts in which words of a sentence are replaced by synonyms.

    Args:
        text: The sentence.
        count: Maximum number of texts.
        seed: Seed of the choice.
    """
    slots = _slots(text)
    total = 1
    for _, _, words in slots:
        total *= len(words)
    numbers = (
        sorted(range(total), key=lambda n: rank(seed, str(n), "synonyms"))[:count]
        if (total <= 100_000)
        else list(dict.fromkeys(rank(seed, str(n), "synonyms") % total for n in range(4 * count)))
    )
    return [_swapped(text, slots, number) for number in numbers[:count]]


def _slots(text: str) -> list[tuple[int, int, tuple[str, ...]]]:
    """Return begin and end of each word with synonyms, and the synonyms; none overlap."""
    found: list[tuple[int, int, tuple[str, ...]]] = []
    for group in _groups():
        pattern = r"(?<![{<])\b(?:" + "|".join(map(re.escape, group)) + r")\b"
        for match in re.finditer(pattern, text, re.I):
            if all(match.end() <= begin or match.start() >= end for begin, end, _ in found):
                found.append((match.start(), match.end(), group))
    return sorted(found)


def _swapped(text: str, slots: list[tuple[int, int, tuple[str, ...]]], number: int) -> str:
    parts, at = [], 0
    for begin, end, words in slots:
        number, place = divmod(number, len(words))
        word = words[place]
        parts += [text[at:begin], word.capitalize() if text[begin].isupper() else word]
        at = end
    return "".join([*parts, text[at:]])


@cache
def _groups() -> tuple[tuple[str, ...], ...]:
    data = files("delia_data.diversify") / "data" / "synonyms.yaml"
    return tuple(tuple(group) for group in yaml.safe_load(data.read_text(encoding="utf-8")))


_SHOWN: Final = 10  # eigenvalues in a manifest


@dataclass(frozen=True, slots=True)
class Spread:
    """The spread of texts.

    Attributes:
        texts: Number of texts.
        spectrum: Shares of the directions, the largest first; their sum is 1.
        effective_rank: Number of directions that the texts use, 1 to `texts`.
        mean_distance: Mean cosine distance of two texts, 0 to 2.
    """

    texts: int
    spectrum: tuple[float, ...]
    effective_rank: float
    mean_distance: float

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of a manifest."""
        return {
            "texts": self.texts,
            "effective_rank": round(self.effective_rank, 3),
            "mean_distance": round(self.mean_distance, 4),
            "spectrum": [round(share, 4) for share in self.spectrum[:_SHOWN]],
        }


def spread(vectors: Vectors) -> Spread:
    """Measure the spread of texts.

    Args:
        vectors: Their embeddings, of length 1; shape (texts, width).
    """
    count = len(vectors)
    if not count:
        return Spread(0, (), 0.0, 0.0)
    likeness = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    shares = np.clip(np.linalg.eigvalsh(likeness / count)[::-1], 0.0, None)
    shares = shares / shares.sum()
    positive = shares[shares > 0]
    rank = float(np.exp(-(positive * np.log(positive)).sum()))
    pairs = count * (count - 1)
    distance = float((pairs - (likeness.sum() - np.trace(likeness))) / pairs) if pairs else 0.0
    return Spread(count, tuple(float(share) for share in shares), rank, max(distance, 0.0))


def greedy_spread(vectors: Vectors, count: int) -> list[int]:
    """Choose texts one after another, each the one that raises the spread most.

    The measure is the effective rank of second order, `count² / sum of squared similarities`, which
    needs one product for each choice instead of eigenvalues.

    Args:
        vectors: Embeddings of length 1; shape (texts, width).
        count: Number of texts to choose; all if there are fewer.

    Returns:
        Positions of the chosen texts, in the order of the choice. Ties go to the first.
    """
    likeness = np.square(vectors.astype(np.float64) @ vectors.T.astype(np.float64))
    chosen: list[int] = []
    # The first is the one that is least like all others.
    added = likeness.sum(axis=1)
    while len(chosen) < min(count, len(vectors)):
        added[chosen] = np.inf
        best = int(np.argmin(added))
        added = likeness[:, best].copy() if not chosen else added + likeness[:, best]
        chosen.append(best)
    return chosen


@dataclass(frozen=True, slots=True)
class Anisotropy:
    """The spread of wordings, and that of one sentence with synonyms swapped in.

    Attributes:
        wordings: The spread of the wordings.
        synonyms: The spread of as many synonym swaps of the task's common wording.
    """

    wordings: Spread
    synonyms: Spread

    @property
    def gain(self) -> float:
        """Effective rank of the wordings divided by that of the synonym swaps."""
        return self.wordings.effective_rank / max(self.synonyms.effective_rank, 1.0)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of a manifest."""
        told = {"wordings": self.wordings.as_dict(), "synonyms": self.synonyms.as_dict()}
        return {**told, "gain": round(self.gain, 3)}


def measure(task: Task, wordings: Sequence[Wording], embed: Embed, *, seed: int = 0) -> Anisotropy:
    """Measure the spread of wordings, and that of a synonym-only baseline of the same number."""
    swaps = synonym_swaps(task.common_wording.text, len(wordings), seed=seed)
    return Anisotropy(
        wordings=spread(_embedded(task, [wording.text for wording in wordings], embed)),
        synonyms=spread(_embedded(task, swaps, embed)),
    )


def choose(task: Task, gates: GateResult, count: int, embed: Embed) -> GateResult:
    """Choose some of the accepted wordings, each the one that raises the spread most.

    The share of wordings for held-out rows stays the same.

    Args:
        task: The task.
        gates: The accepted and the rejected wordings.
        count: Number of wordings to choose.
        embed: Turns texts into vectors of length 1.

    Returns:
        The chosen wordings in their order; the others are rejected as `"not_chosen"`.

    Raises:
        InputError: Fewer wordings were accepted.
    """
    accepted = gates.accepted
    if count > len(accepted):
        complaint = gates.complaint()
        raise InputError(
            f"{len(accepted)} of {count} wordings pass the gates"
            f"{f'; {complaint}' if complaint else ''}: give more, or ask for fewer (--wordings)"
        )
    held = [i for i, wording in enumerate(accepted) if wording.split == "test"]
    trained = [i for i, wording in enumerate(accepted) if wording.split == "train"]
    aside = round(count * len(held) / len(accepted))
    if held and trained:
        aside = min(max(1, aside), count - 1) if count > 1 else 0
    kept: set[int] = set()
    for places, wanted in ((held, aside), (trained, count - aside)):
        vectors = _embedded(task, [accepted[i].text for i in places], embed)
        kept |= {places[i] for i in greedy_spread(vectors, wanted)}
    left = [(accepted[i], "not_chosen") for i in range(len(accepted)) if i not in kept]
    return GateResult(tuple(accepted[i] for i in sorted(kept)), (*gates.rejected, *left))


def _embedded(task: Task, texts: Sequence[str], embed: Embed) -> Vectors:
    return embed([bare_text(text, task.token) for text in texts])
