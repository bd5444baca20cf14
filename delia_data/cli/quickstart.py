"""`delia quickstart`: the whole chain on the embedded model, with a report to look at."""

from __future__ import annotations

import platform
import resource
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from delia_data._version import __version__
from delia_data.cli._chain import Chain, ChainSettings, Probed
from delia_data.cli._console import console
from delia_data.cli._json import AsJson, plain, show_json
from delia_data.evaluation import (
    FormattedTextScore,
    QuickstartReport,
    interval,
    score_formatted_text,
    write_report,
)
from delia_data.mixing import parse_ratio
from delia_data.outputs import Manifest, folder_lock

_LIBRARIES = ("datasets", "transformers", "torch", "peft", "trl")


def command(
    out: Annotated[Path, typer.Option(help="Folder of the run; a rerun goes on there.")] = Path(
        "quickstart"
    ),
    pairs: Annotated[
        int | None, typer.Option(help="Pairs to sample; 96, or as many as --ratio needs.")
    ] = None,
    ratio: Annotated[
        str | None, typer.Option(help="Pairs for each task row; by default all that are sampled.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every step.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Sample, diversify, mix, load, train and ask: the whole chain, in minutes on two cores."""
    wanted = None if ratio is None else parse_ratio(ratio)
    if pairs is None:
        pairs = ChainSettings.pairs_for(wanted)
    settings = ChainSettings(pairs=pairs, ratio=wanted, seed=seed, device=device)
    report = quickstart(out, settings)
    if as_json:
        show_json({"out": out, "report": out / "report.html", **plain(report)})


def quickstart(out: Path, settings: ChainSettings) -> QuickstartReport:
    """Run every step that is not done yet, print the answers, and write the report.

    Args:
        out: Folder of the run.
        settings: Its settings.

    Returns:
        What the report shows.
    """
    began = time.monotonic()
    chain = Chain(out, settings)
    with folder_lock(out):
        chain.begin()
        cache = chain.sample()
        chain.diversify()
        mixture = chain.mix()
        rows = chain.read_back()
        before = chain.probe_before()
        chain.train(rows)
        after = chain.probe_after()
        report = _report(chain, cache, mixture, before, after)
        write_report(out / "report.html", report)
    _print_answers(before, after)
    _print_shares(report)
    memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(
        f"\n{(time.monotonic() - began) / 60:.1f} minutes, {memory_gib:.1f} GiB of memory at most\n"
        f"Everything to look at: {out / 'report.html'}",
        soft_wrap=True,
    )
    return report


def _report(
    chain: Chain, cache: Manifest, mixture: Manifest, before: Probed, after: Probed
) -> QuickstartReport:
    scores = _scores(chain, before, after)
    pairs = [(before.shown, after.shown), *zip(before.rows, after.rows, strict=True)]
    return QuickstartReport(
        model=str(cache.settings["model"]["name"]),
        settings={
            "quickstart": asdict(chain.settings),
            "sampling": cache.settings["sampling"],
            "mixture": mixture.settings,
            "training": chain.recipe.as_dict(),
        },
        accounting={
            "rows": mixture.rows,
            "dropped": {
                **{f"while sampling: {reason}": n for reason, n in cache.dropped.items()},
                **{f"while mixing: {reason}": n for reason, n in mixture.dropped.items()},
            },
        },
        losses=chain.losses(),
        distances_before=before.distances,
        distances_after=after.distances,
        answers=[
            {
                "question": old.question,
                "before_with": old.with_token,
                "before_without": old.without_token,
                "after_with": new.with_token,
                "after_without": new.without_token,
            }
            for old, new in pairs
        ],
        shares={name: (score.parsed, score.rows) for name, score in scores.items()},
        timings=chain.timings,
        versions={
            "delia_data": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        token=chain.task.token,
        keys=chain.task.keys,
    )


def _scores(chain: Chain, before: Probed, after: Probed) -> dict[str, FormattedTextScore]:
    """Formatted text on the held-out rows, before and after, with the token and without."""
    answers = {
        "before_with": [row.with_token for row in before.rows],
        "before_without": [row.without_token for row in before.rows],
        "after_with": [row.with_token for row in after.rows],
        "after_without": [row.without_token for row in after.rows],
    }
    keys = chain.task.keys
    return {name: score_formatted_text(texts, keys) for name, texts in answers.items()}


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _print_answers(before: Probed, after: Probed) -> None:
    table = _table("", "before training", "after training")
    shown = (before.shown, after.shown)
    table.add_row("with <sep>", *(Text(row.with_token) for row in shown))
    table.add_section()
    table.add_row("without", *(Text(row.without_token) for row in shown))
    console.print(f"\n{before.shown.question}\n", markup=False)
    console.print(table)


def _print_shares(report: QuickstartReport) -> None:
    """Print the share of held-out rows whose answer parses as the asked-for JSON."""
    table = _table("held-out rows whose answer parses", "before training", "after training")
    for label, kind in (("with <sep>", "with"), ("without", "without")):
        cells = []
        for when in ("before", "after"):
            parsed, rows = report.shares[f"{when}_{kind}"]
            low, high = interval(parsed, rows)
            cells.append(f"{parsed} of {rows} (95%: {low:.0%} to {high:.0%})")
        table.add_row(label, *cells)
    console.print(table)
