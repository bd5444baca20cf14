"""Measure the speed, loss and memory of training, compared with TRL's trainer.

    python -m benchmarks.training                  # every case, into RESULTS.md
    python -m benchmarks.training --case float32 --rounds 5
    python -m benchmarks.training --steps 3        # a trial: printed, not written
    python -m benchmarks.training --cache PAIRS    # a cache folder, or a file of rows

The mixture is the bundled task at ratio 20, with 2,000 pairs of the bundled cache. Each training
runs in its own process, on a GPU if there is one, on the first rows of the mixture in their order.
The trainers take turns, and a ratio compares two runs of the same round. With --work a stopped
section resumes. The first step is not timed. Token counts include unlabeled tokens, but no padding.
The share of peak FLOP/s refers to the card's peak in bfloat16.

    delia train                     packed; logits only at labels; the default checkpointing, which
                                    keeps activations on a CPU and recomputes them on a GPU
    delia train, pairs_loss kl      the same, with the untrained model as the pairs' target
    SFTTrainer, defaults            padded to the longest row of a batch, activations recomputed
    SFTTrainer, no checkpointing    the same with `gradient_checkpointing=False`

All train LoRA of rank 16 on every linear layer, and the token's row of the embedding. With a tied
head, TRL 1.16 fails at PEFT's wrapper of that row because it has no bias; it gets one here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks._cases import log, take_turns
from benchmarks._process import run_script
from benchmarks._report import RESULTS, Spread, Target, now, replace_section, table, target_table
from benchmarks._trained import WAYS
from delia_data.errors import DeliaError
from delia_data.outputs import cache_home

__all__ = ["main"]

_RATIO: Final = 20
_SETTLE: Final = 1
_STEPS: Final = {"cpu": 6, "cuda": 60}
_WANTED: Final = {"cpu": 1.5, "cuda": 2.0}  # times the tokens/s of the defaults
_LOSS: Final = 1e-3
_KL_COST: Final = 1.4
_KL_MEMORY: Final = 1.1
_OURS, _DEFAULTS, _KL = "delia_data", "trl", "delia_data-kl"

Run = dict[str, Any]
Rounds = list[dict[str, Run]]


@dataclass(frozen=True, slots=True)
class Setting:
    """The mixture's folder, a folder for the trainings, and the command line."""

    mixture: Path
    work: Path
    given: argparse.Namespace

    def train(self, way: str, dtype: str, number: int) -> Run:
        """Train one way in its own process, unless this round of it is finished."""
        given = self.given
        file = self.runs / f"{dtype}-{number}-{way}.json"
        command = [sys.executable, "-m", "benchmarks._trained", str(self.mixture), way]
        for name in ("model", "device", "batch", "length", "steps"):
            command += [f"--{name}", str(getattr(given, name))]
        command += ["--dtype", dtype, "--settle", str(_SETTLE)]
        if given.micro_batch_tokens:
            command += ["--micro-batch-tokens", str(given.micro_batch_tokens)]
        identity = [*command, str(given.threads), str(given.cache)]
        if file.is_file() and (earlier := json.loads(file.read_text()))["command"] == identity:
            return dict(earlier["run"])
        threads = {"OMP_NUM_THREADS": str(given.threads)} if given.threads else {}
        environment = {"DELIA_CACHE": str(cache_home()), **threads}
        run = run_script(command, environment=environment, work=self.work).printed
        self.runs.mkdir(exist_ok=True)
        file.write_text(json.dumps({"command": identity, "run": run}))
        return run

    @property
    def runs(self) -> Path:
        """Folder of the finished runs of the current section."""
        return self.work / "runs"


def _case(setting: Setting, dtype: str) -> str:
    rounds = _train_rounds(setting, dtype)
    speed = _ratio(rounds, lambda run: run["tokens"] / run["seconds"])
    memory = _ratio(rounds, lambda run: run["peak_mib"])
    targets = [
        Target(
            "tokens/s, delia train / SFTTrainer's defaults",
            speed,
            _WANTED[setting.given.device],
            at_least=True,
        ),
        Target("peak memory, delia train / SFTTrainer's defaults", memory, 1.0),
    ]
    if _KL in rounds[0]:
        slower = Spread.of(runs[_KL]["seconds"] / runs[_OURS]["seconds"] for runs in rounds)
        more = Spread.of(runs[_KL]["peak_mib"] / runs[_OURS]["peak_mib"] for runs in rounds)
        targets.append(Target("time, pairs_loss kl / ce", slower, _KL_COST))
        targets.append(Target("peak memory, pairs_loss kl / ce", more, _KL_MEMORY))
    if dtype == "float32":
        gap = Spread.of(_largest_gap(runs[_OURS], runs[_DEFAULTS]) for runs in rounds)
        targets.append(Target("largest difference in the loss of a step", gap, _LOSS, ""))
    first = rounds[0][_OURS]
    by_cpu = _ratio(rounds, lambda run: run["tokens"] / run["cpu_seconds"])
    return "\n\n".join(
        [
            f"{now()} UTC; load average {os.getloadavg()[0]:.1f}. {_about(setting, first)}",
            target_table(targets),
            _way_table(rounds),
            f"Tokens per CPU s, delia train / SFTTrainer's defaults: {by_cpu.text('x')}.",
        ]
    )


def _about(setting: Setting, run: Run) -> str:
    given = setting.given
    device = run["card"] or f"{run['threads']} threads"
    padding = run["padded_to"] / run["tokens"]
    return (
        f"{given.model} on {device}; batches of {given.batch} rows of up to {given.length} tokens, "
        f"{given.steps - _SETTLE} of {given.steps} steps timed, rounds: {given.rounds}. "
        f"{run['tokens']:,} tokens, {run['labeled'] / run['tokens']:.0%} of them labeled; padded "
        f"batches hold {padding:.2f} times as many."
    )


def _way_table(rounds: Rounds) -> str:
    head = ["trainer", "tokens/s", "tokens per CPU s", "peak MiB", "FLOP/s", "share of peak FLOP/s"]
    lines = []
    for way, name in WAYS.items():
        runs = [each[way] for each in rounds if way in each]
        if not runs:
            continue
        flops = Spread.of(run["flops"] / run["seconds"] for run in runs)
        peak = runs[0]["peak_flops"]
        cells = [
            name,
            Spread.of(run["tokens"] / run["seconds"] for run in runs).text(),
            Spread.of(run["tokens"] / run["cpu_seconds"] for run in runs).text(),
            Spread.of(run["peak_mib"] for run in runs).text(),
            f"{flops.median:.3g}",
            f"{flops.median / peak:.1%}" if peak else "unknown",
        ]
        lines.append(cells)
    return table(head, lines)


def _train_rounds(setting: Setting, dtype: str) -> Rounds:
    """Run every way once per round."""
    rounds: Rounds = []
    for number, ways in enumerate(take_turns(setting.given.ways, setting.given.rounds)):
        runs = {}
        for way in ways:
            run = runs[way] = setting.train(way, dtype, number)
            log(
                f"  round {number + 1} of {setting.given.rounds}, {WAYS[way]}: "
                f"{run['tokens'] / run['seconds']:.0f} tokens/s, {run['peak_mib']:.0f} MiB"
            )
        rounds.append(runs)
    return rounds


def _ratio(rounds: Rounds, value: Callable[[Run], float]) -> Spread:
    """Return a value of `delia train` as a multiple of the defaults', paired by round."""
    return Spread.of(value(runs[_OURS]) / value(runs[_DEFAULTS]) for runs in rounds)


def _largest_gap(ours: Run, theirs: Run) -> float:
    """Return the largest difference between the losses of a step."""
    return max(abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True))


def _mixture(cache: Path | None, work: Path) -> Path:
    """Mix the bundled task at ratio 20 with pairs of a cache, by default the bundled one."""
    from delia_data.diversify import diversify
    from delia_data.mixing import mix, save_mixture
    from delia_data.sampling import bundled_cache_folder
    from delia_data.tasks import bundled_task, bundled_wordings

    task = bundled_task()
    rows = diversify(task, bundled_wordings(task.name), seed=0)
    folder, pairs = work / "mixture", cache or bundled_cache_folder()
    save_mixture(mix(rows.train, pairs, ratio=_RATIO, seed=0, token=task.token), folder)
    return folder


def _title(dtype: str, device: str) -> str:
    return f"Training: the bundled task at ratio {_RATIO}, {dtype}, {device}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the requested cases, print their sections, and write them."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, help="cache folder or file of pairs (bundled)")
    parser.add_argument("--case", choices=["all", "float32", "bfloat16"], default="all")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="name, folder or Hub id")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--batch", type=int, default=16, help="rows per step (16)")
    parser.add_argument("--length", type=int, default=512, help="maximum tokens per row (512)")
    parser.add_argument("--steps", type=int, help="steps per run; fewer are a trial, not written")
    parser.add_argument("--micro-batch-tokens", type=int, help="tokens per packed sequence")
    parser.add_argument("--threads", type=int, help="threads on a CPU (torch's choice)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way (3)")
    parser.add_argument("--work", type=Path, help="folder in which a stopped section resumes")
    parser.add_argument("--results", type=Path, help="file to write; by default none for trials")
    given = parser.parse_args(arguments)
    if given.device == "auto":
        given.device = "cuda" if torch.cuda.is_available() else "cpu"
    full = _STEPS[given.device]
    given.steps = given.steps or full
    if given.rounds < 1 or given.steps <= _SETTLE or not {_OURS, _DEFAULTS} <= set(given.ways):
        parser.error(
            f"--rounds must be at least 1, --steps above {_SETTLE}, and --ways must have "
            f"{_OURS} and {_DEFAULTS}"
        )
    results = given.results or (RESULTS if given.steps >= full else None)
    with ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="train-")))
        work.mkdir(parents=True, exist_ok=True)
        try:
            mixture = _mixture(given.cache, work.resolve())
        except DeliaError as error:
            parser.error(str(error))
        setting = Setting(mixture, work.resolve(), given)
        for dtype in ["float32", "bfloat16"] if given.case == "all" else [given.case]:
            title = _title(dtype, given.device)
            log(title)
            body = _case(setting, dtype)
            print(f"## {title}\n\n{body}\n", flush=True)
            if results is not None:
                replace_section(results, title, body)
            shutil.rmtree(setting.runs)  # the next run may measure different code


if __name__ == "__main__":
    main()
