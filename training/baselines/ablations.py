"""DELIA, its two ablations, and common instruction tuning (paper, Table 4).

method         wordings of the task      pairs
delia          one for each row          ratio x rows
no_diverse     one for each row          none
no_wordings    the same for all rows     ratio x rows
common         the same for all rows     none
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

from delia_data.diversify import diversify, undiversified
from delia_data.errors import InputError
from delia_data.mixing import Mixture, mix
from delia_data.records import Record
from delia_data.tasks import Task, Wording

__all__ = ["METHODS", "Method", "training_data"]

Method = Literal["delia", "no_diverse", "no_wordings", "common"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)


def training_data(
    method: Method,
    task: Task,
    wordings: Sequence[Wording],
    cache: Sequence[Record],
    *,
    ratio: float,
    seed: int = 0,
) -> Mixture:
    """Make the training data of one method.

    Args:
        method: One of `METHODS`.
        task: The task.
        wordings: Candidates for the methods that diversify.
        cache: The pairs, for the methods that mix any.
        ratio: Pairs for each task row, for the same methods.
        seed: Seed of wordings, selection and order.

    Returns:
        The mixture; training it with the same settings makes the methods comparable.

    Raises:
        InputError: The method is unknown, or its data cannot be made.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown: use one of {', '.join(METHODS)}")
    worded = method in ("delia", "no_diverse")
    mixed = method in ("delia", "no_wordings")
    rows = diversify(task, wordings, seed=seed) if worded else undiversified(task)
    return mix(
        rows.train,
        cache,
        ratio=ratio if mixed else 0,
        seed=seed,
        test=rows.test,
        token=task.token,
    )
