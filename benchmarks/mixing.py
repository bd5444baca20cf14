"""How fast mixing is, and in how much memory, beside other ways and beside the limit.

    python -m benchmarks.mixing                          # every case, into benchmarks/RESULTS.md
    python -m benchmarks.mixing --case small --rounds 5
    python -m benchmarks.mixing --case million --scale 0.01   # a trial: printed, not written

Every candidate runs in a process and a folder of its own. They take turns: each round runs all of
them, beginning with another one, and ratios are of two runs of the same round. Inputs are read once
beforehand, so that all find them in the page cache; imports are not timed.

    small          100 task rows at ratio 260, out of 52,000 pairs
    million        100 task rows, 1,000,000 pairs, all used
    three-million  the same with 3,000,000 pairs: ours and the limit, one round; 8 GB of disk
    second         other ratios of the small cache, after the first
    warm           loading the small mixture again, beside Parquet of the same rows
    headline       `load_dataset("delia_mix", ratio=260)`, as the README has it
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks._inputs import Inputs, make_inputs
from benchmarks._measure import (
    Measured,
    Phase,
    measure,
    measure_headline,
    measure_ratios,
    measure_warm,
)
from benchmarks._report import Spread, Target, now, replace_section, table, target_table
from benchmarks.candidates import CANDIDATES, LIMIT, OURS, USUAL, Candidate

__all__ = ["main"]

_RESULTS: Final = Path(__file__).with_name("RESULTS.md")
_TASK_ROWS: Final = 100
_RATIO: Final = 260
_MEMORY_MIB: Final = 4096
_WARM_REPEATS: Final = 20

_TIMES: Final[dict[str, Callable[[Measured], float]]] = {
    "build": lambda run: run.build.wall_s,
    "first row of a cold load": lambda run: run.first_row_s,
    "iterate": lambda run: run.iterate.wall_s,
}
# Not what the targets are about, but how loaders read: `dataset.iter(1_000)`.
_MORE: Final[dict[str, Callable[[Measured], float]]] = {
    "iterate in batches": lambda run: run.batches.wall_s,
    "build, peak memory": lambda run: run.build.peak_mib,
}

Rounds = list[dict[str, Measured]]  # each round: what each candidate took, by its name


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run was asked for.

    Attributes:
        work: Folder of inputs and of all that the candidates write.
        rounds: Times that every candidate runs.
        scale: What row counts are multiplied by; 1 but for trials.
    """

    work: Path
    rounds: int
    scale: float

    def inputs(self, *, pairs_a_row: int, ratio: int) -> Inputs:
        """Make the files of a case, and read them once."""
        task_rows = max(1, round(_TASK_ROWS * self.scale))
        _say(f"inputs: {task_rows * pairs_a_row:,} pairs")
        inputs = make_inputs(
            self.work, task_rows=task_rows, pairs=task_rows * pairs_a_row, ratio=ratio
        )
        for path in (inputs.task, inputs.cache):
            with open(path, "rb") as file:
                while file.read(1 << 24):
                    pass
        return inputs


@dataclass(frozen=True, slots=True)
class Case:
    """One section of the results: its title, and what runs it and gives its text."""

    title: str
    run: Callable[[Setting], str]


def _small(setting: Setting) -> str:
    return _against_others(setting, setting.inputs(pairs_a_row=520, ratio=_RATIO))


def _million(setting: Setting) -> str:
    return _against_others(setting, setting.inputs(pairs_a_row=10_000, ratio=10_000))


def _against_others(setting: Setting, inputs: Inputs) -> str:
    """Every candidate; ours is to be at least three times as fast as the usual way."""
    rounds = _alternate(CANDIDATES, inputs, setting)
    targets = [
        Target(f"{what}, usual way / ours", _ratio(rounds, USUAL, OURS, figure), 3, at_least=True)
        for what, figure in _TIMES.items()
    ]
    parts = [
        _line(setting, inputs, f"rounds: {setting.rounds}"),
        target_table(targets),
        _measured_table(CANDIDATES, rounds),
        "Times and memory as multiples of ours, round by round: above 1, ours takes less.",
        _ratio_table(CANDIDATES, rounds),
        _lacks_table(CANDIDATES),
    ]
    return "\n\n".join(parts)


def _three_million(setting: Setting) -> str:
    """Ours and the limit; ours is to keep to 4 GiB."""
    inputs = setting.inputs(pairs_a_row=30_000, ratio=30_000)
    rounds = _alternate((OURS, LIMIT), inputs, setting, rounds=1)
    ours = rounds[0][OURS.name]
    targets = [
        Target("build, peak memory", _one(ours.build.own_mib), _MEMORY_MIB, " MiB"),
        Target("iterate, peak memory", _one(ours.iterate.own_mib), _MEMORY_MIB, " MiB"),
    ]
    parts = [
        _line(setting, inputs, "rounds: 1; peak memory without pages of mapped files"),
        target_table(targets),
        _measured_table((OURS, LIMIT), rounds),
        _lacks_table((LIMIT,)),
    ]
    return "\n\n".join(parts)


def _second(setting: Setting) -> str:
    """Another ratio of the same cache, each load in a process of its own."""
    inputs = setting.inputs(pairs_a_row=520, ratio=_RATIO)
    ratios = (_RATIO, _RATIO // 4, _RATIO // 2)
    rounds = [measure_ratios(inputs, setting.work, ratios) for _ in range(setting.rounds)]
    targets = [
        Target(
            f"ratio {ratio} after ratio {_RATIO}, as a share of the first",
            Spread.of(taken[number] / taken[0] for taken in rounds),
            0.3,
        )
        for number, ratio in enumerate(ratios)
        if number
    ]
    rows = [
        [f"ratio {ratio}", Spread.of(taken[number] for taken in rounds).text()]
        for number, ratio in enumerate(ratios)
    ]
    parts = [
        _line(setting, inputs, f"rounds: {setting.rounds}; modules imported beforehand"),
        target_table(targets),
        table(["load_dataset", "seconds"], rows),
    ]
    return "\n\n".join(parts)


def _warm(setting: Setting) -> str:
    """A second load in one process, beside Parquet of the same rows."""
    inputs = setting.inputs(pairs_a_row=520, ratio=_RATIO)
    taken = measure_warm(inputs, setting.work, _WARM_REPEATS)
    ratio = Spread.of(ours / parquet for ours, parquet in taken)
    rows = [
        [f'load_dataset("{name}", ...)', Spread.of(1000 * t for t in times).text()]
        for name, times in zip(("delia_mix", "parquet"), zip(*taken, strict=True), strict=True)
    ]
    parts = [
        _line(setting, inputs, f"repeats in one process: {_WARM_REPEATS}"),
        target_table([Target("warm load, delia_mix / parquet", ratio, 1.2)]),
        table(["warm load", "milliseconds"], rows),
    ]
    return "\n\n".join(parts)


def _headline(setting: Setting) -> str:
    """What the package alone gives, to a new program and to the next one."""
    cold, warm = zip(
        *(measure_headline(setting.work, _RATIO) for _ in range(setting.rounds)), strict=True
    )
    targets = [
        Target("cold load, after the imports", Spread.of(cold), 3, " s"),
        Target("warm load in another process", Spread.of(warm), 0.5, " s"),
    ]
    line = f"{now()} UTC; rounds: {setting.rounds}; load average {os.getloadavg()[0]:.1f}."
    return f"{line}\n\n{target_table(targets)}"


_CASES: Final = {
    "small": Case("Mixing: 100 task rows at ratio 260, out of 52,000 pairs", _small),
    "million": Case("Mixing: 1,000,000 pairs, all used", _million),
    "three-million": Case("Mixing: 3,000,000 pairs, all used", _three_million),
    "second": Case("Mixing: a second ratio of the same cache", _second),
    "warm": Case("Mixing: warm load of the mixture at ratio 260", _warm),
    "headline": Case("Mixing: the bundled task and cache at ratio 260", _headline),
}


def _alternate(
    candidates: Sequence[Candidate], inputs: Inputs, setting: Setting, rounds: int | None = None
) -> Rounds:
    """Run every candidate once a round, each round beginning with another one."""
    count = rounds or setting.rounds
    done: Rounds = []
    for number in range(count):
        begin = number % len(candidates)
        runs = {}
        for candidate in (*candidates[begin:], *candidates[:begin]):
            run = runs[candidate.name] = measure(candidate.name, inputs, setting.work)
            _say(f"  round {number + 1} of {count}, {candidate.name}: {_short(run)}")
        done.append(runs)
    return done


def _ratio(
    rounds: Rounds, of: Candidate, to: Candidate, figure: Callable[[Measured], float]
) -> Spread:
    """One figure of a candidate as a multiple of another's, paired within rounds."""
    return Spread.of(figure(runs[of.name]) / figure(runs[to.name]) for runs in rounds)


def _one(value: float) -> Spread:
    return Spread.of([value])


def _measured_table(
    candidates: Sequence[Candidate], rounds: Rounds, also: dict[str, Measured] | None = None
) -> str:
    """What each candidate took: medians of the rounds."""
    head = ["candidate", "rows", "build s", "CPU s", "peak MiB (own)", "first row s"]
    head += ["iterate s", "CPU s", "peak MiB (own)", "in batches s"]
    runs = {c.name: [each[c.name] for each in rounds] for c in candidates}
    runs |= {name: [run] for name, run in (also or {}).items()}
    return table(head, [[name, *_cells(taken)] for name, taken in runs.items()])


def _cells(runs: Sequence[Measured]) -> list[str]:
    def middle(figure: Callable[[Measured], float]) -> str:
        return _one(Spread.of(map(figure, runs)).median).text()

    def phase(get: Callable[[Measured], Phase]) -> list[str]:
        peak, own = (
            Spread.of(getattr(get(run), name) for run in runs).median
            for name in ("peak_mib", "own_mib")
        )
        times = (middle(lambda r: get(r).wall_s), middle(lambda r: get(r).cpu_s))
        return [*times, f"{peak:,.0f} ({own:,.0f})"]

    build, iterate = phase(lambda run: run.build), phase(lambda run: run.iterate)
    first, batches = middle(lambda run: run.first_row_s), middle(lambda run: run.batches.wall_s)
    return [f"{runs[0].rows:,}", *build, first, *iterate, batches]


def _ratio_table(candidates: Sequence[Candidate], rounds: Rounds) -> str:
    figures = _TIMES | _MORE
    rows = [
        [c.name, *(_ratio(rounds, c, OURS, figure).text() for figure in figures.values())]
        for c in candidates
        if c is not OURS
    ]
    return table([f"candidate / {OURS.name}", *figures], rows)


def _lacks_table(candidates: Sequence[Candidate]) -> str:
    return table(
        ["candidate", "what it does not do"], [[c.name, c.lacks] for c in candidates if c.lacks]
    )


def _line(setting: Setting, inputs: Inputs, how_often: str) -> str:
    """When and of what the section is, and how busy the machine was."""
    trial = "" if setting.scale == 1 else f" A trial at scale {setting.scale:g}: no result."
    return (
        f"{now()} UTC; {how_often}; load average {os.getloadavg()[0]:.1f}; task rows: "
        f"{inputs.task_rows:,}; pairs: {inputs.pairs:,}; ratio: {inputs.ratio:,}.{trial}"
    )


def _short(run: Measured) -> str:
    build, iterate = run.build, run.iterate
    return f"build {build.wall_s:.2f} s, {build.peak_mib:.0f} MiB; iterate {iterate.wall_s:.2f} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases that the command line asks for, print their sections, and write them."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.mixing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", choices=["all", *_CASES], default="all")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every candidate (3)")
    parser.add_argument("--work", type=Path, help="folder that keeps the inputs for the next run")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply row counts, for trials")
    parser.add_argument("--results", type=Path, help="file to write; for trials none by default")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.scale <= 0:
        parser.error("--rounds must be at least 1, --scale above 0")
    results = given.results or (_RESULTS if given.scale == 1 else None)
    with ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mix-")))
        work.mkdir(parents=True, exist_ok=True)
        setting = Setting(work.resolve(), given.rounds, given.scale)
        for case in _CASES.values() if given.case == "all" else [_CASES[given.case]]:
            _say(case.title)
            body = case.run(setting)
            print(f"## {case.title}\n\n{body}\n", flush=True)
            if results is not None:
                replace_section(results, case.title, body, [c.title for c in _CASES.values()])


if __name__ == "__main__":
    main()
