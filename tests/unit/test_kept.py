"""Rows that memory does not hold go to disk; the mixture is the same."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from delia_data.errors import OutputError
from delia_data.mixing import PLACES, Mixture, Order, TaskRow, mix
from delia_data.mixing import kept as kept_module
from delia_data.mixing import survey as survey_module
from delia_data.mixing.ahead import ahead
from delia_data.ranking import rank
from delia_data.records import Record

TASK = [TaskRow(Record.pair(f"question {i} <sep>", "{}"), f"w-{i % 3}") for i in range(10)]
PAIRS = [Record.pair(f"query {i}", f"answer {i}") for i in range(400)]
ODD = [
    *PAIRS,
    *PAIRS[:9],
    TASK[3].record,
    Record.pair("it names", "a <sep>"),
]
OTHERS = [*(Record.pair(f"other {i}", "b") for i in range(40)), *PAIRS[50:60]]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "_BATCH", 64)
    monkeypatch.setattr(kept_module, "_IN_MEMORY_BYTES", 4_000)


def on_disk(mixture: Mixture) -> bool:
    return any(kept.runs for cache in mixture.plan.caches for kept in cache.kept)


CASES: dict[str, dict[str, Any]] = {
    "all of them": {"cache": PAIRS, "ratio": 40},
    "some": {"cache": PAIRS, "ratio": 25},
    "duplicates and others that are dropped": {"cache": ODD, "ratio": 40},
    "a cache that repeats": {"cache": ODD, "ratio": 99, "on_short": "repeat"},
    "several caches": {"cache": {"a": ODD, "b": OTHERS}, "ratio": 30, "on_short": "all"},
    "another format": {"cache": PAIRS, "ratio": 40, "format": "prompt_completion"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", ["shuffled", "interleaved"])
def test_it_is_the_mixture_of_much_memory(
    case: str, order: Order, request: pytest.FixtureRequest
) -> None:
    settings = CASES[case] | {"order": order}
    expected = mix(TASK, **settings)
    request.getfixturevalue("little_memory")
    mixture = mix(TASK, **settings)
    assert on_disk(mixture) and not on_disk(expected)
    assert mixture.manifest == expected.manifest
    assert mixture.train.equals(expected.train)
    assert pickle.loads(pickle.dumps(mixture.plan)).stream is not None


@pytest.mark.parametrize("memory", ["much", "little"])
@pytest.mark.parametrize("parts", [1, 3, 200])
def test_parts_in_another_process_are_the_whole(
    memory: str, parts: int, request: pytest.FixtureRequest
) -> None:
    if memory == "little":
        request.getfixturevalue("little_memory")
    mixture = mix(TASK, ODD, ratio=39)
    plan = pickle.loads(pickle.dumps(mixture.plan))
    assert all(not kept.chunks for cache in plan.caches for kept in cache.kept)
    bounds = [PLACES * number // parts for number in range(parts + 1)]
    batches = [batch for low, high in pairwise(bounds) for batch in plan.stream([(low, high)])]
    assert pa.Table.from_batches(batches).equals(mixture.train)


@pytest.mark.usefixtures("little_memory")
def test_what_cannot_be_picked_does_not_go_to_disk(tmp_path: Path) -> None:
    mixture = mix(TASK, [*PAIRS, *PAIRS[:30]], ratio=1)
    assert not on_disk(mixture)
    (kept,) = mixture.plan.caches[0].kept
    assert 10 <= sum(chunk.rows.num_rows for chunk in kept.chunks) < 200
    first = sorted(PAIRS, key=lambda pair: rank(0, pair.id, "select"))[:10]
    ids = set(mixture.train["source_id"].to_pylist())
    assert {pair.id for pair in first} <= ids


@pytest.mark.usefixtures("little_memory")
def test_files_that_are_gone_are_named() -> None:
    mixture = mix(TASK, PAIRS, ratio=40)
    assert mixture.spill is not None
    mixture.spill.remove()
    with pytest.raises(OutputError, match="a temporary file of the mixture, is gone: mix again"):
        _ = mixture.train


@pytest.mark.usefixtures("little_memory")
def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa, "OSFile", full)
    with pytest.raises(OutputError, match=r"No space left on device.*TMPDIR to a larger disk"):
        mix(TASK, PAIRS, ratio=40)


def test_files_go_with_the_mixture() -> None:
    mixture = mix(TASK, PAIRS, ratio=40)
    assert mixture.spill is not None
    folder = mixture.spill.path
    pickle.dumps(mixture.plan)
    assert list(folder.glob("run-*"))
    del mixture
    assert not folder.exists()


def test_two_places_that_share_64_bits_are_told_apart() -> None:
    import numpy as np

    from delia_data.mixing.survey import among

    others = np.array([[1, 5], [7, 2], [7, 9], [8, 0]], np.uint64)
    ranks = np.array([[7, 9], [7, 3], [1, 5], [9, 9], [0, 0], [7, 2]], np.uint64)
    assert among(ranks, others).tolist() == [True, False, True, False, False, True]


class TestAhead:
    def test_items_come_in_their_order(self) -> None:
        assert list(ahead(iter(range(100)))) == list(range(100))
        assert list(ahead(iter(()))) == []

    def test_an_error_comes_in_its_place(self) -> None:
        def items() -> Any:
            yield 1
            yield None
            raise InterruptedError("here")

        stream = ahead(items())
        assert [next(stream), next(stream)] == [1, None]
        with pytest.raises(InterruptedError, match="here"):
            next(stream)

    def test_only_one_waits(self) -> None:
        made = []

        def items() -> Any:
            for number in range(10):
                made.append(number)
                yield number

        stream = ahead(items())
        assert next(stream) == 0
        assert next(stream) == 1
        assert len(made) <= 3
        stream.close()
