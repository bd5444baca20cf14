"""Any input of pairs can be a cache; the mixture is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from row_files import write_jsonl

from delia_data.engines import MockEngine
from delia_data.errors import FormatError, InputError, RatioError
from delia_data.mixing import TaskRow, TaskRows, mix, save_mixture
from delia_data.outputs import Manifest, finish
from delia_data.records import FORMATS, Record, write_record
from delia_data.sampling import Query, sample

PAIRS = [Record.pair(f"query {i}, naïve?", f"answer\n{i} 'quoted' 😀") for i in range(60)]
ROWS = [write_record(pair) for pair in PAIRS]
TASK = [TaskRow(Record.pair(f"question {i} <sep>", "{}"), "w") for i in range(10)]
EXPECTED = mix(TASK, PAIRS, ratio=5)


def arrow(path: Path, rows: list[dict[str, Any]], *, file: bool = False) -> Path:
    table = pa.Table.from_pylist(rows)
    new = pa.ipc.new_file if file else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def shards(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for i in range(3):
        write_jsonl(folder / f"part-{i}.jsonl", rows[i::3])
    (folder / "notes.txt").write_text("not rows")
    return folder


def turned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the same messages with reversed fields of turns and one more field."""
    return [
        {"messages": [{"content": m["content"], "role": m["role"], "n": 1} for m in r["messages"]]}
        for r in rows
    ]


MADE: dict[str, Callable[[Path], Any]] = {
    "records": lambda _: PAIRS,
    "rows": lambda _: ROWS,
    "jsonl": lambda p: write_jsonl(p / "a.jsonl", ROWS),
    "jsonl as text": lambda p: str(write_jsonl(p / "a.jsonl", ROWS)),
    "jsonl turned": lambda p: write_jsonl(p / "a.jsonl", turned(ROWS)),
    "parquet": lambda p: parquet(p / "a.parquet", ROWS),
    "parquet turned": lambda p: parquet(p / "a.parquet", turned(ROWS)),
    "arrow stream": lambda p: arrow(p / "a.arrow", ROWS),
    "arrow file": lambda p: arrow(p / "a.arrow", ROWS, file=True),
    "glob": lambda p: f"{shards(p / 'many', ROWS)}/part-*.jsonl",
    "folder": lambda p: shards(p / "many", ROWS),
    "dataset": lambda _: datasets.Dataset.from_list(ROWS),
    "dataset with indices": lambda _: datasets.Dataset.from_list(ROWS).shuffle(seed=1),
    "dataset of alpaca": lambda _: datasets.Dataset.from_list(
        [write_record(pair, "alpaca") for pair in PAIRS]
    ),
    "iterable": lambda _: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "frame": lambda _: pd.DataFrame(ROWS),
    "generator": lambda _: iter(ROWS),
    **{
        f"jsonl of {format}": lambda p, format=format: write_jsonl(
            p / "a.jsonl", [write_record(pair, format) for pair in PAIRS]
        )
        for format in FORMATS
    },
}


@pytest.mark.parametrize("kind", MADE)
def test_every_source_gives_the_same_mixture(kind: str, tmp_path: Path) -> None:
    mixture = mix(TASK, MADE[kind](tmp_path), ratio=5)
    skipped = {"read": {"cache": {"skipped": ["notes.txt (unknown kind)"]}}}
    ignored = {"read": {"cache": {"ignored": ["messages.n"]}}}
    details = skipped if kind == "folder" else ignored if "turned" in kind else {}
    assert mixture.manifest == EXPECTED.manifest.model_copy(update={"details": details})
    assert mixture.train.equals(EXPECTED.train)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "dataset", "jsonl turned", "parquet turned"])
def test_messages_are_read_as_they_lie(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("read row by row")

    monkeypatch.setattr("delia_data.reading.inputs.as_batches", never)
    assert mix(TASK, MADE[kind](tmp_path), ratio=5).train.num_rows == 60


GOOD = json.dumps(ROWS[0]) + "\n"


@pytest.mark.parametrize(
    "before",
    [
        GOOD * 30_000,
        f"{GOOD}\n" * 15_000,
        GOOD.replace("\n", "\r\n") * 30_000,
        GOOD * 29_999 + "\n",
    ],
    ids=["lines", "blank lines", "CRLF", "one blank line"],
)
def test_a_bad_line_far_into_a_file_is_named(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast path hands over the blocks before it."""
    monkeypatch.setattr("delia_data.reading.files._BLOCK_BYTES", 100_000)
    (tmp_path / "a.jsonl").write_text(before + "not json\n", newline="")
    with pytest.raises(FormatError, match=r"a\.jsonl:30001: the line is not a JSON object"):
        mix(TASK, tmp_path / "a.jsonl", ratio=0.1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p / "none.jsonl", "does not exist"),
        (lambda p: p / "*.jsonl", "does not exist"),
        (lambda p: (p / "e", (p / "e").mkdir())[0], "has no files of rows"),
        (lambda p: (p / "a.jsonl", (p / "a.jsonl").write_text(""))[0], "is empty"),
        (lambda p: (p / "a.parquet", (p / "a.parquet").write_text("x"))[0], "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(
    make: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=reason):
        mix(TASK, make(tmp_path), ratio=1)


def test_a_name_that_nothing_has_is_asked_of_the_hub() -> None:
    with pytest.raises(InputError, match="'nobody/nothing' is neither a path here nor a dataset"):
        mix(TASK, "nobody/nothing", ratio=1)


class TestSeveral:
    tasks = {  # noqa: RUF012
        "halu": TaskRows(tuple(TASK)),
        "table": TaskRows(
            tuple(TaskRow(Record.pair(f"cell {i} <tab>", "|")) for i in range(4)), (), "<tab>"
        ),
    }

    def test_each_task_has_its_token(self) -> None:
        cache = [*PAIRS, Record.pair("what is <tab>?", "a token")]
        mixture = mix(self.tasks, cache, ratio=1)
        assert mixture.manifest.rows["task"] == 14
        assert mixture.manifest.rows["cache"] == 14
        assert mixture.manifest.settings["token"] == ["<sep>", "<tab>"]
        assert mixture.manifest.dropped == {"names_token": 1}
        assert set(mixture.manifest.inputs) == {"task:halu", "task:table", "test", "cache"}

    @pytest.mark.parametrize(
        ("weights", "rows"),
        [({"table": 2.0}, 18), ({"table": 0.5}, 12), ({"halu": 0, "table": 2.5}, 10)],
    )
    def test_weights_are_multiples_of_rows(self, weights: dict[str, float], rows: int) -> None:
        mixture = mix(self.tasks, PAIRS, ratio=1, task_weights=weights)
        assert mixture.manifest.rows == {"task": rows, "cache": rows, "test": 0}
        assert mixture.train["source"].to_pylist().count("task") == rows

    def test_half_the_rows_are_among_all(self) -> None:
        half = mix(self.tasks, [], ratio=0, task_weights={"halu": 0.5}).train
        more = mix(self.tasks, [], ratio=0, task_weights={"halu": 0.8}).train
        assert set(half["source_id"].to_pylist()) <= set(more["source_id"].to_pylist())

    def test_caches_share_the_pairs(self) -> None:
        caches = {"mine": PAIRS[:40], "theirs": PAIRS[30:]}
        mixture = mix(TASK, caches, ratio=2, cache_weights={"theirs": 3})
        ids = set(mixture.train["source_id"].to_pylist())
        assert mixture.manifest.rows["cache"] == 20
        assert mixture.manifest.dropped == {"duplicate": 10}
        assert len(ids & {pair.id for pair in PAIRS[:40]}) == 5
        assert len(ids & {pair.id for pair in PAIRS[40:]}) == 15

    @pytest.mark.parametrize(
        "weights",
        [{"halu": "1"}, {"halu": -1}, {"halu": True}, {"hallu": 1}, {"halu": float("nan")}],
    )
    def test_weights_that_are_none(self, weights: Any) -> None:
        with pytest.raises(InputError, match="task_weights"):
            mix(self.tasks, PAIRS, ratio=1, task_weights=weights)


class TestDecontaminate:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    test = (TaskRow(Record.pair(f"Say it <sep>. {words}!", "x")),)
    taken = Record.pair("Count.", f"Well: {words.upper()}, and so on.")
    near = Record.pair("Count.", words.replace("seven", "7"))

    def test_a_shared_run_of_13_words_is_dropped(self) -> None:
        cache = [*PAIRS, self.taken, self.near]
        mixture = mix(TASK, cache, ratio=6.1, test=self.test, decontaminate=True)
        assert mixture.manifest.dropped == {"overlaps_test": 1}
        ids = mixture.train["source_id"].to_pylist()
        assert self.taken.id not in ids
        assert self.near.id in ids
        with pytest.raises(RatioError, match="holds 61 usable"):
            mix(TASK, cache, ratio=6.2, test=self.test, decontaminate=True)

    def test_it_is_asked_for(self) -> None:
        mixture = mix(TASK, [*PAIRS, self.taken], ratio=6.1, test=self.test)
        assert self.taken.id in mixture.train["source_id"].to_pylist()


def test_tokens_are_counted_by_source(tiny_tokenizer: Any, tmp_path: Path) -> None:
    mixture = mix(TASK, PAIRS, ratio=1)
    tokens = save_mixture(mixture, tmp_path, tokenizer=tiny_tokenizer).details["tokens"]
    assert tokens["task_answers"] == len(TASK) * len("{}E")
    answers = [row for row in mixture.train.to_pylist() if row["source"] == "cache"]
    expected = sum(len(row["messages"][-1]["content"].encode()) + 1 for row in answers)
    assert tokens["cache_answers"] == expected
    assert tokens["cache"] > tokens["cache_answers"]


def test_a_folder_of_a_glob_is_itself_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundled").mkdir()
    write_jsonl(tmp_path / "bundled" / "rows.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    assert mix(TASK, "*", ratio=5).manifest.inputs == EXPECTED.manifest.inputs


WRITER = {"name": "small", "weights_sha256": "1f", "chat_template_sha256": "2e"}


def cache_by(folder: Path, model: object, first: int = 0) -> Path:
    folder.mkdir()
    parquet(folder / "pairs.parquet", ROWS[first : first + 8])
    finish(folder, Manifest(kind="cache", settings={"model": model} if model else {}))
    return folder


class TestWriters:
    """A mixture's manifest names the models that wrote its pairs."""

    def test_each_cache_folder_has_its_own(self, tmp_path: Path) -> None:
        caches = {
            "one": cache_by(tmp_path / "one", WRITER),
            "two": cache_by(tmp_path / "two", "gpt-x", 8),
            "three": cache_by(tmp_path / "three", None, 16),
        }
        written = mix(TASK[:2], caches, ratio=3).manifest.details["written_by"]
        assert written == {"one": WRITER, "two": "gpt-x"}
        for ratio in (0, 2):
            manifest = mix(TASK[:2], caches["one"], ratio=ratio).manifest
            assert manifest.details == {"written_by": {"cache": WRITER}}

    def test_nothing_is_claimed_of_rows_and_files(self, tmp_path: Path) -> None:
        cache = cache_by(tmp_path / "cache", WRITER)
        assert mix(TASK[:2], PAIRS[:8], ratio=2).manifest.details == {}
        assert mix(TASK[:2], cache / "pairs.parquet", ratio=2).manifest.details == {}

    def test_what_the_engine_says_is_what_the_mixture_says(self, tmp_path: Path) -> None:
        engine = MockEngine()
        queries = [Query(f"Tell me about the number {i}.", "test") for i in range(4)]
        sample(engine, queries, tmp_path / "cache", target=4, filters=[])
        written = mix(TASK[:2], tmp_path / "cache", ratio=2).manifest.details["written_by"]
        assert written == {"cache": engine.describe()["model"]}
