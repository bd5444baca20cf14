"""Measure the time and memory of mixing, compared with other libraries and a lower bound.

    python -m benchmarks.mixing                          # all cases, into benchmarks/RESULTS.md
    python -m benchmarks.mixing --case small --rounds 5
    python -m benchmarks.mixing --case million --scale 0.01   # a trial: printed, not written

Every candidate has its own process and folder. Candidates take turns: each round runs all of them
and begins with a different one. A ratio compares two runs of the same round. The inputs are read
once beforehand, so that all candidates find them in the page cache. Imports are not timed.

    small          100 task rows at ratio 260, from 52,000 pairs
    million        100 task rows, all of 1,000,000 pairs
    three-million  the same with 3,000,000 pairs: delia_mix and the lower bound, one round; 8 GB
    second         other ratios of the small cache, after the first
    warm           loading the small mixture again, compared with Parquet of the same rows
    headline       `load_dataset("delia_mix", ratio=260)`, as in the README
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from benchmarks._cases import Case, Setting, case_parser, log, run_cases, take_turns
from benchmarks._inputs import Inputs, make_inputs
from benchmarks._measure import (
    Phase,
    Run,
    measure,
    measure_headline,
    measure_ratios,
    measure_warm,
)
from benchmarks._report import Spread, Target, table, target_table
from benchmarks.candidates import CANDIDATES, DATASETS, LOWER_BOUND, OURS, Candidate

__all__ = ["main"]

_TASK_ROWS: Final = 100
_RATIO: Final = 260
_MEMORY_MIB: Final = 4096
_WARM_REPEATS: Final = 20

_TIMES: Final[dict[str, Callable[[Run], float]]] = {
    "build": lambda run: run.build.wall_s,
    "first row of a cold load": lambda run: run.first_row_s,
    "iterate": lambda run: run.iterate.wall_s,
}
# Without a target. Data loaders read batches with `dataset.iter(1_000)`.
_OTHERS: Final[dict[str, Callable[[Run], float]]] = {
    "iterate in batches": lambda run: run.batches.wall_s,
    "build, peak memory": lambda run: run.build.peak_mib,
}

Rounds = list[dict[str, Run]]  # for each round the runs by the names of the candidates


def _inputs(setting: Setting, *, pairs_per_row: int, ratio: int) -> Inputs:
    """Make the files of a case, and read them once."""
    task_rows = setting.rows(_TASK_ROWS)
    pairs = task_rows * pairs_per_row
    log(f"inputs: {pairs:,} pairs")
    inputs = make_inputs(setting.work, task_rows=task_rows, pairs=pairs, ratio=ratio)
    for path in (inputs.task, inputs.cache):
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass
    return inputs


def _small(setting: Setting) -> str:
    return _compare(setting, _inputs(setting, pairs_per_row=520, ratio=_RATIO))


def _million(setting: Setting) -> str:
    return _compare(setting, _inputs(setting, pairs_per_row=10_000, ratio=10_000))


def _compare(setting: Setting, inputs: Inputs) -> str:
    """Measure all candidates; the target is three times the speed of `datasets`."""
    rounds = _measure_rounds(CANDIDATES, inputs, setting, setting.rounds)
    targets = [
        Target(
            f"{name}, {DATASETS.name} / {OURS.name}",
            _ratio(rounds, DATASETS, OURS, value),
            3,
            at_least=True,
        )
        for name, value in _TIMES.items()
    ]
    values = _TIMES | _OTHERS
    ratios = [
        [each.name, *(_ratio(rounds, each, OURS, value).text() for value in values.values())]
        for each in CANDIDATES
        if each is not OURS
    ]
    parts = [
        _about(inputs, f"rounds: {setting.rounds}"),
        target_table(targets),
        _run_table(CANDIDATES, rounds),
        f"Time and memory as multiples of {OURS.name}, paired by round. Above 1, {OURS.name} uses "
        "less.",
        table([f"candidate / {OURS.name}", *values], ratios),
        _limitations_table(CANDIDATES),
    ]
    return "\n\n".join(parts)


def _three_million(setting: Setting) -> str:
    """Measure delia_mix and the lower bound; the target is a peak of 4 GiB."""
    inputs = _inputs(setting, pairs_per_row=30_000, ratio=30_000)
    rounds = _measure_rounds((OURS, LOWER_BOUND), inputs, setting, 1)
    ours = rounds[0][OURS.name]
    targets = [
        Target("build, peak memory", _single(ours.build.own_mib), _MEMORY_MIB, " MiB"),
        Target("iterate, peak memory", _single(ours.iterate.own_mib), _MEMORY_MIB, " MiB"),
    ]
    parts = [
        _about(inputs, "rounds: 1; peak memory without pages of mapped files"),
        target_table(targets),
        _run_table((OURS, LOWER_BOUND), rounds),
        _limitations_table((LOWER_BOUND,)),
    ]
    return "\n\n".join(parts)


def _second(setting: Setting) -> str:
    """Load other ratios of the same cache, each in its own process."""
    inputs = _inputs(setting, pairs_per_row=520, ratio=_RATIO)
    ratios = (_RATIO, _RATIO // 4, _RATIO // 2)
    rounds = [measure_ratios(inputs, setting.work, ratios) for _ in range(setting.rounds)]
    targets = [
        Target(
            f"ratio {ratio} after ratio {_RATIO}, as a share of the first load",
            Spread.of(seconds[number] / seconds[0] for seconds in rounds),
            0.3,
        )
        for number, ratio in enumerate(ratios)
        if number
    ]
    rows = [
        [f"ratio {ratio}", Spread.of(seconds[number] for seconds in rounds).text()]
        for number, ratio in enumerate(ratios)
    ]
    parts = [
        _about(inputs, f"rounds: {setting.rounds}; modules imported beforehand"),
        target_table(targets),
        table(["load_dataset", "seconds"], rows),
    ]
    return "\n\n".join(parts)


def _warm(setting: Setting) -> str:
    """Load again in the same process, compared with Parquet of the same rows."""
    inputs = _inputs(setting, pairs_per_row=520, ratio=_RATIO)
    seconds = measure_warm(inputs, setting.work, _WARM_REPEATS)
    ratio = Spread.of(ours / parquet for ours, parquet in seconds)
    rows = [
        [f'load_dataset("{name}", ...)', Spread.of(1000 * each for each in times).text()]
        for name, times in zip(("delia_mix", "parquet"), zip(*seconds, strict=True), strict=True)
    ]
    parts = [
        _about(inputs, f"repeats in one process: {_WARM_REPEATS}"),
        target_table([Target("warm load, delia_mix / parquet", ratio, 1.2)]),
        table(["warm load", "milliseconds"], rows),
    ]
    return "\n\n".join(parts)


def _headline(setting: Setting) -> str:
    """Load the bundled task and cache in a new process, and again in another one."""
    cold, warm = zip(
        *(measure_headline(setting.work, _RATIO) for _ in range(setting.rounds)), strict=True
    )
    targets = [
        Target("cold load, without imports", Spread.of(cold), 3, " s"),
        Target("warm load in another process, without imports", Spread.of(warm), 0.5, " s"),
    ]
    return f"Rounds: {setting.rounds}.\n\n{target_table(targets)}"


_CASES: Final = {
    "small": Case("Mixing: 100 task rows at ratio 260, from 52,000 pairs", _small),
    "million": Case("Mixing: all of 1,000,000 pairs", _million),
    "three-million": Case("Mixing: all of 3,000,000 pairs", _three_million),
    "second": Case("Mixing: a second ratio of the same cache", _second),
    "warm": Case("Mixing: warm load of the mixture at ratio 260", _warm),
    "headline": Case("Mixing: the bundled task and cache at ratio 260", _headline),
}


def _measure_rounds(
    candidates: Sequence[Candidate], inputs: Inputs, setting: Setting, count: int
) -> Rounds:
    """Run every candidate once per round."""
    rounds: Rounds = []
    for number, turns in enumerate(take_turns(candidates, count), start=1):
        runs = {}
        for candidate in turns:
            run = runs[candidate.name] = measure(candidate.name, inputs, setting.work)
            log(
                f"  round {number} of {count}, {candidate.name}: build {run.build.wall_s:.2f} s, "
                f"{run.build.peak_mib:.0f} MiB; iterate {run.iterate.wall_s:.2f} s"
            )
        rounds.append(runs)
    return rounds


def _ratio(
    rounds: Rounds, first: Candidate, second: Candidate, value: Callable[[Run], float]
) -> Spread:
    """Return a value of one candidate as a multiple of another's, paired by round."""
    return Spread.of(value(runs[first.name]) / value(runs[second.name]) for runs in rounds)


def _single(value: float) -> Spread:
    return Spread.of([value])


def _run_table(candidates: Sequence[Candidate], rounds: Rounds) -> str:
    """Return a table of the medians over the rounds."""
    head = ["candidate", "rows", "build s", "CPU s", "peak MiB (own)", "first row s"]
    head += ["iterate s", "CPU s", "peak MiB (own)", "in batches s"]
    rows = [[each.name, *_cells([runs[each.name] for runs in rounds])] for each in candidates]
    return table(head, rows)


def _cells(runs: Sequence[Run]) -> list[str]:
    def median(value: Callable[[Run], float]) -> float:
        return Spread.of(map(value, runs)).median

    def seconds(value: Callable[[Run], float]) -> str:
        return _single(median(value)).text()

    def phase(get: Callable[[Run], Phase]) -> list[str]:
        peak, own = median(lambda r: get(r).peak_mib), median(lambda r: get(r).own_mib)
        times = [seconds(lambda r: get(r).wall_s), seconds(lambda r: get(r).cpu_s)]
        return [*times, f"{peak:,.0f} ({own:,.0f})"]

    build, iterate = phase(lambda run: run.build), phase(lambda run: run.iterate)
    first, batches = seconds(lambda run: run.first_row_s), seconds(lambda run: run.batches.wall_s)
    return [f"{runs[0].rows:,}", *build, first, *iterate, batches]


def _limitations_table(candidates: Sequence[Candidate]) -> str:
    rows = [[each.name, each.limitations] for each in candidates if each.limitations]
    return table(["candidate", "limitations"], rows)


def _about(inputs: Inputs, repeats: str) -> str:
    """Return a line about the inputs and the number of runs."""
    return (
        f"Task rows: {inputs.task_rows:,}; pairs: {inputs.pairs:,}; ratio: {inputs.ratio:,}; "
        f"{repeats}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the selected cases, print their sections, and write them into the results."""
    parser = case_parser("mixing", __doc__, _CASES)
    run_cases(parser, parser.parse_args(arguments), _CASES)


if __name__ == "__main__":
    main()
