"""What the numbers say beside the paper's claims: sentences that follow from them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from delia_data.reproduction.curves import Curve, reduction_curves, task_loss_curves
from delia_data.reproduction.grid import ExperimentName
from delia_data.reproduction.results import Results
from delia_data.reproduction.seeds import Measured, over_seeds
from delia_data.training.baselines import BASELINES

Verdict = Literal["agrees", "disagrees", "unclear", "not run"]
_FORMATTED: Final = "formatted-text"
_LEAST_CHANGE: Final = 0.01  # of the end of a curve; smaller ones are none


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim, and what our numbers say of it.

    Attributes:
        claim: The claim, the paper's or this project's.
        verdict: Whether our numbers agree: `"unclear"` where the seeds' ranges overlap.
        numbers: The numbers that the verdict follows from, in words.
    """

    claim: str
    verdict: Verdict
    numbers: str


def find(results: Results) -> list[Finding]:
    """Hold the numbers against the claims, one by one."""
    return [
        *_selectivity(results),
        *_accuracy(results),
        _nearest(results),
        *_ablation(results),
        _loss(results),
        _states(results),
        *_translation(results),
    ]


def _selectivity(results: Results) -> list[Finding]:
    return [
        _above(
            f"With DELIA the format hangs on the token more than with {BASELINES[other].title}, "
            "as selectivity says.",
            "DELIA",
            results.selectivity(results.of(_FORMATTED, "delia")),
            BASELINES[other].title,
            results.selectivity(results.of(_FORMATTED, other)),
        )
        for other in ("common", "step_matched")
    ]


def _accuracy(results: Results) -> list[Finding]:
    ours = results.shares(results.of(_FORMATTED, "delia"))
    return [
        _above(
            f"DELIA gives the asked format more often than {BASELINES[other].title} (Table 2).",
            "DELIA",
            ours,
            BASELINES[other].title,
            results.shares(results.of(_FORMATTED, other)),
        )
        for other in ("original", "common", "step_matched", "controlled")
    ]


def _nearest(results: Results) -> Finding:
    claim = "DELIA brings the token nearer to its keywords than any other method (Table 1)."
    # Diverse data alone do not name the token.
    means = {m: known for m in BASELINES if m != "pairs_only" and (known := _mean(results, m))}
    others = {method: value for method, value in means.items() if method != "delia"}
    if "delia" not in means or not others:
        return Finding(claim, "not run", "DELIA, or all others, have not been run.")
    best = min(others, key=lambda method: others[method].value)
    ours, theirs = means["delia"], others[best]
    words = " and ".join(f"“{word}”" for word in results.keywords(_FORMATTED))
    told = (
        f"Middle block, L2 over that of ordinary words, mean of {words}: DELIA "
        f"{_told(ours, False)}; the nearest other is {BASELINES[best].title} with "
        f"{_told(theirs, False)}."
    )
    if max(ours.by_seed) < min(theirs.by_seed):
        return Finding(claim, "agrees", told)
    if min(ours.by_seed) > max(theirs.by_seed):
        return Finding(claim, "disagrees", told)
    return Finding(claim, "unclear", f"{told} Seeds overlap.")


def _mean(results: Results, method: str) -> Measured | None:
    """Mean over the keywords of the relative distance in the middle block."""
    found = results.of(_FORMATTED, method)
    words = results.keywords(_FORMATTED)
    known = [results.distance(found, word, measure="relative") for word in words]
    seeds = [one.by_seed for one in known if one is not None]
    if not seeds or len(seeds) < len(known):
        return None
    return over_seeds([sum(values) / len(values) for values in zip(*seeds, strict=True)])


def _ablation(results: Results) -> list[Finding]:
    ours = results.selectivity(results.of(_FORMATTED, "delia"))
    return [
        _above(
            f"Leaving out one of DELIA's two parts does harm: selectivity of {title} (Table 4).",
            "DELIA",
            ours,
            title,
            results.selectivity(results.of(_FORMATTED, method)),
        )
        for method, title in ((m, BASELINES[m].title) for m in ("no_diverse", "no_wordings"))
    ]


def _loss(results: Results) -> Finding:
    claim = "More diverse data ends in a lower loss on the task (Figure 3)."
    return _falling(claim, task_loss_curves(results), "loss on held-out rows at the end")


def _states(results: Results) -> Finding:
    claim = "More diverse data leaves fewer states, relative to diverse data alone (Figure 4)."
    what = "times fewer states at the end"
    return _falling(claim, reduction_curves(results), what, rising=True)


def _translation(results: Results) -> list[Finding]:
    found = []
    ways: tuple[tuple[ExperimentName, str], ...] = (
        ("en-is", "English-Icelandic"),
        ("is-en", "Icelandic-English"),
    )
    for way, name in ways:
        if way not in results.grid.experiments:
            continue
        ours = results.scores(results.of(way, "delia"))
        theirs = results.scores(results.of(way, "common"))
        claim = f"DELIA translates better than common instruction tuning, {name} (Table 3)."
        found.append(_above(claim, "DELIA", ours, BASELINES["common"].title, theirs, share=False))
    return found


def _above(
    claim: str,
    name: str,
    ours: Measured | None,
    other: str,
    theirs: Measured | None,
    *,
    share: bool = True,
) -> Finding:
    """Judge whether one number is above another, seeds against seeds."""
    if ours is None or theirs is None:
        missing = name if ours is None else other
        return Finding(claim, "not run", f"{missing} has not been run.")
    told = f"{name} {_told(ours, share)}; {other} {_told(theirs, share)}."
    if min(ours.by_seed) > max(theirs.by_seed) and _apart(ours, theirs):
        return Finding(claim, "agrees", told)
    if max(ours.by_seed) < min(theirs.by_seed) and _apart(theirs, ours):
        return Finding(claim, "disagrees", told)
    return Finding(claim, "unclear", f"{told} Seeds or intervals overlap.")


def _apart(high: Measured, low: Measured) -> bool:
    """Whether the intervals over rows lie apart; numbers without one always do."""
    return high.low is None or low.high is None or high.low > low.high


def _falling(claim: str, curves: Sequence[Curve], what: str, *, rising: bool = False) -> Finding:
    """Judge whether the ends of curves fall, or rise, from each ratio to the next."""
    if len(curves) < 2:
        return Finding(claim, "not run", "Fewer than two ratios have been run.")
    ends = ", ".join(f"{curve.mean[-1]:.3g} at ratio {curve.ratio:g}" for curve in curves)
    told = f"{what[0].upper()}{what[1:]}: {ends}."
    ways = {_way(a, b) for a, b in pairwise(curves)}
    if ways == {1 if rising else -1}:
        return Finding(claim, "agrees", told)
    if ways == {-1 if rising else 1}:
        return Finding(claim, "disagrees", told)
    return Finding(claim, "unclear", f"{told} It does not go one way beyond the seeds' range.")


def _way(a: Curve, b: Curve) -> int:
    """1 where a curve ends above another for all seeds and by 1%, -1 where below, else 0."""
    low, high = min(a.high[-1], b.high[-1]), max(a.low[-1], b.low[-1])
    if high < low * (1 + _LEAST_CHANGE):
        return 0
    return 1 if b.mean[-1] > a.mean[-1] else -1


def _told(measured: Measured, share: bool) -> str:
    """Write a number with its interval and its seeds."""

    def write(value: float) -> str:
        return f"{100 * value:.0f}%" if share else f"{value:.3f}"

    seeds = ", ".join(write(value) for value in measured.by_seed)
    text = write(measured.value)
    if measured.low is not None and measured.high is not None:
        text += f" [{write(measured.low)}, {write(measured.high)}]"
    return text + (f" (seeds {seeds})" if len(measured.by_seed) > 1 else " (one seed)")
