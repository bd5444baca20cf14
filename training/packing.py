"""Which rows are computed together: optimiser steps in the mixture's order, packed within each.

An optimiser step holds the next `batch_size` rows of the mixture, whatever follows here. Its rows
are dealt to the processes, and those of a process cut into micro-batches, so that the work is even
and hardly anything is padding. The gradients of a step are summed, so that neither changes it.

    mixture         | r0 r1 r2 r3 r4 r5 r6 r7 | r8 ...         batch_size 8
    process 0         r0 r3 r4 r7    micro-batches  [r0 r4] [r3 r7]
    process 1         r1 r2 r5 r6                   [r1 r5] [r2 r6]
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from delia_data.errors import SettingsError

MicroBatches = list[list[int]]
"""Indices of rows, in the mixture's order, a list a micro-batch; one may be empty."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How rows are put together.

    Attributes:
        batch_size: Rows of an optimiser step, over all processes.
        micro_batch_size: Rows of a micro-batch at most; None for no bound.
        micro_batch_tokens: Tokens of a packed micro-batch at most (a longer row is alone in one);
            None where rows are padded instead, and put together by length.
        processes: Processes that share a step.

    Raises:
        SettingsError: A number is less than 1.
    """

    batch_size: int
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch_size", "micro_batch_tokens", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} {value} must be at least 1")


def plan_steps(lengths: Sequence[int], plan: StepPlan) -> list[list[MicroBatches]]:
    """Put all rows together, in their order.

    Args:
        lengths: Tokens of every row.
        plan: How.

    Returns:
        For each optimiser step, the micro-batches of each process.
    """
    return [
        plan_step(range(begin, min(begin + plan.batch_size, len(lengths))), lengths, plan)
        for begin in range(0, len(lengths), plan.batch_size)
    ]


def plan_step(rows: Sequence[int], lengths: Sequence[int], plan: StepPlan) -> list[MicroBatches]:
    """Put the rows of one optimiser step together.

    Every process gets as many micro-batches as any other, as sharded models need it: their
    processes meet in each. One with fewer rows than that has empty ones.

    Args:
        rows: Indices of the step's rows, in their order.
        lengths: Tokens of every row of the mixture.
        plan: How.

    Returns:
        The micro-batches of each process.
    """
    shares = _balance(rows, lengths, plan.processes)
    count = max(_least_bins(share, lengths, plan) for share in shares)
    if plan.micro_batch_tokens is not None:
        return [_balance(share, lengths, count) for share in shares]
    return [_by_length(share, lengths, count) for share in shares]


def _least_bins(rows: Sequence[int], lengths: Sequence[int], plan: StepPlan) -> int:
    """The fewest even micro-batches that keep to the bounds."""
    most_rows = plan.micro_batch_size or max(1, len(rows))
    count = max(1, -(-len(rows) // most_rows))
    tokens = plan.micro_batch_tokens
    if tokens is None:
        return count
    count = max(count, -(-sum(min(lengths[row], tokens) for row in rows) // tokens))
    while any(
        len(part) > 1 and (sum(lengths[row] for row in part) > tokens or len(part) > most_rows)
        for part in _balance(rows, lengths, count)
    ):
        count += 1
    return count


def _balance(rows: Sequence[int], lengths: Sequence[int], count: int) -> MicroBatches:
    """Deal rows into `count` parts of about equal tokens, the longest row first."""
    if count == 1:
        return [list(rows)]
    parts: MicroBatches = [[] for _ in range(count)]
    filled = [(0, 0, number) for number in range(count)]  # tokens, rows, part
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        tokens, held, number = filled[0]
        parts[number].append(row)
        heapq.heapreplace(filled, (tokens + lengths[row], held + 1, number))
    return [sorted(part) for part in parts]


def _by_length(rows: Sequence[int], lengths: Sequence[int], count: int) -> MicroBatches:
    """Cut rows into `count` parts of about equal numbers of rows, those of like length together."""
    if count == 1:
        return [list(rows)]
    ordered = sorted(rows, key=lambda row: (lengths[row], row))
    cuts = [len(ordered) * number // count for number in range(count + 1)]
    return [sorted(ordered[begin:end]) for begin, end in pairwise(cuts)]
