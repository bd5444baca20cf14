"""All figures of measurements, as files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from delia_data.evaluation._plain import in_order
from delia_data.evaluation.drawing import Drawing
from delia_data.evaluation.gradient_plots import (
    cancelling_by_rows,
    cosines_with_held_out,
    norms_by_similarity,
)
from delia_data.evaluation.measurement_plots import alignment_by_block, state_space_sizes
from delia_data.evaluation.measurements import Measurements

FIGURES: Final = "figures"


def measurement_drawings(measurements: Measurements) -> Iterator[Drawing]:
    """Make a drawing of everything that was measured."""
    if representation := measurements.representation:
        for one in representation["after"].keywords:
            yield alignment_by_block(
                representation["after"], before=representation["before"], keyword=one.keyword
            )
    if spaces := measurements.state_space:
        yield state_space_sizes(
            {f"{when}, {which}": s for when, by in in_order(spaces) for which, s in in_order(by)}
        )
    if buffering := measurements.buffering:
        for when, _ in in_order(buffering.cancelling):
            yield cancelling_by_rows(buffering, when=when)
        yield norms_by_similarity(buffering)
        yield cosines_with_held_out(buffering)


def draw_measurements(measurements: Measurements, folder: Path) -> None:
    """Draw everything that was measured as PNG files; what the folder held before goes.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: The folder cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for number, drawing in enumerate(measurement_drawings(measurements)):
        name = "".join(c if c.isalnum() else "-" for c in drawing.name)
        drawing.png(folder / f"{number}-{name}.png")
