"""`delia quickstart`: the whole chain on the embedded model, with a report to look at."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from delia_data._version import __version__
from delia_data.cli._chain import Chain, ChainSettings, Probed
from delia_data.cli._console import console
from delia_data.errors import InputError
from delia_data.evaluation import (
    FormattedTextScore,
    QuickstartReport,
    interval,
    score_formatted_text,
    write_report,
)
from delia_data.files import folder_lock
from delia_data.manifest import Manifest
from delia_data.mixing import parse_ratio

__all__ = ["command", "quickstart"]


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
) -> None:
    """Sample, diversify, mix, load, train and ask: the whole chain, in minutes on two cores."""
    wanted = None if ratio is None else parse_ratio(ratio)
    if pairs is None:
        pairs = 96 if wanted is None else max(1, round(wanted * 100))
    quickstart(out, ChainSettings(pairs=pairs, ratio=wanted, seed=seed, device=device))


def quickstart(out: Path, settings: ChainSettings) -> QuickstartReport:
    """Run every step that is not done yet, print the answers, and write the report.

    Args:
        out: Folder of the run.
        settings: Its settings.

    Returns:
        What the report shows.
    """
    with folder_lock(out):
        chain = Chain(out, settings)
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
    console.print(f"\nEverything to look at: {out / 'report.html'}", soft_wrap=True)
    return report
