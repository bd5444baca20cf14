"""Coverage: how much of what could be said a cache says, and when more rows stop adding to it."""

from __future__ import annotations

import hashlib
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from delia_data.errors import InputError
from delia_data.sampling.embeddings import LazyEmbedder, Vectors

Embed = Callable[[Sequence[str]], Vectors]

_BLOCK: Final = 256  # rows that are compared with all others at a time
_ROUNDING: Final = 1e-5
_MOST_TOKENS: Final = 128  # of a text, while sampling


def coverage(reference: npt.NDArray[Any], sample: npt.NDArray[Any], *, k: int = 5) -> float:
    """Share of the reference that a sample covers (Naeem et al. 2020, equation 6).

    A reference point is covered where a sample point lies in its ball, which reaches to its k-th
    nearest neighbour in the reference. Of two samples of the same source and size, 1 - 1/2**k is
    covered (section 3.2 there): 0.97 at k = 5.

    Args:
        reference: Shape (points, width); more than k points.
        sample: Shape (points, width).
        k: Neighbours that a ball reaches over.

    Returns:
        From 0 to 1.

    Raises:
        InputError: There are too few points, or the widths differ.
    """
    if reference.ndim != 2 or sample.ndim != 2 or reference.shape[1] != sample.shape[1]:
        raise InputError(
            f"points of shapes {reference.shape} and {sample.shape} cannot be compared: "
            "give two arrays of the same width"
        )
    if not 1 <= k < len(reference) or not len(sample):
        raise InputError(
            f"coverage with k={k} of {len(reference)} reference points by {len(sample)} cannot be "
            "measured: give more points, or a lower k"
        )
    covered = 0
    for rows, own in _distances(reference, reference):
        # The nearest is the point itself; squared distances compare as distances do.
        radius = np.partition(own, k, axis=1)[:, k]
        closest = np.concatenate([d for _, d in _distances(rows, sample)])
        covered += int((closest.min(axis=1) <= radius + _ROUNDING).sum())
    return covered / len(reference)


def nearest(points: Vectors, others: Vectors) -> Vectors:
    """Cosine similarity of each point to the nearest of the others.

    Args:
        points: Shape (points, width), each of length 1.
        others: Shape (others, width), each of length 1.

    Returns:
        Shape (points,); -1 where there are no others.
    """
    if not len(others):
        return np.full(len(points), -1, dtype=np.float32)
    blocks = (points[i : i + _BLOCK] @ others.T for i in range(0, len(points), _BLOCK))
    return np.concatenate([np.empty(0, dtype=np.float32), *(b.max(axis=1) for b in blocks)])


class Saturation:
    """Tells when new answers stop adding coverage.

    Of the texts that come by, a share is embedded, picked by a hash of the text so that the same
    texts are picked in any order. One is novel where none of those before it has a cosine
    similarity of `same` or more. The run is saturated when at most `below` of the latest `window`
    picked ones are novel.

    What came before is held as the `reservoir` texts of the lowest hashes: a sample of all
    different texts, of bounded size.

    Embedding takes at most the share `most_time` of the time that goes by: where answers come
    faster, some of those picked are passed over.
    """

    def __init__(
        self,
        embed: Embed | None = None,
        *,
        same: float = 0.6,
        below: float = 0.1,
        window: int = 250,
        share: float = 0.25,
        reservoir: int = 10_000,
        batch: int = 16,
        most_time: float | None = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing said.

        Args:
            embed: Turns texts into vectors of length 1; all-MiniLM-L6-v2 where not given, which
                is loaded when the first text comes.
            same: Cosine similarity from which on two texts say the same, from 0 to 1.
            below: Share of novel texts at which the run is saturated.
            window: Embedded texts, the latest, that the share is taken over.
            share: Share of all texts that is embedded, above 0, at most 1.
            reservoir: Embedded texts that are held at most.
            batch: Texts that are embedded together.
            most_time: Share of the time that embedding may take; None for all that it needs.
            clock: Gives seconds.

        Raises:
            InputError: A setting is out of its bounds.
            MissingExtraError: No `embed` is given, and the model is not installed.
        """
        if not (0 < same < 1 and 0 <= below < 1 and 0 < share <= 1):
            raise InputError(
                f"same={same}, below={below} and share={share} are shares: give numbers from 0 to 1"
            )
        if min(window, reservoir, batch) < 1:
            raise InputError(
                f"window={window}, reservoir={reservoir} and batch={batch} are counts: "
                "give at least 1"
            )
        self._embed = embed or LazyEmbedder(max_tokens=_MOST_TOKENS)
        self._same = same
        self._below = below
        self._share = share
        self._batch = batch
        self._most_time = most_time
        self._clock = clock
        self._begun: float | None = None  # when the first texts were embedded
        self._spent = 0.0  # seconds since then
        self._waiting: list[tuple[int, str]] = []  # hash, text
        self._novel: deque[bool] = deque(maxlen=window)
        self._held = np.empty((0, 0), dtype=np.float32)  # shape (reservoir, width), grows
        self._highest: list[tuple[int, int]] = []  # heap of (-hash, place in _held)
        self._hashes: set[int] = set()
        self._reservoir = reservoir

    @property
    def novelty(self) -> float | None:
        """Share of novel texts among the latest embedded ones; None before the first."""
        return sum(self._novel) / len(self._novel) if self._novel else None

    @property
    def saturated(self) -> bool:
        """Whether hardly any of the latest texts is novel, and there are enough to tell."""
        novelty = self.novelty
        return (
            novelty is not None
            and len(self._novel) == self._novel.maxlen
            and novelty <= self._below
        )

    def add(self, texts: Iterable[str]) -> None:
        """Take up texts in the order in which they came."""
        for text in texts:
            value = _hash(text)
            if value >= self._share * 2**64 or self._is_late():
                continue
            self._waiting.append((value, text))
            if len(self._waiting) == self._batch:
                self._measure(count=True)

    def remember(self, texts: Iterable[str], most: int = 2000) -> None:
        """Take up texts of an earlier run, so that saying them again is not novel.

        Args:
            texts: What was said.
            most: How many are embedded at most: those of the lowest hashes.
        """
        lowest = heapq.nsmallest(most, ((_hash(text), text) for text in texts))
        for start in range(0, len(lowest), self._batch):
            self._waiting.extend(lowest[start : start + self._batch])
            self._measure(count=False)

    def _is_late(self) -> bool:
        """Whether embedding has taken more than its share of the time."""
        if self._most_time is None or self._begun is None:
            return False
        return self._spent > self._most_time * (self._clock() - self._begun)

    def _measure(self, *, count: bool) -> None:
        """Embed what waits, compare it with what is held and with each other, and hold it."""
        begun = self._clock()
        vectors = self._embed([text for _, text in self._waiting])
        if self._begun is None:  # this once the model was loaded, which is not counted
            self._begun = self._clock()
        else:
            self._spent += self._clock() - begun
        used = len(self._highest)
        before = nearest(vectors, self._held[:used])
        among = np.tril(vectors @ vectors.T, -1)  # each with those that came before it
        closest = np.maximum(before, np.where(among, among, -1).max(axis=1))
        if count:
            self._novel.extend((closest < self._same).tolist())
        for (value, _), vector in zip(self._waiting, vectors, strict=True):
            self._hold(value, vector)
        self._waiting.clear()

    def _hold(self, value: int, vector: npt.NDArray[np.float32]) -> None:
        """Keep a vector while its hash is among the lowest."""
        if value in self._hashes:
            return
        place = len(self._highest)
        if place == self._reservoir:
            if -value <= self._highest[0][0]:
                return
            highest, place = heapq.heappop(self._highest)
            self._hashes.remove(-highest)
        elif place == len(self._held):
            rows = min(max(256, 2 * place), self._reservoir)
            grown = np.zeros((rows, len(vector)), dtype=np.float32)
            if place:
                grown[:place] = self._held
            self._held = grown
        self._held[place] = vector
        self._hashes.add(value)
        heapq.heappush(self._highest, (-value, place))


def _hash(text: str) -> int:
    """64 bits that follow from the text alone."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _distances(
    points: npt.NDArray[Any], others: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.float64]]]:
    """Squared distances in blocks: some points, and shape (points, others)."""
    lengths = _lengths(others)
    for start in range(0, len(points), _BLOCK):
        rows = points[start : start + _BLOCK]
        squared = _lengths(rows)[:, None] + lengths - 2.0 * (rows @ others.T)
        yield rows, np.maximum(squared, 0.0, out=squared)


def _lengths(points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Squared length of each point; shape (points,)."""
    squared: npt.NDArray[np.float64] = np.einsum("ij,ij->i", points, points, dtype=np.float64)
    return squared
