"""The blocks of the README and of the guides run, each in a folder with no more than it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT, Block, Rule, blocks_of, check_command, commands_of, run_block
from hub_server import HubServer

from delia_data.cli.app import COMMANDS

pytestmark = pytest.mark.integration

GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", *(page for page in GUIDES if page != "docs/decisions.md")]
LOGIN = "hf_writerwriterwriter"

MOCK = {'"transformers", model="smollm2-135m-instruct"': '"mock", model="mock"'}
IMPORTS = "import delia_data\nfrom datasets import load_dataset\n"
LEFT_OUT = {  # half a minute of a real model; the README's block trains
    "\ndelia train my-mix my-adapter": "",
    "\ndelia evaluate my-adapter my-task my-scores": "",
}
SERVER, KEY, CLUSTER = "needs a server", "needs a key", "needs a cluster"
ADAPTER = "takes a trained adapter: test_evaluate.py, test_measuring.py, test_training_forms.py"
PROCESSES = "takes GPUs: tests/slow/test_distributed.py launches two processes on CPUs"
MEASURED = "minutes of a real model: test_training_held_out.py runs these settings"
TRAINERS = "takes a prepared model of 270 MB: tests/integration/test_other_trainers.py runs these"
TWO_TOKENS = "takes a mixture with two tokens: tests/integration/test_two_tokens.py trains one"
THOUGHTS = "takes a model whose template has the option: tests/integration/test_model_families.py"
DISTILLED = "minutes of a real model: test_distill.py runs the same on a small one"
HOURS = "hours of a real model: test_bundled_cache.py begins with that copy"
OWN_TASK = ("tickets.csv", "wordings.txt")

RULES = {
    "README.md": {
        'load_dataset("./my-mix", "ratio-4")': Rule(["my-mix"]),
        "delia sample my-cache --target 500": Rule(
            instead={
                "\ndelia evaluate my-adapter my-task my-scores": "",
                " my-adapter my-scores": " my-adapter",
            }
        ),
    },
    "docs/guides/own-task.md": {
        "delia task inspect tickets.csv": Rule(OWN_TASK),
        "delia diversify my-task --task tickets.csv": Rule(OWN_TASK),
        "delia mix my-task my-cache my-mix --ratio 1": Rule(["my-task", "my-cache"]),
        "delia sample my-cache --target 500": Rule(["my-task"], LEFT_OUT),
        "from delia_data import mix": Rule([*OWN_TASK, "my-cache"]),
    },
    "docs/guides/sampling.md": {
        "from delia_data.engines import load_engine": Rule(instead=MOCK),
        "delia sample larger": Rule(skip=HOURS),
    },
    "docs/guides/training.md": {
        "delia train my-mix my-adapter --token": Rule(skip=TWO_TOKENS),
        "delia train my-mix my-adapter --watch": Rule(skip=MEASURED),
        "delia train my-mix my-adapter": Rule(["my-task", "my-cache", "my-mix"]),
        "accelerate launch": Rule(skip=PROCESSES),
        "delia export my-adapter": Rule(skip=ADAPTER),
    },
    "docs/guides/your-model.md": {
        "delia sample my-cache --target 2000 --model my-model": Rule(skip=THOUGHTS)
    },
    "docs/guides/evaluation.md": {
        "delia evaluate my-adapter": Rule(skip=ADAPTER),
        "from delia_data.evaluation import missed_bounds": Rule(skip=ADAPTER),
        "delia measure my-adapter": Rule(skip=ADAPTER),
        "delia report my-mix": Rule(skip=ADAPTER),
    },
    "docs/guides/distill.md": {
        "delia distill shop": Rule(skip=DISTILLED),
        "delia distill desk": Rule(skip=DISTILLED),
        "delia distill wide": Rule(skip=DISTILLED),
        "delia export shop/adapter": Rule(skip=DISTILLED),
    },
    "docs/guides/ratio.md": {
        "delia ratio my-task": Rule(
            ["my-task", "my-cache"],
            {"\ndelia ratio my-task my-cache my-ratio --ratios 0,0.1,1": ""},
        )
    },
    "docs/guides/reproduction.md": {
        "delia reproduce": Rule(instead={"\ndelia reproduce --scale tiny my-run --workers 2": ""})
    },
    "docs/guides/api-engine.md": {
        'pip install "delia_data[openai]"': Rule(skip=SERVER),
        'pip install "delia_data[litellm]"': Rule(skip=KEY),
    },
    "docs/guides/cluster.md": {'pip install "delia_data[ray,vllm]"': Rule(skip=CLUSTER)},
    "docs/guides/trainers.md": {
        "delia prepare": Rule(skip=TRAINERS),
        "delia lint": Rule(skip=TRAINERS),
        "delia mix": Rule(skip=TRAINERS),
        "delia register": Rule(skip=TRAINERS),
        "delia export": Rule(skip=TRAINERS),
    },
    "docs/guides/report.md": {
        "delia report my-mix": Rule(["my-mix", "my-task", "my-cache"]),
        "delia evaluate my-adapter": Rule(skip=ADAPTER),
        "from delia_data.report": Rule(["my-mix", "my-task"]),
    },
    "docs/guides/hub.md": {
        "delia push org/delia_mix my-task": Rule(["my-task", "my-cache"], hub=True),
        'load_dataset("org/delia_mix", "ratio-2"': Rule(
            ["published"], {'load_dataset("org/': f'{IMPORTS}load_dataset("org/'}, hub=True
        ),
        "delia push org/parity my-adapter": Rule(skip=ADAPTER),
        "delia pull org/delia_mix@v1.0.0": Rule(["published", "published again"], hub=True),
    },
}
"""What a block needs, by page and by how its first line begins. A block without a rule is run in
an empty folder."""

TICKETS = """text,team
My card was charged twice,billing
The app crashes on start,technical
Where is my parcel?,delivery
I want my money back,billing
The page does not load,technical
It came broken,delivery
Please send an invoice,billing
No sound in calls,technical
"""
WORDINGS = """Which team should read this? Use <sep>.
You sort the mail of a shop. Say in <sep> who gets this message.
Only <sep> is accepted. Who takes care of this customer?
I wonder where to send this message, and <sep> would tell me.
Could you please find the right desk for this customer? Reply in <sep>.
A customer wrote to us. Somebody has to look after it. Decide who that is, and answer in <sep>.
"""


def rule_of(block: Block) -> Rule:
    for first, rule in RULES.get(block.page, {}).items():
        if block.first.startswith(first):
            return rule
    return Rule()


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def delia(folder: Path, *arguments: object, env: dict[str, str] | None = None) -> None:
    program = [sys.executable, "-m", "delia_data", *map(str, arguments)]
    done = subprocess.run(
        program, cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def pantry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of blocks."""
    folder = tmp_path_factory.mktemp("pantry")
    (folder / "tickets.csv").write_text(TICKETS)
    (folder / "wordings.txt").write_text(WORDINGS)
    for name, target in (("my-cache", 450), ("quickstart/cache", 96)):
        delia(folder, "sample", name, "--engine", "mock", "--target", target)
    delia(folder, "diversify", "my-task")
    delia(folder, "mix", "my-task", "my-cache", "my-mix", "--ratio", 4)
    return folder


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_user(LOGIN, "alice", organisations=("org",))
        yield server


def test_pages_have_blocks() -> None:
    assert len([block for block in BLOCKS if block.page == "README.md"]) >= 4
    assert len(BLOCKS) >= 28


def test_the_readme_has_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name.split()[0] for cell in table for name in re.findall(r"`([^`]+)`", cell)}
    assert named >= set(COMMANDS)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_no_rule_is_left_over() -> None:
    for page, rules in RULES.items():
        for first in rules:
            assert any(b.first.startswith(first) for b in blocks_of(page)), f"{page}: {first}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=str)
def test_commands_are_there(block: Block) -> None:
    commands = list(commands_of(block))
    assert commands
    for command in commands:
        check_command(command)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_runs(
    block: Block, pantry: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rule = rule_of(block)
    if rule.skip:
        pytest.skip(rule.skip)
    folder = tmp_path / "here"
    folder.mkdir()
    env = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    if rule.hub:
        env = {**request.getfixturevalue("hub").environment(LOGIN), **env, "HF_HUB_OFFLINE": "0"}
    for name in rule.needs:
        source = pantry / name
        if name.startswith("published"):
            ratios = ["--ratio", 1, "--ratio", 2] if name == "published" else ["--ratio", 4]
            parts = [pantry / "my-task", pantry / "my-cache"]
            license = ["--license", "apache-2.0"]
            delia(pantry, "push", "org/delia_mix", *parts, *ratios, *license, env=env)
        elif source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder / name)
    run_block(block, rule, folder, env)
