"""What one cell came to: all that tables and figures are made of, and no times."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError
from delia_data.outputs import write_json
from delia_data.reproduction.cell import Cell

RESULT: Final = "result.json"


@dataclass(frozen=True, slots=True)
class ProbeAnswers:
    """How the answers to one probe were, row by row in one fixed order.

    Attributes:
        with_token: 1 for each answer in the format, 0 for the others, the token being named.
        without_token: The same where the token is not named.
        scores: The task's own score of each answer with the token, 0 to 1; None where it has none.
        wants_format: Whether an answer with the token should be in the format.
    """

    with_token: tuple[float, ...]
    without_token: tuple[float, ...]
    scores: tuple[float, ...] | None
    wants_format: bool


@dataclass(frozen=True, slots=True)
class KeywordDistances:
    """The token's distances to one keyword, a number for each block.

    Attributes:
        keyword: The keyword.
        l2: L2 distance of the hidden states.
        relative: The same over the median distance of ordinary words.
        cosine: 1 - cosine similarity.
    """

    keyword: str
    l2: tuple[float, ...]
    relative: tuple[float, ...]
    cosine: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CellResult:
    """What one cell came to.

    Attributes:
        cell: The cell.
        steps: Optimiser steps; 0 without training.
        trained_rows: Rows that were trained on in all, each as often as it was.
        answers: Answers by probe.
        distances: Distances by keyword; none where the token has no row of its own.
        watched: What was measured over the training: `step`, `loss` (mean cross-entropy of
            held-out answers) and `states` (tokens that hold 95% where an answer begins).
    """

    cell: Cell
    steps: int
    trained_rows: int
    answers: Mapping[str, ProbeAnswers]
    distances: tuple[KeywordDistances, ...]
    watched: tuple[Mapping[str, float], ...]


_ADAPTER: Final = TypeAdapter(CellResult)


def write_result(folder: str | os.PathLike[str], result: CellResult) -> None:
    """Write a result as JSON."""
    write_json(Path(folder) / RESULT, asdict(result))


def read_result(folder: str | os.PathLike[str]) -> CellResult:
    """Read what `write_result` wrote.

    Raises:
        FormatError: It was written by another version, or changed.
    """
    file = Path(folder) / RESULT
    try:
        result: CellResult = _ADAPTER.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise FormatError(
            f"{file} is not a result of this version: remove its folder, and run the grid again"
        ) from error
    return result
