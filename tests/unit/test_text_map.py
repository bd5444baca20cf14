"""Positions of texts on a plane, and the plane's share of the variance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from delia_data.sampling import embeddings as text_map
from delia_data.sampling.embeddings import map_texts, place_by_words


def embed_numbers(texts: Sequence[str]) -> np.ndarray:
    """Return the vectors written in the texts."""
    return np.array([[float(part) for part in text.split()] for text in texts], dtype=np.float32)


def test_variance_of_the_plane() -> None:
    found = map_texts(["3 0 0", "-3 0 0", "0 2 0", "0 -2 0", "0 0 1", "0 0 -1"], embed_numbers)

    assert found.variance == pytest.approx((18 / 28, 8 / 28), abs=1e-5)
    assert np.abs(found.places[:, 0]).round(4).tolist() == [3, 3, 0, 0, 0, 0]
    assert np.abs(found.places[:, 1]).round(4).tolist() == [0, 0, 2, 2, 0, 0]
    assert found.by == "embedded"


@pytest.mark.parametrize("texts", [["1 1", "1 1", "1 1"], ["1", "2", "4"]])
def test_few_dimensions_and_equal_texts(texts: list[str]) -> None:
    found = map_texts(texts, embed_numbers)

    assert found.places.shape == (3, 2)
    assert np.isfinite(found.places).all()
    assert found.variance[1] == pytest.approx(0, abs=1e-6)


def test_texts_without_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_map, "weights_folder", lambda: None)
    found = map_texts(["!", "?", "\ud800x y", "x y"])

    assert "words" in found.by
    assert found.places.shape == (4, 2)
    assert np.isfinite(found.places).all()


def test_equal_texts_give_equal_places() -> None:
    texts = ["the red cat", "the red cats", "a blue, blue sky", "night"]
    one, other = map_texts(texts, place_by_words), map_texts(texts, place_by_words)

    assert (one.places == other.places).all()
    assert "words" in one.by
