"""What a series came to, in sentences: what it says, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from delia_data.ratio.recommendation import SETTLED, Recommendation
from delia_data.ratio.result import RatioResult

_NEXT: Final = 4  # a series goes on with about four times as many pairs


def sentences(found: RatioResult) -> Iterator[str]:
    """The outcome in sentences, the recommendation first."""
    chosen = found.chosen
    yield verdict(chosen, task_rows=found.task_rows)
    if chosen.rises >= SETTLED:
        last = found.points[-1].ratio
        yield (
            f"more is not better here: at {last:g} the {chosen.by} is worse than at "
            f"{chosen.best:g} by more than {chosen.tolerance:g} ({chosen.rises:.0%} of draws)"
        )
    if chosen.by_points != chosen.ratio:
        yield f"the points alone, without a curve, would give {chosen.by_points:g}"
    other = found.by_selectivity if chosen.by == "loss" else found.by_loss
    if other is not None and (other.ratio != chosen.ratio or other.verdict == "noisy"):
        yield f"by {other.by}: {verdict(other, task_rows=found.task_rows)}"
    if chosen.by == "loss":
        yield (
            f"the loss is that of answers where the prompt names {found.token}; whether other "
            "prompts stay free of the format it does not tell, selectivity does"
        )
    if found.seed_sd is None:
        yield "one seed: how far another would move this is not known; give --seeds 2 or more"
    if found.trained_task_rows < found.task_rows:
        yield (
            f"trained on {found.trained_task_rows} of {found.task_rows} task rows: "
            "with all of them another ratio may be enough"
        )
    if found.settings["warm"]:
        yield (
            "each ratio began from the adapter of the one before, and its new pairs came after all "
            "task rows: a training from the start, where they stand among each other, may differ"
        )


def verdict(found: Recommendation, *, task_rows: int) -> str:
    """The recommendation in one sentence."""
    ratio, agree = f"{found.ratio:g}", f"{found.share:.0%} of draws over rows and seeds"
    needs = f"for {task_rows} task rows that is {round(found.ratio * task_rows):,} pairs"
    within = f"{found.tolerance:g} nats a token"
    if found.verdict == "falling":
        further = _NEXT * max(found.ratio, 1)
        better = "rising" if found.by == "selectivity" else "falling"
        return (
            f"still {better} at ratio {ratio}, the largest that was trained ({agree}): the best "
            f"may lie beyond; to try ratio {further:g}, the cache needs "
            f"{round(further * task_rows):,} pairs, and some to be kept out"
        )
    if found.verdict == "flat":
        return (
            f"flat: ratio {ratio} is enough, no larger one is better by more than {within} "
            f"({agree}); {needs}"
        )
    if found.verdict == "settled":
        best = "" if found.best == found.ratio else f", ratio {found.best:g}"
        return f"ratio {ratio} is the smallest within {within} of the best{best} ({agree}); {needs}"
    names = [f"{each:g}" for each in found.between]
    told = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return (
        f"too noisy to tell between {told}: the curve gives ratio {ratio}, "
        f"and so do {found.share:.0%} of draws over rows and seeds; more seeds or held-out rows "
        "would tell more"
    )
