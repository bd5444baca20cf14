"""The live meter of a sampling run (interim: counts only)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from delia_data.sampling.rows import Sampled

__all__ = ["Meter", "Progress"]


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    asked: int
    kept: int
    rejected: Counter[str] = field(default_factory=Counter)


class Meter:
    """Counts rows."""

    def __init__(self) -> None:
        self._rejected: Counter[str] = Counter()
        self._kept = 0

    def add(self, rows: Sequence[Sampled]) -> None:
        """Count rows."""
        for row in rows:
            if row.rejected is None:
                self._kept += 1
            else:
                self._rejected[row.rejected] += 1

    def now(self) -> Progress:
        """Tell how far it is."""
        return Progress(self._kept + self._rejected.total(), self._kept, self._rejected.copy())
