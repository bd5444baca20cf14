"""How similar pairs are to a task, by what their texts say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from delia_data.errors import InputError
from delia_data.records import Record
from delia_data.sampling.coverage import Embed

Numbers: TypeAlias = npt.NDArray[np.float64]


def task_similarity(pairs: Sequence[Record], task: Sequence[Record], embed: Embed) -> Numbers:
    """Mean cosine similarity of each pair to the rows of a task.

    Args:
        pairs: Rows of a cache.
        task: Rows of the task.
        embed: Turns texts into vectors of length 1, such as `sampling.embeddings.Embedder`; it
            reads question and answer together.

    Returns:
        Shape (pairs,), from -1 to 1.

    Raises:
        InputError: There are no pairs, or no task rows.
    """
    if not pairs or not task:
        raise InputError(
            f"similarity of {len(pairs)} pairs to {len(task)} task rows: give at least 1 of both"
        )
    centre = np.asarray(embed([_text(row) for row in task]), dtype=np.float64).mean(axis=0)
    of_pairs = np.asarray(embed([_text(row) for row in pairs]), dtype=np.float64)
    similarity: Numbers = of_pairs @ centre
    return similarity


def _text(row: Record) -> str:
    return f"{row.query}\n{row.answer}"
