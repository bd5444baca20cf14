"""What `delia measure` writes: all measurements of one adapter, and how to read them again.

out/
    measurements.json    everything, as `Measurements.as_dict` gives it
    figures/*.png        the same to look at
    manifest.json        the settings, and hashes of the adapter, the task and the cache
    FINISHED
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from delia_data.errors import InputError
from delia_data.evaluation._plain import from_plain, to_plain
from delia_data.evaluation.alignment import Alignment
from delia_data.evaluation.buffering import Buffering
from delia_data.evaluation.state_space import StateSpace
from delia_data.outputs import read_manifest

MEASUREMENTS: Final = "measurements.json"
MeasureName = Literal["representation", "state-space", "buffering"]
MEASURES: Final[tuple[MeasureName, ...]] = get_args(MeasureName)

When = Literal["before", "after"]
Which = Literal["with", "without"]


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """Settings of the measurements.

    Attributes:
        rows: Rows of each group at most: held-out ones, and task rows.
        pairs: Pairs at most, for buffering.
        keywords: Words that the token is compared with; the task's own where there are none.
        words: Ordinary words to draw from the vocabulary.
        mass: Probability that the state space holds.
        ratio: Pairs for each task row in the mixture whose gradient is looked at; the adapter's
            own when None, and where it was trained without pairs all that the cache has.
        dimensions: Dimensions of the gradients' projection.
        dtype: Type that the model computes in, `"float32"` or `"bfloat16"`.
        seed: Seed of the rows, the words and the projection.

    Raises:
        InputError: A value is out of its bounds.
    """

    rows: int = 48
    pairs: int = 96
    keywords: tuple[str, ...] = ()
    words: int = 256
    mass: float = 0.95
    ratio: float | None = None
    dimensions: int = 4096
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} {getattr(self, name)!r} must be at least {least}"
            for name, least in (("rows", 2), ("pairs", 3), ("words", 16), ("dimensions", 2))
            if getattr(self, name) < least
        ]
        if not 0 < self.mass <= 1:
            problems.append(f"mass {self.mass!r} must be above 0 and at most 1")
        if self.ratio is not None and not 0 <= self.ratio < float("inf"):
            problems.append(f"ratio {self.ratio!r} must be a number of at least 0")
        if self.dtype not in ("float32", "bfloat16"):
            problems.append(f"dtype {self.dtype!r} must be float32 or bfloat16")
        if self.seed < 0:
            problems.append(f"seed {self.seed!r} must be at least 0")
        if problems:
            raise InputError(f"measuring: {'; '.join(problems)}")

    def as_dict(self) -> dict[str, Any]:
        """Give the settings as plain values, as a manifest holds them."""
        return {**asdict(self), "keywords": list(self.keywords)}


@dataclass(frozen=True, slots=True)
class Measurements:
    """All measurements of one adapter.

    Attributes:
        model: Name of the model that was trained.
        token: The special token.
        steps: Optimiser steps of the training.
        trained_rows: Rows that it was trained on, by source.
        representation: `before` and `after` training; None where it was not measured.
        state_space: The same, each `with` the token and, where the rows have a plain form,
            `without` it; None where it was not measured.
        buffering: The gradients; None where they were not measured.
    """

    model: str
    token: str
    steps: int
    trained_rows: Mapping[str, int]
    representation: Mapping[When, Alignment] | None = None
    state_space: Mapping[When, Mapping[Which, StateSpace]] | None = None
    buffering: Buffering | None = None

    @property
    def measured(self) -> tuple[MeasureName, ...]:
        """Names of what was measured."""
        found = (self.representation, self.state_space, self.buffering)
        return tuple(name for name, one in zip(MEASURES, found, strict=True) if one is not None)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = MEASUREMENTS) -> Measurements:
        """Make it of what `as_dict` gave.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_plain(cls, values, where)


def check_measures(names: tuple[str, ...]) -> tuple[MeasureName, ...]:
    """Give names of measures back in their order, each once.

    Raises:
        InputError: There are none, or one is no measure.
    """
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise InputError(
            f"no measure is called {', '.join(unknown) or 'nothing'}: "
            f"give some of {','.join(MEASURES)}"
        )
    return tuple(name for name in MEASURES if name in names)


def read_measurements(folder: str | os.PathLike[str]) -> Measurements:
    """Read the measurements of a finished folder.

    Raises:
        UnfinishedError: The folder has no finish marker.
        InputError: It holds something else.
        FormatError: They were written by another version.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if manifest.kind != "evaluation" or MEASUREMENTS not in manifest.files:
        raise InputError(f"{root} holds no measurements: give what delia measure wrote")
    values = json.loads((root / MEASUREMENTS).read_text(encoding="utf-8"))
    return Measurements.from_dict(values, where=str(root / MEASUREMENTS))
