"""Positions of texts on a plane, and the plane's share of the variance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from delia_data.sampling import embeddings as text_map
from delia_data.sampling.embeddings import map_texts


def embed_numbers(texts: Sequence[str]) -> np.ndarray:
    """Return the vectors written in the texts."""
    return np.array([[float(part) for part in text.split()] for text in texts], dtype=np.float32)


def test_variance_of_the_plane() -> None:
    found = map_texts(["3 0 0", "-3 0 0", "0 2 0", "0 -2 0", "0 0 1", "0 0 -1"], embed_numbers)

    assert found.variance == pytest.approx((18 / 28, 8 / 28), abs=1e-5)
    assert np.abs(found.places[:, 0]).round(4).tolist() == [3, 3, 0, 0, 0, 0]
    assert np.abs(found.places[:, 1]).round(4).tolist() == [0, 0, 2, 2, 0, 0]
    assert found.by == "embedded"


def test_texts_without_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_map, "weights_folder", lambda: None)
    found = map_texts(["!", "?", "\ud800x y", "x y"])

    assert "words" in found.by
    assert found.places.shape == (4, 2)
    assert np.isfinite(found.places).all()
