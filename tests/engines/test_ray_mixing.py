"""`delia mix --engine ray`: on a cluster of two nodes, the rows, order and bytes of one machine."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from delia_data.cli import app
from delia_data.errors import (
    DeliaError,
    EngineError,
    ForeignFolderError,
    FormatError,
    InputError,
    MissingExtraError,
    RatioError,
    TokenError,
)
from delia_data.mixing import TaskRow, TaskRows, mix, save_mixture
from delia_data.mixing.ray import connected, mix_on_ray
from delia_data.mixing.task_rows import ContrastRow
from delia_data.outputs import is_finished, read_manifest
from delia_data.records import Message, Record, write_record

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.engines,
    # Ray Data 2.60 copies its own settings, those among them that it has given up.
    pytest.mark.filterwarnings(r"ignore:`\w+` is deprecated:DeprecationWarning:ray\.data\.context"),
]

SHARD_ROWS = 700


class Nodes:
    """A cluster of a head and of workers that come and go."""

    def __init__(self, workers: int) -> None:
        from ray.cluster_utils import Cluster

        memory = 80 << 20
        head = {"num_cpus": 1, "object_store_memory": memory, "include_dashboard": False}
        self._memory = memory
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.workers = [self._add() for _ in range(workers)]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.FATAL)

    def _add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=self._memory)

    def kill_one(self) -> None:
        """End a worker at once, as a machine that loses its power."""
        self.cluster.remove_node(self.workers.pop(), allow_graceful=False)

    def add_one(self) -> None:
        self.workers.append(self._add())

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = Nodes(workers=1)
    yield found
    found.close()


TASK = [
    TaskRow(Record.pair(f"Question {i}? In the <sep> format.", f"{{'is': {i}}}"), f"w{i % 7}")
    for i in range(60)
]
TEST = [TaskRow(Record.pair(f"Held out {i}? As <sep> says.", f"{i}"), "w0") for i in range(5)]
PAIRS = [Record.pair(f"query {i} é\n", f"answer {i} " * (1 + i % 9)) for i in range(3000)]
# What is dropped for each reason, and what is there twice, in one file and in two.
ODD = [
    Record.pair("names <sep> itself", "x"),
    TASK[3].record,
    TEST[2].record,
    *PAIRS[10:30],
    *PAIRS[10:12],
]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in six files."""
    folder = tmp_path_factory.mktemp("cache")
    rows = [write_record(pair) for pair in [*PAIRS, *ODD]]
    for number in range(6):
        write_jsonl(folder / f"pairs-{number}.jsonl", rows[number::6])
    return folder


def rows_of(folder: Path) -> pa.Table:
    files = sorted(folder.glob("train*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files])


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def check_same(folder: Path, cache: Any, local: Path, **settings: Any) -> None:
    """Compare the result of a cluster with that of this machine: rows, order, manifest, test."""
    here = save_mixture(mix(TASK, cache, test=TEST, **settings), local)
    there = read_manifest(folder, verify=True)
    assert rows_of(folder).equals(rows_of(local))
    assert here.model_dump(exclude={"files"}) == there.model_dump(exclude={"files"})
    assert (folder / "test.parquet").read_bytes() == (local / "test.parquet").read_bytes()


@pytest.mark.parametrize("order", ["shuffled", "interleaved"])
@pytest.mark.parametrize("format", ["messages", "prompt_completion"])
def test_rows_and_order_are_those_of_one_machine(
    nodes: Nodes, shards: Path, tmp_path: Path, order: Any, format: Any
) -> None:
    settings: dict[str, Any] = {"ratio": 37.3, "seed": 5, "order": order, "format": format}
    done = mix_on_ray(
        TASK, str(shards), tmp_path / "ray", test=TEST, shard_rows=SHARD_ROWS, **settings
    )
    assert done.rows == {"task": 60, "cache": 2238, "test": 5}
    assert set(done.dropped) == {"also_in_task", "duplicate", "names_token"}
    names = sorted(p.name for p in (tmp_path / "ray").glob("train*"))
    assert names == [f"train-0000{i}-of-00004.parquet" for i in range(4)]
    assert all(pq.read_metadata(tmp_path / "ray" / name).num_rows > 0 for name in names)
    check_same(tmp_path / "ray", str(shards), tmp_path / "local", **settings)


@pytest.mark.parametrize(
    ("shard_rows", "settings"),
    [
        (SHARD_ROWS, {"ratio": 120, "on_short": "repeat", "order": "interleaved"}),
        (SHARD_ROWS, {"ratio": 120, "on_short": "all", "decontaminate": True}),
        (20, {"ratio": 0, "order": "interleaved"}),
        (20, {"ratio": 0.4, "order": "interleaved"}),
        (10_000, {"ratio": 2, "order": "interleaved"}),
        (1, {"ratio": 0.1}),
        (SHARD_ROWS, {"ratio": 12, "epochs": 3}),
        (SHARD_ROWS, {"ratio": 30, "epoch": 2, "on_short": "repeat", "order": "interleaved"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_so_do_the_odd_ones(
    nodes: Nodes, shards: Path, tmp_path: Path, shard_rows: int, settings: dict[str, Any]
) -> None:
    mix_on_ray(TASK, shards, tmp_path / "ray", test=TEST, shard_rows=shard_rows, **settings)
    check_same(tmp_path / "ray", shards, tmp_path / "local", **settings)


@pytest.mark.parametrize("format", ["messages", "sharegpt"])
def test_contrast_rows_are_in_the_shards(
    nodes: Nodes, shards: Path, tmp_path: Path, format: Any
) -> None:
    contrast = tuple(
        ContrastRow(
            Record.pair(f"Question {i}? No <sep>.", f"It is {i}."),
            "forbid",
            (Message("user", f"Question {i}?"),),
            "w0",
            TASK[i].record.id,
        )
        for i in range(20)
    )
    rows = TaskRows(tuple(TASK), tuple(TEST), contrast=contrast)
    settings: dict[str, Any] = {"ratio": 5, "epochs": 2, "format": format}
    done = mix_on_ray(rows, str(shards), tmp_path / "ray", shard_rows=300, **settings)
    assert done.rows == {"task": 120, "cache": 600, "contrast": 40, "test": 5}
    save_mixture(mix(rows, str(shards), **settings), tmp_path / "local")
    assert rows_of(tmp_path / "ray").equals(rows_of(tmp_path / "local"))
    assert len(rows_of(tmp_path / "ray")["teacher_messages"].drop_null()) == 40
    test = tmp_path / "ray" / "test.parquet"
    assert test.read_bytes() == (tmp_path / "local" / "test.parquet").read_bytes()


def test_several_caches_of_other_kinds(nodes: Nodes, tmp_path: Path) -> None:
    alpaca = [{"instruction": p.query, "input": "", "output": p.answer} for p in PAIRS[:400]]
    write_jsonl(tmp_path / "alpaca" / "a.jsonl", alpaca)
    table = pa.Table.from_pylist([write_record(pair) for pair in PAIRS[300:900]])
    pq.write_table(table, tmp_path / "pairs.parquet")
    caches = {"alpaca": tmp_path / "alpaca", "parquet": tmp_path / "pairs.parquet"}
    settings: dict[str, Any] = {"ratio": 10, "cache_weights": {"alpaca": 1, "parquet": 2}}
    mix_on_ray(TASK, caches, tmp_path / "ray", test=TEST, shard_rows=200, **settings)
    check_same(tmp_path / "ray", caches, tmp_path / "local", **settings)


def test_datasets_loads_the_shards_in_their_order(
    nodes: Nodes, shards: Path, tmp_path: Path
) -> None:
    mix_on_ray(TASK, shards, tmp_path / "ray", ratio=20, test=TEST, shard_rows=300)
    loaded = load_dataset(str(tmp_path / "ray"), "ratio-20", cache_dir=str(tmp_path / "hf"))
    assert loaded["train"].to_list() == rows_of(tmp_path / "ray").to_pylist()
    assert len(loaded["test"]) == len(TEST)


def test_a_folder_passes_from_one_way_to_the_other(
    nodes: Nodes, shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mix"
    for shard_rows in (50, 200):
        mix_on_ray(TASK, shards, folder, ratio=1, shard_rows=shard_rows)
    assert len(list(folder.glob("train-*"))) == 1
    save_mixture(mix(TASK, shards, ratio=1), folder)
    assert [path.name for path in folder.glob("train*")] == ["train.parquet"]


@pytest.mark.parametrize(
    ("order", "sign"), [("shuffled", "train-*"), ("interleaved", "train-*"), ("shuffled", ".lock")]
)
def test_a_node_that_dies_loses_and_repeats_no_row(
    nodes: Nodes, shards: Path, tmp_path: Path, order: Any, sign: str
) -> None:
    """The worker goes while pairs are being routed, or when the first of 45 shards is there."""
    settings: dict[str, Any] = {"ratio": 37.3, "order": order, "test": TEST, "shard_rows": 52}
    calm, shaken = tmp_path / "calm", tmp_path / "shaken"
    mix_on_ray(TASK, shards, calm, **settings)
    if not nodes.workers:
        nodes.add_one()
    written_after: list[int] = []

    def kill_on_sign() -> None:
        while not list(shaken.glob(sign)):
            time.sleep(0.002)
        nodes.kill_one()
        written_after.append(len(list(shaken.glob("train-*"))))

    killer = threading.Thread(target=kill_on_sign, daemon=True)
    killer.start()
    mix_on_ray(TASK, shards, shaken, **settings)
    killer.join(timeout=300)
    assert written_after[0] < 45, "the node outlived the work"
    assert bytes_of(shaken) == bytes_of(calm)
    assert {path.name for path in shaken.glob(".*")} == {".lock"}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_number_of_workers_is_nothing(
    nodes: Nodes, shards: Path, tmp_path: Path, workers: int
) -> None:
    settings: dict[str, Any] = {"ratio": 20, "order": "interleaved", "shard_rows": 300}
    while len(nodes.workers) < 1:
        nodes.add_one()
    mix_on_ray(TASK, shards, tmp_path / "one", **settings)
    while len(nodes.workers) > workers:
        nodes.kill_one()
    while len(nodes.workers) < workers:
        nodes.add_one()
    mix_on_ray(TASK, shards, tmp_path / "other", **settings)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "other")


def test_errors_are_ours(nodes: Nodes, shards: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    write_jsonl(bad / "a.jsonl", [write_record(pair) for pair in PAIRS[:50]])
    write_jsonl(bad / "b.jsonl", [{"messages": [{"role": "user", "content": "no answer"}]}])
    plain = [TaskRow(Record.pair("no token", "x"))]
    long = tmp_path / "long.jsonl"
    turns = [*PAIRS[0].messages, *PAIRS[1].messages]
    write_jsonl(long, [{"messages": [turn.as_dict() for turn in turns]}])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    cases: list[tuple[type[DeliaError], str, dict[str, Any]]] = [
        (RatioError, "needs 60000 pairs, and the cache holds 3000 usable", {"ratio": 1000}),
        (TokenError, "1 of 1 task rows do not name <sep>", {"task": plain}),
        (FormatError, r"b.jsonl:1: the row has no answer", {"cache": bad}),
        (FormatError, "format 'alpaca'", {"cache": long, "format": "alpaca", "ratio": 0.01}),
        (InputError, "does not exist: give a folder", {"cache": tmp_path / "nowhere"}),
        (InputError, "order 'sorted' is unknown", {"order": "sorted"}),
        (InputError, "shard_rows is 0", {"shard_rows": 0}),
        (InputError, "connected to the Ray cluster .*, not to", {"address": "10.0.0.1:6379"}),
        (ForeignFolderError, "holds something else", {"folder": foreign}),
    ]
    for kind, text, changed in cases:
        settings = {"task": TASK, "cache": shards, "folder": tmp_path / "out", "ratio": 4}
        with pytest.raises(kind, match=text) as raised:
            mix_on_ray(**{**settings, **changed})
        assert type(raised.value) is kind
        assert len(str(raised.value).splitlines()) == 1
    assert not is_finished(tmp_path / "out")


def test_a_failure_of_the_cluster_is_one_line(nodes: Nodes) -> None:
    @ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
    def fail() -> None:
        raise ZeroDivisionError("of somebody else")

    text = r"the Ray cluster failed: .*of somebody else"
    with pytest.raises(EngineError, match=text) as raised, connected(None):
        ray.get(fail.remote())
    assert len(str(raised.value).splitlines()) == 1


def test_without_ray_the_extra_is_named(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "delia_data\[ray\]"'):
        mix_on_ray(TASK, shards, tmp_path / "out", ratio=4)


def test_no_cluster_answers(shards: Path, tmp_path: Path) -> None:
    """In a process that is connected to none."""
    code = (
        "import sys; from delia_data.cli import main; "
        "sys.argv = ['delia', 'mix', *sys.argv[1:], '--ratio=1', '--engine=ray']; main()"
    )
    write_jsonl(tmp_path / "task.jsonl", [row.as_row() for row in TASK])
    given = [str(tmp_path / "task.jsonl"), str(shards), str(tmp_path / "out")]
    for address in ("127.0.0.1:1", "nonsense"):
        done = subprocess.run(
            [sys.executable, "-c", code, *given, "--address", address],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert re.fullmatch(
            f"delia: no Ray cluster answers at {address}: .*start one with.*\n", done.stderr
        )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["--engine", "spark"], "engine 'spark' is unknown: use one of local, ray"),
        (["--address", "auto"], "give --engine ray with it"),
    ],
)
def test_the_command_refuses(given: list[str], text: str) -> None:
    done = CliRunner().invoke(app, ["mix", "task", "cache", "out", "--ratio", "4", *given])
    assert isinstance(done.exception, InputError)
    assert text in str(done.exception)


def test_tokens_are_counted_as_on_one_machine(
    nodes: Nodes, shards: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for module in ("transformers", "jinja2"):
        pytest.importorskip(module)
    tokenizer = request.getfixturevalue("tiny_tokenizer")
    here = save_mixture(mix(TASK, shards, ratio=2), tmp_path / "here", tokenizer=tokenizer)
    there = mix_on_ray(
        TASK, shards, tmp_path / "there", ratio=2, shard_rows=50, tokenizer=tokenizer
    )
    assert there.details["tokens"] == here.details["tokens"]


def test_the_command(nodes: Nodes, shards: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "task.jsonl", [row.as_row() for row in TASK])
    given = ["mix", str(tmp_path / "task.jsonl"), str(shards / "pairs-0.jsonl")]
    for name, engine in (("here", []), ("there", ["--engine", "ray"])):
        done = CliRunner().invoke(app, [*given, str(tmp_path / name), "--ratio", "4", *engine])
        assert done.exit_code == 0, done.output
        assert "60 task rows and 240 pairs" in done.output
    assert rows_of(tmp_path / "there").equals(rows_of(tmp_path / "here"))
