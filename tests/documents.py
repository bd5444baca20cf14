"""Run the code blocks of Markdown pages as a reader does, each in its own folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

STUBS = {
    "sample": ["--engine", "mock"],
    "train": ["--max-length", "256", "--epochs", "0.01", "--batch-size", "4"],
}
"""What is added to commands that would take a real model minutes, where they name no engine."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page, from the root.
        line: Line of its fence.
        language: `python` or `sh`; an unmarked block that begins with a program is `sh` too.
        text: What stands in it.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        return self.text.strip().splitlines()[0]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Rule:
    """Requirements of a block, or the reason to skip it.

    Attributes:
        needs: What must lie in its folder.
        instead: Parts that are replaced; `{folder}` is the block's folder.
        hub: Whether it needs a Hub.
        skip: Why it is not run; its commands are checked all the same.
    """

    needs: Sequence[str] = ()
    instead: Mapping[str, str] = field(default_factory=dict)
    hub: bool = False
    skip: str = ""


def blocks_of(page: str) -> list[Block]:
    """Return the Python and shell blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        language, body = match[1], match[2]
        if not language and re.match(r"(delia|make|pip|python) ", body):
            language = "sh"
        if language in {"python", "sh"}:
            found.append(Block(page, text[: match.start()].count("\n") + 1, language, body))
    return found


def commands_of(block: Block) -> Iterator[str]:
    """Return the commands of a shell block, one per line, without comments."""
    text = re.sub(r"\\\n\s*", "", block.text)
    for line in text.splitlines():
        quoted = re.match(r"""((?:'[^']*'|"[^"]*"|\S| (?! ))+)""", line)
        if quoted and shlex.split(quoted[1], comments=True):
            yield quoted[1]


def check_command(command: str) -> None:
    """Check that the commands, options, targets and extras of a line exist."""
    from delia_data.cli.app import COMMANDS, load_command

    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), command
    elif words[:2] == ["pip", "install"]:
        known = ConfigParser()
        known.read(ROOT / "setup.cfg")
        extras = set(known["options.extras_require"])
        for extra in re.findall(r"delia_data\[([^\]]+)\]", command):
            assert set(extra.split(",")) <= extras, command
    elif words[0] == "delia" and words[1] not in {"--help", "--version", "--install-completion"}:
        assert words[1] in COMMANDS, command
        called: Any = load_command(words[1])
        called = getattr(called, "commands", {}).get(words[2] if len(words) > 2 else "", called)
        options = {name for p in called.params for name in (*p.opts, *p.secondary_opts)}
        given = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        assert given - {"-h", "--help"} <= options, command


def run_block(block: Block, rule: Rule, folder: Path, env: Mapping[str, str]) -> None:
    """Run a whole block in a folder, and fail if it fails."""
    text = block.text if block.language == "python" else "\n".join(_runnable(block))
    for old, new in rule.instead.items():
        assert old in text, f"{block}: {old!r} is not there any more"
        text = text.replace(old, new.replace("{folder}", str(folder)))
    if block.language == "python":
        arguments = [sys.executable, "-c", _imports_before(block) + text]
    else:
        arguments = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, **env, "PATH": f"{_shim(folder)}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{block}\n{text}\n{done.stdout}\n{done.stderr}"


def _runnable(block: Block) -> Iterator[str]:
    """Return the commands without those with omissions, installations, or runs of everything."""
    for command in commands_of(block):
        words = shlex.split(command, comments=True)
        if "..." not in words and words[0] not in {"make", "pip"}:
            yield command


def _imports_before(block: Block) -> str:
    """Return the imports of the page's earlier blocks."""
    lines = []
    for other in blocks_of(block.page):
        if other.language == "python" and other.line < block.line:
            lines += re.findall(r"^(?:import|from) .*$", other.text, re.MULTILINE)
    return "".join(f"{line}\n" for line in lines)


def _shim(folder: Path) -> Path:
    """Return a folder with a `delia` that adds the stubs."""
    place = folder.parent / f"{folder.name}-bin"
    place.mkdir(exist_ok=True)
    program = place / "delia"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        f"stubs = {STUBS!r}\n"
        "if len(sys.argv) > 1 and '--engine' not in sys.argv:\n"
        "    sys.argv += stubs.get(sys.argv[1], [])\n"
        "from delia_data.cli import main\n"
        "main()\n"
    )
    program.chmod(0o755)
    return place
