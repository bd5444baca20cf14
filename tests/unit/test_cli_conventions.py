"""Conventions of all commands: --json, help, no escape codes in a pipe, completion, speed."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia
from rich.console import Console
from typer.testing import CliRunner

from delia_data.cli import _output, app
from delia_data.cli.app import COMMANDS, EXIT_CODES, load_command

ESCAPE = "\x1b"
PAIRS = "".join(f'{{"prompt": "query {i}", "completion": "answer {i}"}}\n' for i in range(10))
TASK_ROW = '{"prompt": "a question <sep>", "completion": "an answer"}\n'


def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield a command, or those of a group."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for below, each in inner.items():
        yield from walk(f"{name} {below}", each)


ALL = dict(pair for name in COMMANDS for pair in walk(name, load_command(name)))


def run(*arguments: object, folder: Path, env: Mapping[str, str] | None = None) -> Any:
    """Run the program without environment variables that request colors."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in {"NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERM"}
    }
    return subprocess.run(
        [sys.executable, "-m", "delia_data", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**clean, "TERM": "xterm-256color", **(env or {})},
        timeout=60,
    )


def on_terminal(*arguments: object, folder: Path, env: Mapping[str, str]) -> str:
    """Return the program's output in a terminal of 100 columns."""
    ours, its = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    with subprocess.Popen(
        [sys.executable, "-m", "delia_data", *map(str, arguments)],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=folder,
        env={**clean, "COLUMNS": "100", "TERM": "xterm-256color", **env},
    ) as program:
        os.close(its)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # what Linux says at the end of a terminal
                break
            if not part:
                break
            written += part
        assert program.wait(60) == 0, written.decode()
    os.close(ours)
    return written.decode()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a file of task rows and a file of pairs."""
    (tmp_path / "task.jsonl").write_text(TASK_ROW + TASK_ROW.replace("a question", "another"))
    (tmp_path / "pairs.jsonl").write_text(PAIRS)
    return tmp_path


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_and_the_command_say_the_same(name: str) -> None:
    first = (load_command(name).help or "").strip().splitlines()[0]
    assert first == COMMANDS[name]


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_help(name: str) -> None:
    assert ALL[name].help
    for parameter in ALL[name].params:
        assert parameter.help, f"{name}: {parameter.name}"


def test_exit_codes_are_in_the_help() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120", "NO_COLOR": "1"})
    shown = result.output.split("Exit codes")[1]
    for code, says in EXIT_CODES.items():
        assert re.search(rf"\b{code} +{re.escape(says)}", shown)


HEAVY = {"datasets", "pandas", "torch", "transformers", "huggingface_hub", "matplotlib"}


def imported_by_help(*commands: str) -> set[str]:
    """Return the modules of a process that shows the help of commands, "" for the first help."""
    code = (
        "import sys\n"
        "from delia_data.cli import main\n"
        f"for name in {commands}:\n"
        "    sys.argv = ['delia', *name.split(), '--help']\n"
        "    try:\n        main()\n    except SystemExit:\n        pass\n"
        "print(*sorted(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_no_command() -> None:
    loaded = imported_by_help("")
    assert loaded & (HEAVY | {"numpy", "pyarrow"}) == set()
    assert not any(f"delia_data.cli.{name}" in loaded for name in COMMANDS)


def test_help_of_a_command_imports_no_heavy_library() -> None:
    loaded = imported_by_help("sample", "mix", "train", "evaluate", "push", "report")
    assert loaded & HEAVY == set()


# --json


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_json(name: str) -> None:
    """By the one option that keeps the standard output free."""
    found = [p for p in ALL[name].params if "--json" in p.opts]
    assert [p.name for p in found] == ["as_json"], f"{name} has no --json"
    assert found[0].help == _output.AsJson.__metadata__[0].help, f"{name}: use AsJson"  # type: ignore[attr-defined]


def only_json(delia: Delia, *arguments: object) -> Any:
    result = delia(*arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_the_documents(delia: Delia, files: Path) -> None:
    cache, task, mixture = (files / name for name in ("cache", "task", "mixture"))
    made = only_json(delia, "sample", cache, "--engine", "mock", "--target", 12)
    assert (made["kind"], made["rows"]["kept"]) == ("cache", 12)
    planned = only_json(delia, "sample", "--estimate", cache, "--engine", "mock", "--target", 12)
    assert planned["rows"]["value"] == pytest.approx(12)
    made = only_json(delia, "diversify", task)
    assert made["rows"] == {"train": 100, "test": 100}
    made = only_json(delia, "mix", task, cache, mixture, "--ratio", "0.1")
    assert made["rows"] == {"task": 100, "cache": 10, "test": 100}
    read = only_json(delia, "task", "inspect", "hallucination-check")
    assert read["name"] == "hallucination-check"
    differs = only_json(delia, "diff", task, task)
    assert differs["rows"] == differs["settings"] == []
    here = only_json(delia, "doctor")
    assert here["registered"] is True
    assert here["packages"]["core"]["datasets"]


def test_progress_and_what_others_print_go_to_stderr(files: Path) -> None:
    """Even from C and from programs that are started, which know nothing of our `sys.stdout`."""
    code = (
        "import os, sys, subprocess, typer\n"
        "from delia_data.cli._output import console, step\n"
        "from delia_data.cli._output import AsJson, show_json\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def command(as_json: AsJson = False) -> None:\n"
        "    print('printed')\n"
        "    os.write(1, b'written\\n')\n"
        "    subprocess.run(['echo', 'echoed'])\n"
        "    console.print('shown')\n"
        "    with step('a step') as update:\n"
        "        update(1, 1)\n"
        "    show_json({'a': 1})\n"
        "app()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--json"], capture_output=True, text=True, cwd=files
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"a": 1}
    for word in ("printed", "written", "echoed", "shown", "a step: 1 of 1"):
        assert word in done.stderr
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=files)
    assert plain.stderr == ""
    assert "printed" in plain.stdout


def test_an_error_leaves_stdout_empty(delia: Delia, files: Path) -> None:
    result = delia(
        "mix", files / "task.jsonl", files / "none", files / "out", "--ratio=1", "--json"
    )
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("delia: ")
    again = delia("doctor")
    assert "delia_data" in again.out


def test_what_json_cannot_hold() -> None:
    value = {1: float("nan"), "b": (Path("x"), {3, 2}, float("inf"), 0.5, None, True)}
    assert _output.plain(value) == {"1": None, "b": ["x", [2, 3], None, 0.5, None, True]}


# Colours and bars


def test_a_pipe_gets_no_escape_codes(files: Path) -> None:
    for arguments in (
        ["--help"],
        ["doctor"],
        ["sample", "cache", "--engine", "mock", "--target", 12],
        ["no-such-command"],
    ):
        done = run(*arguments, folder=files)
        assert ESCAPE not in done.stdout + done.stderr, arguments
        assert (done.stdout + done.stderr) and (done.returncode == 0) == ("no-" not in arguments[0])


def test_a_terminal_gets_a_bar(files: Path) -> None:
    arguments = ["sample", "cache", "--engine", "mock", "--target", 12]
    assert ESCAPE in on_terminal(*arguments, folder=files, env={})


def test_no_color_means_no_colours(files: Path) -> None:
    arguments = ["sample", "cache", "--engine", "mock", "--target", 12]
    for shown in (
        on_terminal(*arguments, folder=files, env={"NO_COLOR": "1"}),
        on_terminal("--help", folder=files, env={"NO_COLOR": "1"}),
    ):
        codes = [
            int(n) for found in re.findall(r"\x1b\[([\d;]*)m", shown) for n in found.split(";") if n
        ]
        assert not [n for n in codes if 30 <= n <= 49 or 90 <= n <= 107], shown


def progress_lines(counts: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the progress lines of a step of 100 that gets these (seconds, count)."""
    lines = io.StringIO()
    with _output.step("work", to=Console(file=lines)) as update:
        for now, done in counts:
            monkeypatch.setattr(_output.time, "monotonic", partial(float, now))
            update(done, 100)
    return lines.getvalue().splitlines()


def test_time_left_of_work_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run did took no time of this one."""
    assert progress_lines([(3, 60), (13, 70), (23, 80)], monkeypatch) == [
        "work: 60 of 100",
        "work: 70 of 100, about 30 s left",
        "work: 80 of 100, about 20 s left",
    ]


def test_a_count_that_falls_a_little_is_not_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = progress_lines([(0, 0), (10, 20), (11, 19), (12, 20), (15, 30)], monkeypatch)
    assert lines == ["work: 20 of 100", "work: 30 of 100, about 32 s left"]


def test_a_count_that_begins_again_is_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = progress_lines([(0, 10), (10, 100), (20, 10), (30, 20)], monkeypatch)
    assert lines == [
        *("work: 10 of 100", "work: 100 of 100"),
        *("work: 10 of 100", "work: 20 of 100, about 80 s left"),
    ]


# Completion


def completed(words: str) -> list[str]:
    """Return the completions of the last word in bash."""
    env = {"_DELIA_COMPLETE": "complete_bash", "COMP_WORDS": words}
    env["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    result = CliRunner().invoke(app, [], prog_name="delia", env=env)
    assert result.exit_code == 0
    return result.output.split()


def test_commands_and_options_are_completed() -> None:
    assert set(completed("delia ")) == set(COMMANDS)
    assert completed("delia samp") == ["sample"]
    assert completed("delia task ins") == ["inspect"]
    assert "--ratio" in completed("delia mix --ra")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("delia sample --engine v", {"vllm"}),
        ("delia sample --queries b", {"bundled"}),
        ("delia diversify --task hal", {"hallucination-check", "halueval"}),
        ("delia task inspect trans", {"translation"}),
        ("delia diversify --wordings-from m", {"model"}),
        ("delia mix --order i", {"interleaved"}),
        ("delia mix --format al", {"alpaca"}),
        ("delia mix --on-short e", {"error"}),
        ("delia mix --ratio 2", {"20", "260"}),
        ("delia train --recipe smol", {"smollm2-135m-cpu"}),
        ("delia reproduce --scale t", {"tiny"}),
        ("delia evaluate --probe forb", {"forbid"}),
    ],
)
def test_names_that_options_take_are_completed(words: str, expected: set[str]) -> None:
    assert set(completed(words)) == expected
