"""DELIA, its two ablations, and common instruction tuning (paper, Table 4).

method         wordings of the task      pairs
delia          one for each row          ratio x rows
no_diverse     one for each row          none
no_wordings    the same for all rows     ratio x rows
common         the same for all rows     none
pairs_only     no task rows              ratio x rows

`common` is the ablation of both. `pairs_only` is what Figure 4 is relative to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

from delia_data.diversify import diversify, undiversified
from delia_data.errors import InputError
from delia_data.mixing import Mixture, mix
from delia_data.mixing.options import Pairs
from delia_data.tasks import Task, Wording
from delia_data.training.baselines.baseline import Baseline, Material, Training
from delia_data.training.settings import TrainSettings

Method = Literal["delia", "no_diverse", "no_wordings", "common"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
_WITH_RATIO: Final = frozenset[Literal["rows", "ratio", "seed"]]({"rows", "ratio", "seed"})


def training_data(
    method: Method,
    task: Task,
    wordings: Sequence[Wording],
    cache: Pairs,
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


def mixed_rows(method: Method, material: Material) -> tuple[Mapping[str, Any], ...]:
    """The rows of one method, in the mixture's order."""
    mixture = training_data(
        method,
        material.task,
        material.wordings,
        material.pairs,
        ratio=material.ratio,
        seed=material.seed,
    )
    return tuple(mixture.train.to_pylist())


def _delia(material: Material, settings: TrainSettings) -> Training:
    return Training(mixed_rows("delia", material), settings)


def _no_diverse(material: Material, settings: TrainSettings) -> Training:
    return Training(mixed_rows("no_diverse", material), settings)


def _no_wordings(material: Material, settings: TrainSettings) -> Training:
    return Training(mixed_rows("no_wordings", material), settings)


def _common(material: Material, settings: TrainSettings) -> Training:
    return Training(mixed_rows("common", material), settings)


def _pairs_only(material: Material, settings: TrainSettings) -> Training:
    rows = mixed_rows("delia", material)
    return Training(tuple(row for row in rows if row["source"] == "cache"), settings)


DELIA = Baseline(
    "delia",
    "DELIA",
    "a wording for each row, and pairs of the model's own",
    _delia,
    uses=_WITH_RATIO,
    trains_on="both",
)
NO_DIVERSE = Baseline(
    "no_diverse",
    "DELIA without diverse data",
    "a wording for each row, no pairs",
    _no_diverse,
    trains_on="task",
)
NO_WORDINGS = Baseline(
    "no_wordings",
    "DELIA without diversified wordings",
    "one wording for all rows, and pairs of the model's own",
    _no_wordings,
    uses=_WITH_RATIO,
    trains_on="both",
)
COMMON = Baseline(
    "common",
    "Common instruction tuning",
    "the task's rows alone, in one wording: neither of DELIA's two parts",
    _common,
    trains_on="task",
)
PAIRS_ONLY = Baseline(
    "pairs_only",
    "Diverse data alone",
    "the pairs that DELIA takes, without the task",
    _pairs_only,
    uses=_WITH_RATIO,
    trains_on="pairs",
)
