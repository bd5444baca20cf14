"""The real embedding model: similarity and saturation."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from delia_data.engines import MockEngine
from delia_data.outputs import read_manifest
from delia_data.sampling import Query, bundled_queries, default_filters, sample
from delia_data.sampling.embeddings import WIDTH, Embedder, Saturation

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def embed() -> Embedder:
    return Embedder()


def test_vectors_have_length_one_and_do_not_depend_on_their_batch(embed: Embedder) -> None:
    texts = ["A cat.", "", "🙂", "A long text, " * 200, *(f"Number {i}." for i in range(70))]
    vectors = embed(texts)
    assert vectors.shape == (len(texts), WIDTH)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = np.concatenate([embed([text]) for text in texts])
    np.testing.assert_allclose(alone, vectors, atol=1e-5)
    assert embed([]).shape == (0, WIDTH)


def test_what_means_the_same_is_near(embed: Embedder) -> None:
    texts = [
        "The cat sleeps on the sofa.",
        "A kitten is napping on the couch.",
        "Interest rates rose by half a point.",
        "The central bank raised its rate.",
    ]
    vectors = embed(texts)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.5 > likeness[0, 2]
    assert likeness[2, 3] > 0.5 > likeness[1, 3]


def test_two_hundred_texts_over_and_over_saturate_and_fresh_ones_do_not(embed: Embedder) -> None:
    queries = [query.text for query in bundled_queries(1000, seed=1)]
    draw = random.Random(0)
    worn, fresh = (Saturation(embed, max_time=None, share=0.5, window=100) for _ in range(2))
    worn.add(draw.choice(queries[:200]) for _ in range(1500))
    fresh.add(queries)
    assert (worn.saturated, fresh.saturated) == (True, False)
    assert fresh.novelty is not None
    assert fresh.novelty > 0.3
    # The same texts, each a little different.
    reworded = Saturation(embed, max_time=None, share=0.5, window=100)
    endings = itertools.cycle(["", " Please.", " Be brief.", " Thank you!"])
    reworded.add(f"{draw.choice(queries[:200])}{next(endings)}" for _ in range(1500))
    assert reworded.saturated


SAID = (
    "The cat sleeps on the sofa.",
    "Interest rates rose by half a point.",
    "A cat is sleeping on the couch.",
    "Rain falls on the mountains in autumn.",
    "Interest rates increased by half a percentage point.",
)


def test_similar_answers_are_rejected_in_every_run(tmp_path: Path) -> None:
    queries = [Query(f"{place}?", "explain") for place in range(5)]
    stop: list[int] = []

    def answer(request: Any) -> str:
        place = int(request.messages[-1].content[0])
        if place in stop:
            raise KeyboardInterrupt
        return SAID[place] + " Everybody knows that this is so, and nobody minds it at all."

    def run(folder: Path) -> Any:
        filters = default_filters(similar=0.85)
        return sample(MockEngine(answer), queries, folder, target=5, filters=filters)

    manifest = run(tmp_path / "whole")
    assert manifest.rows == {"asked": 5, "kept": 3}
    assert manifest.dropped == {"similar": 2}
    assert manifest.settings["filters"][-1]["similarity"] == 0.85
    rejected = pq.read_table(tmp_path / "whole" / "rejected-00000.parquet")
    details = rejected["detail"].to_pylist()
    assert [detail[-8:] for detail in details] == [" to '0?'", " to '1?'"]
    stop.append(3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    stop.clear()
    run(tmp_path / "killed")
    assert read_manifest(tmp_path / "killed") == manifest
