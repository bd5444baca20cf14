"""`delia quickstart`: the whole method on the embedded model, with a report."""

from __future__ import annotations

import resource
import time
from pathlib import Path

from delia_data.cli._flags import option
from delia_data.cli._output import AsJson, print_table, say, show_json, show_table, step
from delia_data.evaluation.generation import MODEL, SYSTEMS, UNTRAINED
from delia_data.evaluation.tables import numbers_table
from delia_data.mixing import parse_ratio


def command(
    out: Path = option(Path("quickstart"), "Output folder; a rerun continues there."),
    pairs: int | None = option(None, "Pairs to sample. Default: 128, or as many as --ratio needs."),
    ratio: str | None = option(
        None, "Pairs per task row in an epoch. Default: all pairs over all epochs."
    ),
    seed: int = option(0, "Seed of every step."),
    device: str = option("cpu", "cpu, cuda, cuda:1, ..."),
    as_json: AsJson = False,
) -> None:
    """Sample, diversify, mix, load, train, and evaluate, in minutes on two cores."""
    from delia_data.quickstart import QuickstartSettings, run

    began = time.monotonic()
    wanted = None if ratio is None else parse_ratio(ratio)
    if pairs is None:
        default = QuickstartSettings()
        pairs = default.pairs if wanted is None else max(1, round(wanted * default.task_rows))
    settings = QuickstartSettings(pairs=pairs, ratio=wanted, seed=seed, device=device)
    result = run(out, settings, show_step=step)
    if as_json:
        show_json({"out": out, **{name: getattr(result, name) for name in result.__slots__}})
        return
    token = result.evaluation.token
    titles = {"held-out": f"with {token}", "plain": "without", "forbid": "forbidden"}
    answers = [
        [titles[probe], row.answers[UNTRAINED], row.answers[MODEL]]
        for probe, row in result.shown.items()
    ]
    say(f"\n{result.shown['held-out'].question}\n")
    print_table(("", "untrained", "trained"), answers)
    show_table(numbers_table({SYSTEMS[MODEL]: result.evaluation}))
    memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    say(
        f"\n{(time.monotonic() - began) / 60:.1f} minutes, peak memory {memory_gib:.1f} GiB\n"
        f"Report: {result.report}"
    )
