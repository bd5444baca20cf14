"""Queries that the embedded model writes: from its chat template alone, and grown from a few."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from delia_data.engines import Engine, MockEngine, Sampling, load_engine
from delia_data.models import DEFAULT_MODEL, embedded_gguf
from delia_data.sampling import bundled_queries
from delia_data.sampling.generated_queries import (
    STARTS,
    GeneratedQueries,
    expanded_queries,
    self_queries,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(embedded_gguf() is None, reason="the embedded weights are not installed"),
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine("transformers", model=DEFAULT_MODEL)


@pytest.fixture(scope="module")
def written(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GeneratedQueries, Path]:
    folder = tmp_path_factory.mktemp("self")
    queries = self_queries(engine, folder)
    assert queries.ensure(20) >= 20
    return queries, folder


def test_most_of_what_the_model_writes_for_the_user_is_a_query(
    written: tuple[GeneratedQueries, Path],
) -> None:
    queries, _ = written
    texts = [query.text for query in queries]
    assert len(texts) >= 0.7 * (len(texts) + sum(queries.dropped.values()))
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert "<|" not in text and text == text.strip()
        assert any(start in text for start in STARTS), "the model went on from how it was begun"


def test_a_rerun_reads_what_is_there(
    engine: Engine, written: tuple[GeneratedQueries, Path]
) -> None:
    queries, folder = written
    lines = (folder / "written.jsonl").read_bytes()
    again = self_queries(engine, folder)
    again.ensure(len(queries))
    assert list(again) == list(queries)
    assert (folder / "written.jsonl").read_bytes() == lines


def test_another_model_does_not_go_on_with_it(written: tuple[GeneratedQueries, Path]) -> None:
    _, folder = written
    with pytest.raises(ValueError, match=r"writer\.engine was 'transformers' and is now 'mock'"):
        self_queries(MockEngine(), folder).ensure(30)


def test_growth_from_a_few(engine: Engine, tmp_path: Path) -> None:
    seeds = bundled_queries(12)
    queries = expanded_queries(
        engine, seeds, tmp_path, sampling=Sampling(temperature=0.8, top_p=0.95, max_tokens=64)
    )
    assert queries.ensure(16) >= 16
    assert list(queries)[:12] == seeds
    grown = [query.text for query in queries][12:]
    assert not [text for text in grown if re.match(r"\d+[.)] |.*<\|", text)]
