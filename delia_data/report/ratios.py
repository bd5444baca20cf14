"""Chapter: how many pairs are enough, as series of ratios say."""

from __future__ import annotations

from delia_data.evaluation._html import element, escape, table
from delia_data.evaluation.page import Tile
from delia_data.ratio.drawing import ratio_curve, ratio_losses
from delia_data.ratio.result import RatioResult, Value, read_ratio
from delia_data.report.chapter import Figures, Found
from delia_data.report.numbers import count, value
from delia_data.report.runs import Runs


def ratios(runs: Runs, figures: Figures) -> Found | None:
    """Show series of ratios."""
    found = [(run.label, read_ratio(run.folder)) for run in runs.of("ratio")]
    if not found:
        return None
    body: list[str] = []
    data = []
    for label, series in found:
        if len(found) > 1:
            body.append(element("h3", escape(label)))
        body.append(_series(series, figures))
        data.append({"run": label, **series.as_dict()})
    told = [f"How much is enough, {label}: {series.told[0]}." for label, series in found]
    tiles = [
        Tile(
            f"Ratio that is enough, {label}",
            element("b", escape(f"{series.chosen.ratio:g}")),
            f"{series.chosen.verdict}; {series.chosen.share:.0%} of draws",
        )
        for label, series in found
    ]
    note = (
        "Losses are nats a token of held-out answers; in brackets is the interval over rows, and "
        "over seeds where there are several, for comparing ratios with each other."
    )
    return Found("".join(body), data, told, tiles, note)


def _series(series: RatioResult, figures: Figures) -> str:
    told = "".join(element("li", escape(line)) for line in series.told)
    by = {"loss": "held-out loss", "selectivity": "selectivity of the loss"}[series.chosen.by]
    drawn = (
        figures(
            ratio_curve(series),
            "The curve",
            f"By {by}: points with intervals, the fitted curve with its band, the recommendation.",
        ),
        figures(
            ratio_losses(series),
            "Losses by ratio",
            "Of held-out answers with the token and without it, and of pairs in no mixture.",
        ),
    )
    shares = series.chosen.shares
    rows = [
        [
            f"{point.ratio:g}",
            count(point.pairs),
            _nats(point.loss),
            _nats(point.plain),
            _nats(point.selectivity),
            _nats(point.pair_loss),
            f"{share:.0%}",
        ]
        for point, share in zip(series.points, shares, strict=True)
    ]
    head = (
        *("Ratio", "Pairs", f"Loss with {series.token}", "Loss without", "Selectivity"),
        *("Loss of other pairs", "Share of draws"),
    )
    return (
        element("ul", told)
        + element("div", "".join(drawn), kind="figures")
        + table(head, rows, kind="numbers wide", name="The series")
    )


def _nats(found: Value | None) -> object:
    return value(found, digits=3)
