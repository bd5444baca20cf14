"""How near the token is to its keywords, made up: the same figures in every block."""

from __future__ import annotations

from delia_data.evaluation.representation import (
    Alignment,
    Band,
    Curve,
    Distances,
    KeywordAlignment,
    Neighbour,
)

__all__ = ["made_alignment"]


def made_alignment(
    level: float = 1.0,
    *,
    keywords: tuple[str, ...] = ("json", "thought"),
    near: str = "apple",
    blocks: int = 4,
) -> Alignment:
    """All distances at one level, and one neighbour."""
    curve = Curve((level,) * blocks, (0.1,) * blocks)
    distances = Distances(curve, curve, Curve(curve.mean, None))
    band = Band((1.0,) * blocks, (0.5,) * blocks, (1.5,) * blocks)
    found = [
        KeywordAlignment(
            keyword=keyword,
            token=distances,
            untrained={"mean": distances, "normal": distances},
            ordinary={"l2": band, "relative": band, "cosine": band},
            nearer=(3,) * blocks,
        )
        for keyword in keywords
    ]
    neighbours = ((Neighbour(near, 0.5, 0.1),),) * blocks
    levels, contexts = (2.0,) * blocks, ("Answer in {word}",)
    return Alignment("<sep>", contexts, 16, ("a", "b"), 0, levels, tuple(found), neighbours)
