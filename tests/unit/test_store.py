"""The pair store keeps every finished row through kills, and grows."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from delia_data.errors import OutputError, SettingsError
from delia_data.outputs import JsonlLog, Manifest, is_finished
from delia_data.records import Record
from delia_data.sampling import read_cache
from delia_data.sampling import store as module
from delia_data.sampling.store import PairStore, SampledRow

PLAN: dict[str, Any] = {"engine": "mock", "model": {"name": "m"}, "seed": 1, "queries": {"n": 1}}
ROWS = [
    SampledRow(0, "a1", "What is rain?", "Water.", 2, 4, 0.5),
    SampledRow(1, "b2", "Say it.", "", 0, 3, 0.25, "empty"),
    SampledRow(2, "c3", "Sagt «é» \u2028 \N{GRINNING FACE}", 'two\nlines \\ and "more"', 5),
    SampledRow(3, "d4", "And then?", "Snow.", 2),
]
MORE = [
    SampledRow(4, "e5", "q", "", 0, rejected="empty"),
    SampledRow(5, "f6", "Why?", "Because.", 1),
]
FAILED = SampledRow(6, "g7", "Hm?", "", 0, rejected="failed", error="no answer")


def fill(folder: Path, rows: list[SampledRow] = ROWS) -> None:
    with PairStore.open(folder, PLAN) as store:
        for row in rows:
            store.append(row)


def finished(folder: Path, rows: list[SampledRow] = ROWS, **options: Any) -> Manifest:
    with PairStore.open(folder, PLAN, **options) as store:
        store.begin()
        for row in rows:
            store.append(row)
        return store.finish(Manifest(kind="cache", settings=PLAN))


def known(folder: Path) -> dict[str, Any]:
    """Return the state of a store after opening it."""
    with PairStore.open(folder, PLAN) as store:
        return {
            "asked": set(store.row_ids),
            "kept": store.counts.accepted,
            "dropped": +store.counts.dropped,
            "tokens": store.counts.tokens,
            "prompt_tokens": store.counts.prompt_tokens,
            "cost": store.counts.cost,
            "pairs": list(store.pairs()),
        }


def of_rows(rows: list[SampledRow]) -> dict[str, Any]:
    """Return the expected state of a store with rows that did not fail."""
    reasons = [row.rejected for row in rows if row.rejected is not None]
    return {
        "asked": {row.id for row in rows},
        "kept": len(rows) - len(reasons),
        "dropped": {reason: reasons.count(reason) for reason in reasons},
        "tokens": sum(row.tokens for row in rows),
        "prompt_tokens": sum(row.prompt_tokens for row in rows),
        "cost": sum(row.cost or 0.0 for row in rows),
        "pairs": [(row.query, row.answer) for row in rows if row.rejected is None],
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_appended_rows_are_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    with PairStore.open(folder, PLAN) as store:
        assert (store.counts.accepted, len(store.row_ids)) == (0, 0)
        for row in ROWS[:3]:
            store.append(row)
        assert store.counts.accepted == 2
    assert known(folder) == of_rows(ROWS[:3])
    fill(folder, ROWS[3:])
    assert known(folder) == of_rows(ROWS)
    assert names(folder) == ["plan.json", "sampled-00000-000.jsonl"]


def test_logs_of_earlier_versions_are_read_in_order(tmp_path: Path) -> None:
    """Version 0.1.0 began a new log in every run."""
    fill(tmp_path, ROWS[:2])
    (tmp_path / "sampled-00000-000.jsonl").rename(tmp_path / "sampled-00000-999.jsonl")
    with JsonlLog(tmp_path / "sampled-00000-1000.jsonl", SampledRow, if_damaged="") as log:
        log.append(ROWS[2])
    assert known(tmp_path) == of_rows(ROWS[:3])
    fill(tmp_path, ROWS[3:])
    assert names(tmp_path) == ["plan.json", "sampled-00000-1000.jsonl", "sampled-00000-999.jsonl"]
    finished(tmp_path, MORE)
    assert known(tmp_path) == of_rows(ROWS + MORE)
    assert not list(tmp_path.glob("*.jsonl"))


def test_an_unknown_price_makes_the_cost_unknown(tmp_path: Path) -> None:
    fill(tmp_path, [*ROWS, SampledRow(9, "x", "q", "a", 1, 0, None)])
    assert known(tmp_path)["cost"] is None
    finished(tmp_path, MORE)
    assert known(tmp_path)["cost"] is None


def test_failed_row_is_requested_again_until_the_run_is_finished(tmp_path: Path) -> None:
    fill(tmp_path, [*ROWS, FAILED])
    there = known(tmp_path)
    assert FAILED.id not in there["asked"]
    assert there["dropped"] == {"empty": 1, "failed": 1}
    answered = SampledRow(6, "g7", "Hm?", "Yes.", 1)
    fill(tmp_path, [answered])
    assert known(tmp_path) == of_rows([*ROWS, answered])
    finished(tmp_path, [])
    assert pq.read_table(tmp_path / "rejected-00000.parquet")["row_id"].to_pylist() == ["b2"]
    assert len(read_cache(tmp_path)) == 4


def test_a_row_that_fails_twice_counts_once(tmp_path: Path) -> None:
    fill(tmp_path, [*ROWS, FAILED])
    finished(tmp_path, [FAILED])
    table = pq.read_table(tmp_path / "rejected-00000.parquet")
    assert table["row_id"].to_pylist() == ["b2", "g7"]
    assert table["reason"].to_pylist() == ["empty", "failed"]
    assert table["error"].to_pylist() == [None, "no answer"]
    assert known(tmp_path)["dropped"] == {"empty": 1, "failed": 1}


def test_extend_adds_other_queries(tmp_path: Path) -> None:
    fill(tmp_path)
    hint = r"other queries can be added with extend \(--extend\)"
    with pytest.raises(SettingsError, match=hint), PairStore.open(tmp_path, other(2)):
        pass
    for number in (2, 3, 3):
        with PairStore.open(tmp_path, other(number), extend=True) as store:
            assert store.counts.accepted == 3
            store.begin()
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan == {**other(3), "extended": [{"n": 1}, {"n": 2}]}
    with PairStore.open(tmp_path, other(3)) as store:
        assert store.counts.accepted == 3
    refused = {**other(4), "seed": 2}
    with (
        pytest.raises(SettingsError, match="seed was 1 and is now 2"),
        PairStore.open(tmp_path, refused, extend=True),
    ):
        pass


def other(number: int) -> dict[str, Any]:
    return {**PLAN, "queries": {"n": number}}


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    fill(tmp_path, ROWS[:1])
    log = tmp_path / "sampled-00000-001.jsonl"
    log.symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"001\.jsonl cannot be written: No space left"):
        fill(tmp_path, ROWS[1:])
    log.unlink()
    assert known(tmp_path) == of_rows(ROWS[:1])


def test_finish_writes_accepted_and_rejected_rows(tmp_path: Path) -> None:
    written = finished(tmp_path, [ROWS[3], ROWS[1], ROWS[2], ROWS[0]])  # in any order
    assert is_finished(tmp_path)
    assert set(written.files) == {"pairs-00000.parquet", "plan.json", "rejected-00000.parquet"}
    kept = [ROWS[0], ROWS[2], ROWS[3]]
    records = [Record.pair(row.query, row.answer) for row in kept]
    table = pq.read_table(tmp_path / "pairs-00000.parquet")
    spent = ["row_id", "tokens", "prompt_tokens", "cost"]
    assert table.column_names == ["messages", "source_id", *spent]
    assert table["source_id"].to_pylist() == [record.id for record in records]
    assert table["row_id"].to_pylist() == ["a1", "c3", "d4"]
    assert table["tokens"].to_pylist() == [2, 5, 2]
    assert read_cache(tmp_path) == records
    rejected = pq.read_table(tmp_path / "rejected-00000.parquet")
    assert rejected.column_names == [
        "reason",
        "detail",
        "error",
        "query",
        "answer",
        "had_reasoning",
        *spent,
    ]
    assert rejected["query"].to_pylist() == [None]
    assert known(tmp_path) == of_rows(ROWS)


def test_keep_rejected_writes_the_texts(tmp_path: Path) -> None:
    finished(tmp_path, keep_rejected=True)
    rejected = pq.read_table(tmp_path / "rejected-00000.parquet").to_pylist()
    assert [(row["query"], row["answer"]) for row in rejected] == [("Say it.", "")]


def test_growing_adds_a_generation_and_leaves_earlier_files(tmp_path: Path) -> None:
    finished(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    with PairStore.open(tmp_path, PLAN) as store:
        assert store.finished
        store.begin()
        assert not is_finished(tmp_path)
        for row in MORE:
            store.append(row)
        assert list(store.pairs()) == of_rows(ROWS + MORE)["pairs"]
        store.finish(Manifest(kind="cache", settings=PLAN))
    assert known(tmp_path) == of_rows(ROWS + MORE)
    after = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    assert set(after) - set(before) == {"pairs-00001.parquet", "rejected-00001.parquet"}
    assert {name: after[name] for name in before} == before
    assert len(read_cache(tmp_path)) == 4


@pytest.mark.parametrize("step", ["after rejected", "after pairs", "before the marker"])
def test_a_kill_while_finishing_loses_nothing(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise KilledError

    real = PairStore._compact

    def rejected_alone(store: PairStore) -> None:
        real(store)
        (store.folder / "pairs-00000.parquet").unlink()
        raise KilledError

    def both(store: PairStore) -> None:
        real(store)
        raise KilledError

    with monkeypatch.context() as patch:
        if step == "before the marker":
            patch.setattr(module, "finish", die)
        else:
            patch.setattr(PairStore, "_compact", both if step == "after pairs" else rejected_alone)
        with pytest.raises(KilledError):
            finished(tmp_path)
    assert not is_finished(tmp_path)
    assert known(tmp_path) == of_rows(ROWS)
    finished(tmp_path, MORE)
    assert known(tmp_path) == of_rows(ROWS + MORE)
    assert not list(tmp_path.glob("*.jsonl"))
    assert len(read_cache(tmp_path)) == 4
