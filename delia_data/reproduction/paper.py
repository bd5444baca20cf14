"""The paper's own numbers (arXiv 2408.10841, Tables 1 to 4), to stand beside ours.

They are of Llama-2-7B-Chat and Gemma-7B-it on other rows, and so a reference, not a target. Nothing
here ever enters a number of ours. The paper has no numbers for its figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DISTANCES: Final[Mapping[str, Mapping[str, tuple[float, float, float]]]] = {
    "random_init": {"json": (382.5, 388.0, 203.5), "thought": (382.3, 388.1, 202.1)},
    "mean_embedding": {"json": (328.1, 333.8, 188.2), "thought": (327.9, 333.9, 186.9)},
    "common": {"json": (336.3, 341.9, 182.3), "thought": (337.5, 343.4, 183.0)},
    "dmt": {"json": (271.1, 277.6, 168.3), "thought": (265.3, 272.0, 168.1)},
    "fact_based": {"json": (94.5, 102.4, 100.5), "thought": (94.2, 101.9, 103.1)},
    "delia": {"json": (3.2, 15.6, 46.1), "thought": (6.2, 14.4, 47.7)},
}
"""Table 1: L2 from the token to each keyword in the first, middle and last block."""

ACCURACY: Final[Mapping[str, Mapping[int | None, float]]] = {
    "original": {None: 0.348},
    "common": {30: 0.388, 65: 0.488, 85: 0.532, 100: 0.599},
    "controlled": {None: 0.443},
    "delia": {30: 0.386, 65: 0.846, 85: 0.869, 100: 0.960},
}
"""Table 2: share of answers that are the asked JSON, by task rows; None for no training."""

BLEURT: Final[Mapping[str, Mapping[str, float]]] = {
    "original": {"en-is": 0.3556, "is-en": 0.3650},
    "common": {"en-is": 0.3628, "is-en": 0.3898},
    "dipmt": {"en-is": 0.4233, "is-en": 0.3420},
    "delia": {"en-is": 0.4744, "is-en": 0.4273},
}
"""Table 3: BLEURT of the translations, by direction."""

ABLATION: Final[Mapping[str, Mapping[str, float]]] = {
    "no_diverse": {"l2": 342.7, "accuracy": 0.599, "en-is": 0.3556, "is-en": 0.3650},
    "no_wordings": {"l2": 200.2, "accuracy": 0.074, "en-is": 0.3735, "is-en": 0.3965},
    "common": {"l2": 388.1, "accuracy": 0.348, "en-is": 0.3556, "is-en": 0.3650},
    "delia": {"l2": 15.0, "accuracy": 0.960, "en-is": 0.4273, "is-en": 0.4744},
}
"""Table 4: mean L2 in the middle block, share of asked JSON, BLEURT, by ablation."""

NOTES: Final[Mapping[str, str]] = {
    "table-3": (
        "The paper's Table 4 prints DELIA's two scores the other way round: 0.4273 for "
        "English-Icelandic and 0.4744 for Icelandic-English."
    ),
    "table-4": (
        "The paper's column without either part has the numbers of its untrained model and its "
        "random init, and its column without diverse data those of common instruction tuning. Ours "
        "are trained as the columns say: without either part is common instruction tuning."
    ),
}
"""What a reader of a table should know of the paper's numbers in it."""
