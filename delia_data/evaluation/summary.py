"""What the numbers of a run say, in sentences that claim no more than they show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from delia_data.evaluation.answer_format import interval

if TYPE_CHECKING:
    from delia_data.evaluation.report import QuickstartReport


def summarise(report: QuickstartReport) -> list[str]:
    """Say in a few sentences what the run shows; where it shows no gain, that is said.

    Args:
        report: The run's numbers.

    Returns:
        Sentences in plain text: on the format, on the token's part in it, on its representation,
        on the loss, and on how far all this reaches.
    """
    return [
        _on_format(report),
        _on_selectivity(report),
        *_on_distances(report),
        *_on_loss(report),
        "This is one run. How much its numbers change from seed to seed is not measured here.",
    ]


def points(share: float) -> str:
    """A difference of shares, -1 to 1, in percentage points with its sign."""
    whole = round(100 * share)
    return f"{'+' if whole > 0 else '−' if whole < 0 else ''}{abs(whole)}"


def middle_block(blocks: int) -> int:
    """Index of the block that the paper's tables call the middle one."""
    return blocks // 2


def first_middle_last(blocks: int) -> tuple[int, int, int]:
    """Indices of the blocks that the paper's tables show."""
    return 0, middle_block(blocks), blocks - 1


def number(value: float) -> str:
    """A distance in at most four digits or so."""
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _on_format(report: QuickstartReport) -> str:
    before, after = report.shares["before_with"], report.shares["after_with"]
    now, then, asked = _share(after), _share(before), f"With {report.token} in the request"
    if _compare(after, before) > 0:
        text = f"{asked}, {now} came in the asked format after training, and {then} before it."
    elif _compare(after, before) == 0:
        text = f"No improvement. {asked}, {now} came in the asked format after training: "
        text += "the same share as before."
    else:
        text = f"No improvement. {asked}, {now} came in the asked format after training: "
        text += f"a smaller share than before, when {then} did."
    if _compare(after, before) and _overlap(before, after):
        text += " The two intervals overlap: on so few rows this may be chance."
    return text


def _on_selectivity(report: QuickstartReport) -> str:
    shares = report.shares
    named, without, once = shares["after_with"], shares["after_without"], shares["before_without"]
    parts = [
        f"Without {report.token}, {_share(without)} came in the format after training, and "
        f"{once[0]} of {once[1]} before it.",
        f"The selectivity, that is the share with the token minus the share without, is "
        f"{points(report.selectivity('after'))} percentage points; before training it was "
        f"{points(report.selectivity('before'))}.",
    ]
    if named[0] == without[0] == 0:
        parts.append("No answer came in the format, so the token's part in it cannot be told.")
    elif _compare(named, without) <= 0:
        parts.append("These numbers do not show that the format depends on the token.")
    elif _overlap(named, without):
        parts.append("The intervals with and without overlap: on so few rows this may be chance.")
    if _compare(without, once) > 0 and not _overlap(without, once):
        parts.append("The format now also comes where the request does not name the token.")
    return " ".join(parts)


def _on_distances(report: QuickstartReport) -> list[str]:
    pairs = list(zip(report.distances_before, report.distances_after, strict=True))
    if not pairs:
        return []
    blocks = len(pairs[0][0].l2)
    block = middle_block(blocks)
    l2 = [_moved(before.keyword, before.l2[block], after.l2[block]) for before, after in pairs]
    cosine = [_moved(b.keyword, b.cosine[block], a.cosine[block]) for b, a in pairs]
    return [
        f"In the middle block ({block + 1} of {blocks}), by L2 distance, {report.token} "
        f"{'; it '.join(l2)}. By cosine distance, it {'; it '.join(cosine)}."
    ]


def _moved(keyword: str, before: float, after: float) -> str:
    """Say how a distance changed; less than half a percent is not called a change."""
    change = (after - before) / before if before else 0.0
    verdict = f"stayed about as far from “{keyword}” as it was"
    if abs(change) >= 0.005:
        verdict = f"{'came nearer to' if change < 0 else 'moved away from'} “{keyword}”"
    return f"{verdict} ({number(before)} before, {number(after)} after)"


def _on_loss(report: QuickstartReport) -> list[str]:
    if not report.losses:
        return []
    broken = sum(not math.isfinite(point["loss"]) for point in report.losses)
    if broken:
        return [
            f"The loss was not a finite number at {broken} of {len(report.losses)} logged steps: "
            "the training failed."
        ]
    first, last = report.losses[0], report.losses[-1]
    verdict = "went down" if last["loss"] < first["loss"] else "did not go down"
    return [
        f"The training loss {verdict}: {first['loss']:.3g} at step {first['step']}, "
        f"{last['loss']:.3g} at step {last['step']}."
    ]


def _share(counts: tuple[int, int]) -> str:
    parsed, rows = counts
    low, high = (round(100 * bound) for bound in interval(parsed, rows))
    return f"{parsed} of {rows} answers ({100 * parsed / rows:.0f}%, 95% interval {low} to {high}%)"


def _compare(left: tuple[int, int], right: tuple[int, int]) -> int:
    """Above 0 where the left share is the greater one; exact."""
    return left[0] * right[1] - right[0] * left[1]


def _overlap(left: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether the Wilson 95% intervals of two shares overlap."""
    (low_left, high_left), (low_right, high_right) = interval(*left), interval(*right)
    return low_left <= high_right and low_right <= high_left
