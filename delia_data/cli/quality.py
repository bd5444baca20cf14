"""`delia quality`: measure a finished cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.table import Table

from delia_data.cli._flags import argument, option
from delia_data.cli._output import AsJson, console, show_json, step
from delia_data.sampling import Quality, measure_quality

_SHARES: Final = {
    "accepted_share": "of the finished rows were accepted",
    "cut_off_share": "of the answers use all the tokens allowed",
    "near_duplicate_share": "of the pairs nearly repeat the words of an earlier one",
    "similar_share": "of the pairs are close in meaning to an earlier one",
    "coverage": "of the compared answers are covered",
    "rival_coverage": "of them are covered by as many of the same source",
    "language_share": "of the answers are not surely in another language",
}
_FIGURES: Final = {
    "distinct_1": "distinct-1: unique words divided by all words",
    "distinct_2": "distinct-2: unique pairs of adjacent words divided by all",
    "mean_words": "words per answer",
}


def command(
    cache: Path = argument("A finished cache folder, or bundled."),
    compare: Path | None = option(None, "Another cache to compare the coverage of answers with."),
    language: str | None = option(None, "Language that answers should have, such as en."),
    embed: bool = option(
        True, "Compare meanings too (all-MiniLM-L6-v2; minutes for 10,000 pairs)."
    ),
    as_json: AsJson = False,
) -> None:
    """Measure a cache: acceptance, repetition, diversity, coverage, language, secrets."""
    from delia_data.hub.secrets import kinds
    from delia_data.sampling.embeddings import Embedder

    with step("measuring"):
        quality = measure_quality(
            cache,
            embed=Embedder() if embed else None,
            compare=compare,
            language=language,
            scan=kinds,
        )
    if as_json:
        show_json(quality)
    else:
        console.print(_table(quality))


def _table(quality: Quality) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_row(f"{quality.pairs:,}", "pairs")
    shown: dict[str, Any] = {name: getattr(quality, name) for name in (*_SHARES, *_FIGURES)}
    for name, words in _SHARES.items():
        if shown[name] is not None:
            table.add_row(f"{100 * shown[name]:.1f} %", words)
    for name, words in _FIGURES.items():
        if shown[name] is not None:
            table.add_row(f"{shown[name]:.3g}", words)
    for reason, count in quality.rejected.items():
        table.add_row(f"{count:,}", f"rejected: {reason}")
    if quality.found is not None:
        for kind, count in quality.found.items():
            table.add_row(f"{count:,}", f"pairs with: {kind}")
        if not quality.found:
            table.add_row("0", "pairs with a secret or an e-mail address")
    return table
