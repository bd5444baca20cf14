"""Texts as places on a plane: two principal components of their vectors.

The vectors are those of all-MiniLM-L6-v2; where that model is not installed, of the words that the
texts have (TF-IDF). What is shown says which, and what share of the variance the plane holds.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

import numpy as np

from delia_data.sampling.embeddings import Embedder, weights_folder

Embed = Callable[[Sequence[str]], np.ndarray]
"""Gives texts as vectors, of the shape `(texts, dimensions)`."""

_WORDS: Final = 4_096
_SUBSPACE, _ROUNDS = 8, 12


@dataclass(frozen=True, slots=True)
class TextMap:
    """Texts on a plane.

    Attributes:
        places: Of shape `(texts, 2)`, in the order of the texts.
        variance: Share of the vectors' variance that lies along each axis, 0 to 1.
        by: How the texts became vectors, in words.
    """

    places: np.ndarray
    variance: tuple[float, float]
    by: str


def can_embed() -> bool:
    """Tell whether the embedding model and what runs it are installed."""
    libraries = all(find_spec(name) is not None for name in ("torch", "transformers"))
    return libraries and weights_folder() is not None


def map_texts(texts: Sequence[str], embed: Embed | None = None) -> TextMap:
    """Place texts on a plane; equal texts give equal places.

    Args:
        texts: The texts.
        embed: Gives them as vectors; all-MiniLM-L6-v2 when not given, and where that is not
            installed, the words that they have.
    """
    by = "embedded"
    if embed is None and can_embed():
        embed, by = Embedder.load(), "embedded by all-MiniLM-L6-v2"
    elif embed is None or embed is place_by_words:
        embed, by = place_by_words, "placed by their words (TF-IDF)"
    return TextMap(*_plane(embed(texts)), by)


def place_by_words(texts: Sequence[str]) -> np.ndarray:
    """Give texts as vectors of their words' TF-IDF, each word in one of 4096 places by its hash."""
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
    # A half of a surrogate pair is a character of the word, though UTF-8 has no bytes for it.
    digest = hashlib.md5(word.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4]) % _WORDS


def _plane(vectors: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Two principal components, and their shares of the variance.

    The larger loading of each is positive. No axis is found where there is nothing to tell apart.
    """
    centred = vectors - vectors.mean(axis=0)
    if not centred.size:
        return np.zeros((len(vectors), 2)), (0.0, 0.0)
    # Of thousands of dimensions two are wanted: some rounds of a small subspace find them.
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
