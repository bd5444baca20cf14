"""What a series of ratios is, and how one of them is chosen: frozen data, checked as a whole."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from delia_data.errors import SettingsError

By = Literal["loss", "selectivity"]
BY: Final[tuple[By, ...]] = get_args(By)

RATIOS: Final = (0.0, 1.0, 4.0, 16.0, 65.0)
"""The series that is tried: the task alone, then about four times as many pairs each time."""


@dataclass(frozen=True, slots=True)
class RatioSettings:
    """The series that is trained.

    Attributes:
        ratios: Pairs for each task row, rising.
        seeds: Trainings of each ratio; each has its own pick of pairs, order and initialisation.
        seed: The first of the seeds. It also picks the rows and pairs that are held out.
        warm: Begin each ratio from the adapter of the one before it, on the new pairs alone,
            instead of from the model.
        task_rows: Training rows of the task at most, by keyed hash; None takes all.
        rows: Held-out rows whose loss is taken at most; None takes all.
        pairs: Pairs that are kept out of every mixture, and whose loss is taken.

    Raises:
        SettingsError: Values are out of their bounds; the message names all of them.
    """

    ratios: tuple[float, ...] = RATIOS
    seeds: int = 2
    seed: int = 0
    warm: bool = False
    task_rows: int | None = None
    rows: int | None = None
    pairs: int = 64

    def __post_init__(self) -> None:
        problems = []
        wrong = [f"{ratio:g}" for ratio in self.ratios if not 0 <= ratio < math.inf]
        if wrong:
            problems.append(f"ratios {', '.join(wrong)} must be numbers of at least 0")
        if len(self.ratios) < 2:
            problems.append(f"{len(self.ratios)} ratio makes no series: give at least two")
        elif list(self.ratios) != sorted(set(self.ratios)):
            told = ", ".join(f"{ratio:g}" for ratio in self.ratios)
            problems.append(f"ratios {told} must rise, each once")
        if self.seeds < 1:
            problems.append(f"seeds {self.seeds} must be at least 1")
        for name, least in (("task_rows", 1), ("rows", 2), ("pairs", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                problems.append(f"{name} {value} must be at least {least}")
        if problems:
            raise SettingsError(f"settings of the series: {'; '.join(problems)}")
        # 4 and 4.0 are one ratio, and stand as one in what is written.
        object.__setattr__(self, "ratios", tuple(map(float, self.ratios)))

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds, one a training of each ratio."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {**asdict(self), "ratios": list(self.ratios)}


@dataclass(frozen=True, slots=True)
class Choice:
    """How a ratio is chosen of a series that was trained.

    Attributes:
        tolerance: Nats a token by which a ratio may be worse than the best one.
        by: `"loss"`: loss of held-out answers where the prompt names the token. `"selectivity"`:
            how much greater the loss of the same answers is where the prompt does not name it.
        draws: Draws of rows and seeds that the uncertainty is taken of.
        confidence: Share of the draws that an interval holds.

    Raises:
        SettingsError: Values are out of their bounds; the message names all of them.
    """

    tolerance: float = 0.02
    by: By = "loss"
    draws: int = 2000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.tolerance < math.inf:
            problems.append(
                f"tolerance {self.tolerance:g} must be more than 0, in nats a token, such as 0.02"
            )
        if self.by not in BY:
            problems.append(f"by {self.by!r} must be one of {', '.join(BY)}")
        if self.draws < 100:
            problems.append(f"draws {self.draws} must be at least 100")
        if not 0 < self.confidence < 1:
            problems.append(f"confidence {self.confidence:g} must be above 0 and below 1")
        if problems:
            raise SettingsError(f"choice of the ratio: {'; '.join(problems)}")

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)
