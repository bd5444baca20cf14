"""All methods by name, in the order of the paper's tables."""

from __future__ import annotations

import difflib
from typing import Final

from delia_data.errors import InputError
from delia_data.training.baselines.ablations import (
    COMMON,
    DELIA,
    NO_DIVERSE,
    NO_WORDINGS,
    PAIRS_ONLY,
)
from delia_data.training.baselines.baseline import Baseline
from delia_data.training.baselines.controlled import CONTROLLED
from delia_data.training.baselines.dipmt import DIPMT
from delia_data.training.baselines.dmt import DMT
from delia_data.training.baselines.facts import FACT_BASED
from delia_data.training.baselines.in_context import IN_CONTEXT
from delia_data.training.baselines.step_matched import NEFTUNE, STEP_MATCHED
from delia_data.training.baselines.untrained import MEAN_EMBEDDING, ORIGINAL, RANDOM_INIT

BASELINES: Final[dict[str, Baseline]] = {
    method.name: method
    for method in (
        ORIGINAL,
        RANDOM_INIT,
        MEAN_EMBEDDING,
        IN_CONTEXT,
        CONTROLLED,
        DIPMT,
        COMMON,
        STEP_MATCHED,
        NEFTUNE,
        FACT_BASED,
        DMT,
        PAIRS_ONLY,
        NO_DIVERSE,
        NO_WORDINGS,
        DELIA,
    )
}


def baseline(name: str) -> Baseline:
    """Give the method of a name.

    Raises:
        InputError: There is none.
    """
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"method {name!r} is unknown: {hint}use one of {', '.join(BASELINES)}")
    return BASELINES[name]
