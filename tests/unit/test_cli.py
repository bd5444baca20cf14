"""The commands succeed, or print an error of one line and leave no files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import Delia, names, refused, spawn
from mixtures import save_one_row
from typer.testing import CliRunner

from delia_data import __version__
from delia_data.cli import app
from delia_data.mixing import mix
from delia_data.outputs import read_manifest
from delia_data.sampling import bundled_queries, read_cache
from delia_data.tasks import read_task_rows

PAIR = '{"prompt": "query", "completion": "answer"}\n'
TASK_ROW = '{"prompt": "query <sep>", "completion": "answer"}\n'


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a file of task rows and a file of pairs."""
    (tmp_path / "task.jsonl").write_text(TASK_ROW.replace("query", "one") + TASK_ROW)
    pairs = [PAIR.replace("query", f"query {i}") for i in range(10)]
    (tmp_path / "pairs.jsonl").write_text("".join(pairs))
    return tmp_path


# The whole way


def test_sample_diversify_mix_end_to_end(delia: Delia, tmp_path: Path) -> None:
    cache, task, mixture = (tmp_path / name for name in ("cache", "task", "mixture"))
    result = delia("sample", cache, "--engine", "mock", "--target", 50, "--seed", 3)
    assert result.code == 0, result.err
    assert f"50 pairs in {cache}; dropped: none; 600 tokens generated" in result.out
    queries = {query.text for query in bundled_queries(50, seed=3)}
    assert {record.query for record in read_cache(cache)} == queries
    assert read_manifest(cache, verify=True).settings["seed"] == 3

    result = delia("diversify", task, "--seed", 3)
    assert result.code == 0, result.err
    assert "100 training and 100 held-out rows" in result.out
    assert read_manifest(task, verify=True).settings["seed"] == 3

    result = delia("mix", task, cache, mixture, "--ratio", "0.5", "--seed", 3)
    assert result.code == 0, result.err
    assert f"ratio-0.5: 100 task rows and 50 pairs in {mixture}; pairs dropped: none" in result.out
    manifest = read_manifest(mixture, verify=True)
    assert manifest.rows == {"task": 100, "cache": 50, "test": 100}
    rows = read_task_rows(task)
    expected = mix(rows.train, read_cache(cache), ratio=0.5, seed=3, test=rows.test)
    assert pq.read_table(mixture / "train.parquet").equals(expected.train)
    assert expected.test is not None
    assert pq.read_table(mixture / "test.parquet").equals(expected.test)


def test_every_option_of_mix_counts(delia: Delia, files: Path) -> None:
    arguments = [files / "task.jsonl", files / "pairs.jsonl", files / "mixture"]
    options = ["--ratio", 8, "--seed", 5, "--order", "interleaved", "--on-short", "repeat"]
    assert delia("mix", *arguments, *options, "--format", "alpaca").code == 0
    rows, cache = read_task_rows(files / "task.jsonl"), read_cache(files / "pairs.jsonl")
    expected = mix(
        rows.train, cache, ratio=8, seed=5, order="interleaved", on_short="repeat", format="alpaca"
    )
    assert pq.read_table(files / "mixture" / "train.parquet").equals(expected.train)
    assert read_manifest(files / "mixture").settings == expected.manifest.settings


def test_a_task_without_a_token_can_be_mixed(delia: Delia, files: Path) -> None:
    (files / "task.jsonl").write_text(PAIR.replace("query", "a task row"))
    arguments = [files / "task.jsonl", files / "pairs.jsonl", files / "mixture", "--ratio", 2]
    refused(delia("mix", *arguments), "1 of 1 task rows do not name <sep>", "--token ''")
    assert not (files / "mixture").exists()
    assert delia("mix", *arguments, "--token", "").code == 0
    assert read_manifest(files / "mixture").settings["token"] is None


def test_what_was_dropped_is_printed(delia: Delia, files: Path) -> None:
    with (files / "pairs.jsonl").open("a") as pairs:
        pairs.write(PAIR.replace("query", "query 1") + PAIR.replace("query", "say <sep>"))
    result = delia(
        "mix", files / "task.jsonl", files / "pairs.jsonl", files / "mixture", "--ratio", 5
    )
    assert "10 pairs in" in result.out
    assert result.out.endswith("; pairs dropped: 1 duplicate, 1 names_token\n")


# Bad input


@pytest.mark.parametrize("which", ["task", "pairs"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, " does not exist: give "),
        (b"", " is empty: it must hold at least one row"),
        (TASK_ROW.encode() + b"{'prompt'}\n", ":2: the line is not a JSON object"),
        (TASK_ROW.encode() + b'{"prompt": "\xff"}\n', ":2: the line is not UTF-8 text"),
        (TASK_ROW.encode() * 2 + b'{"prompt": "a"}\n', ":3: column 'completion' must hold"),
        (TASK_ROW.encode() + b'{"prompt": "a", "completion": " "}\n', ":2: the row's assistant"),
        (b'{"text": "a"}\n', ":1: the row's columns (text) fit no known format"),
    ],
)
def test_bad_files(
    delia: Delia, files: Path, which: str, content: bytes | None, fault: str
) -> None:
    file = files / f"{which}.jsonl"
    file.unlink() if content is None else file.write_bytes(content)
    before = names(files)
    result = delia("mix", files / "task.jsonl", files / "pairs.jsonl", files / "out", "--ratio", 1)
    refused(result, f"{file}{fault}")
    assert names(files) == before


@pytest.mark.parametrize("name", ["notes.txt", "train.jsonl", "plan.json", "manifest.json"])
@pytest.mark.parametrize("command", ["mix", "sample", "diversify"])
def test_an_output_folder_that_holds_something_else(
    delia: Delia, files: Path, command: str, name: str
) -> None:
    out = files / "out"
    out.mkdir()
    (out / name).write_text("mine")
    arguments: dict[str, list[object]] = {
        "mix": [files / "task.jsonl", files / "pairs.jsonl", out, "--ratio", 1],
        "sample": [out, "--engine", "mock", "--target", 2],
        "diversify": [out],
    }
    refused(delia(command, *arguments[command]), f"{out} holds something else ({name}): give a")
    assert names(out) == {name}
    assert (out / name).read_text() == "mine"


def test_an_output_that_is_a_file(delia: Delia, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    refused(delia("diversify", tmp_path / "out"), "out is a file: give a folder")
    refused(delia("diversify", tmp_path / "out" / "below"), "below cannot be written: ")
    assert (tmp_path / "out").read_text() == "mine"


def test_unfinished_and_wrong_folders(delia: Delia, files: Path) -> None:
    assert delia("diversify", files / "task").code == 0
    arguments = [files / "pairs.jsonl", files / "out", "--ratio", 1]
    refused(
        delia("mix", files / "task", files / "task", files / "out", "--ratio", 1),
        "task holds a task, not a cache",
    )
    (files / "task" / "FINISHED").unlink()
    refused(delia("mix", files / "task", *arguments), "task is not a finished output")
    refused(delia("lint", files / "task"), "task is not a finished output")
    refused(
        delia("diversify", files / "new", "--task", "unknown"), "'unknown' is neither a ready task"
    )
    assert not (files / "out").exists()
    assert not (files / "new").exists()


def test_a_missing_extra(delia: Delia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = save_one_row(tmp_path / "mixture", "a question <sep>")
    monkeypatch.setitem(sys.modules, "transformers", None)
    for arguments in (["lint", mixture], ["sample", tmp_path / "cache", "--target", 5]):
        result = delia(*arguments, "--model", tmp_path)
        refused(result, "transformers is not installed", 'run pip install "delia_data[local]"')
    assert names(tmp_path) & {"cache"} == set()


# The program


def test_the_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"delia_data {__version__}\n")


def test_a_name_that_is_too_long_is_one_line(delia: Delia, files: Path) -> None:
    refused(delia("mix", "x" * 300, files / "task.jsonl", files / "out", "--ratio", "1"))
    refused(delia("report", "x" * 300))


def test_bad_input_as_a_program(files: Path) -> None:
    (files / "pairs.jsonl").write_text(PAIR + "no json\n")
    before = names(files)
    result = spawn(files, "mix", "task.jsonl", "pairs.jsonl", "out", "--ratio", 1)
    refused(
        result,
        "delia: 1 of 2 rows cannot be used: pairs.jsonl:2: the line is not a JSON object "
        "(Expecting value at column 1): correct or remove it",
    )
    assert result.out == ""
    assert names(files) == before


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may ignore it\n"
        "from delia_data.cli import app, main\n"
        "@app.command()\n"
        "def wait() -> None:\n"
        "    print('waiting', flush=True)\n"
        "    signal.pause()\n"
        "sys.argv = ['delia', 'wait']\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == "waiting\n"
        program.send_signal(signal.SIGINT)
        assert program.stderr.read() == "delia: stopped; run the same command again to continue\n"
        assert program.wait(30) == 130
