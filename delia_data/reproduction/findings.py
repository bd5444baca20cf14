"""What the numbers say beside the paper's claims: sentences that follow from them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from delia_data.reproduction.curves import reduction_curves, task_loss_curves
from delia_data.reproduction.results import Results
from delia_data.reproduction.seeds import Measured
from delia_data.training.baselines import BASELINES

__all__ = ["Finding", "find"]

Verdict = Literal["agrees", "disagrees", "unclear", "not run"]
_FORMATTED: Final = "formatted-text"


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
    words = results.keywords(_FORMATTED)
    means: dict[str, float] = {}
    for method in BASELINES:
        if method == "pairs_only":  # it does not see the token
            continue
        found = results.of(_FORMATTED, method)
        known = [results.distance(found, word, measure="relative") for word in words]
        if known and all(one is not None for one in known):
            means[method] = sum(one.value for one in known if one) / len(known)
    others = {method: value for method, value in means.items() if method != "delia"}
    if "delia" not in means or not others:
        return Finding(claim, "not run", "DELIA, or all others, have not been run.")
    best = min(others, key=lambda method: others[method])
    told = (
        f"Middle block, L2 over that of ordinary words, mean of {_and(words)}: DELIA "
        f"{means['delia']:.3f}, the nearest other is {BASELINES[best].title} with "
        f"{others[best]:.3f}; before any training it is {_or_none(means.get('original'))}."
    )
    return Finding(claim, "agrees" if means["delia"] < others[best] else "disagrees", told)


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
    ends = [(curve.ratio, curve.mean[-1]) for curve in task_loss_curves(results)]
    return _falling(claim, ends, "loss on held-out rows at the end")


def _states(results: Results) -> Finding:
    claim = "More diverse data leaves fewer states, relative to diverse data alone (Figure 4)."
    ends = [(curve.ratio, curve.mean[-1]) for curve in reduction_curves(results)]
    return _falling(claim, ends, "times fewer states at the end", rising=True)


def _translation(results: Results) -> list[Finding]:
    found = []
    for way, name in (("en-is", "English-Icelandic"), ("is-en", "Icelandic-English")):
        if way not in results.grid.experiments:
            continue
        ours = results.scores(results.of(way, "delia"))  # type: ignore[arg-type]
        theirs = results.scores(results.of(way, "common"))  # type: ignore[arg-type]
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


def _falling(
    claim: str, ends: Sequence[tuple[float, float]], what: str, *, rising: bool = False
) -> Finding:
    if len(ends) < 2:
        return Finding(claim, "not run", "Fewer than two ratios have been run.")
    values = [value for _, value in ends]
    pairs = list(pairwise(values))
    told = f"{what}: " + ", ".join(f"{value:.3g} at ratio {ratio:g}" for ratio, value in ends) + "."
    if all(b > a if rising else b < a for a, b in pairs):
        return Finding(claim, "agrees", told)
    if all(b <= a if rising else b >= a for a, b in pairs):
        return Finding(claim, "disagrees", told)
    return Finding(claim, "unclear", f"{told} It goes both ways.")


def _told(measured: Measured, share: bool) -> str:
    write = (lambda value: f"{100 * value:.0f}%") if share else (lambda value: f"{value:.3f}")
    seeds = ", ".join(write(value) for value in measured.by_seed)
    text = write(measured.value)
    if measured.low is not None and measured.high is not None:
        text += f" [{write(measured.low)}, {write(measured.high)}]"
    return text + (f" (seeds {seeds})" if len(measured.by_seed) > 1 else " (one seed)")


def _and(words: Sequence[str]) -> str:
    return " and ".join(f"“{word}”" for word in words)


def _or_none(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
