"""How far a set of wordings spreads: in one direction or in many.

The Gram matrix of unit vectors, divided by their number, has eigenvalues that add up to 1: the
shares of the directions. Their entropy's exponential is the effective rank (Roy and Vetterli 2007),
for a matrix of similarities also called the Vendi score (Friedman and Dieng 2022): 1 where all
texts say the same, their number where no two have anything in common. It is taken of the vectors
as they are, not of their deviations from the mean, which would call the noise around one sentence
as wide as a set of a hundred different ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from delia_data.sampling.embeddings import Vectors

_SHOWN: Final = 10  # eigenvalues in a manifest


@dataclass(frozen=True, slots=True)
class Spread:
    """The spread of texts.

    Attributes:
        texts: How many.
        spectrum: Shares of the directions, the largest first; they add up to 1.
        effective_rank: Directions that the texts make use of, 1 to `texts`.
        mean_distance: Mean cosine distance of two texts, 0 to 2.
    """

    texts: int
    spectrum: tuple[float, ...]
    effective_rank: float
    mean_distance: float

    def as_dict(self) -> dict[str, Any]:
        """What a manifest says of it."""
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

    What is raised is the effective rank of second order, `count² / sum of squared likenesses`,
    which needs one product for each choice instead of eigenvalues.

    Args:
        vectors: Embeddings of length 1; shape (texts, width).
        count: How many to choose; at most as many as there are.

    Returns:
        Places of the chosen ones, in the order of the choice. Equal gains go to the first.
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
