"""The runs of a report: output folders of commands, each recognized by its content.

cache, task, mixture, adapter      by the manifest's kind
evaluation                         evaluation.json      delia evaluate
measurements                       measurements.json    delia measure
ratio                              ratio.json           delia ratio
reproduction                       grid.yaml            delia reproduce, finished or not
a quickstart                       quickstart.json      stands for the parts in it
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from delia_data.errors import InputError, UnfinishedError
from delia_data.evaluation.evaluate import EVALUATION
from delia_data.evaluation.measurements import MEASUREMENTS
from delia_data.experiments.ratio import RESULT as RATIO
from delia_data.experiments.sweep import CELLS
from delia_data.outputs import Manifest, is_finished, read_manifest

Kind = Literal[
    "cache", "task", "mixture", "adapter", "evaluation", "measurements", "ratio", "reproduction"
]
_GIVE: Final = (
    "give what delia sample, diversify, mix, train, evaluate, measure, ratio, reproduce or "
    "quickstart wrote"
)

_QUICKSTART: Final = "quickstart.json"
_GRID: Final = "grid.yaml"
_PARTS: Final = ("cache", "task", "mixture", "adapter", "trained", "measurements")
_EVALUATIONS: Final[dict[str, Kind]] = {
    EVALUATION: "evaluation",
    MEASUREMENTS: "measurements",
    RATIO: "ratio",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One finished folder.

    Attributes:
        label: Its name here: the end of its path that no other run has.
        manifest: Its manifest; None for a reproduction, which has one per cell.
    """

    folder: Path
    kind: Kind
    label: str
    manifest: Manifest | None

    @property
    def done(self) -> Manifest:
        """The manifest of a run that has one."""
        assert self.manifest is not None
        return self.manifest


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of a report, in the order given."""

    every: tuple[Run, ...]

    def of(self, *kinds: Kind) -> list[Run]:
        """Return the runs of some kinds."""
        return [run for run in self.every if run.kind in kinds]


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> Runs:
    """Recognize output folders of commands.

    Args:
        folders: The folders; one that is given twice counts once.

    Raises:
        InputError: No folder is given, one does not exist, or one holds something else.
        UnfinishedError: One is not finished.
    """
    if not folders:
        raise InputError(f"no run was given: {_GIVE}")
    recognized = dict.fromkeys(part for folder in folders for part in _recognized(Path(folder)))
    labels = labels_of([folder for folder, _ in recognized])
    return Runs(
        tuple(
            Run(folder, kind, label, None if kind == "reproduction" else read_manifest(folder))
            for (folder, kind), label in zip(recognized, labels, strict=True)
        )
    )


def _recognized(folder: Path) -> Iterator[tuple[Path, Kind]]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: {_GIVE}")
    if (folder / _QUICKSTART).is_file():
        parts = [folder / name for name in _PARTS if is_finished(folder / name)]
        if not parts:
            raise UnfinishedError(
                f"no step of quickstart {folder} is finished: run delia quickstart --out with "
                "this folder again"
            )
        yield from (part for each in parts for part in _recognized(each))
    elif (folder / _GRID).is_file():
        if not any(is_finished(cell) for cell in (folder / CELLS).glob("*")):
            raise UnfinishedError(
                f"no cell of reproduction {folder} is finished: run delia reproduce again"
            )
        yield folder, "reproduction"
    else:
        yield folder, _kind(folder)


def _kind(folder: Path) -> Kind:
    manifest = read_manifest(folder)
    match manifest.kind:
        case "cache" | "task" | "mixture" | "adapter":
            return manifest.kind
        case "evaluation":
            for name, kind in _EVALUATIONS.items():
                if name in manifest.files:
                    return kind
    raise InputError(
        f"{folder} holds {'part of a run' if manifest.kind == 'evaluation' else manifest.kind}, "
        f"which has no section in a report: {_GIVE}"
    )


def labels_of(folders: Sequence[Path]) -> list[str]:
    """Return the shortest path ends that differ; a part of a quickstart begins with its name."""
    paths = [folder.resolve().parts for folder in folders]
    labels = []
    for folder, parts in zip(folders, paths, strict=True):
        length = 2 if (folder.parent / _QUICKSTART).is_file() else 1
        while length < len(parts):
            ends = Counter(other[-length:] for other in paths)
            if ends[parts[-length:]] == 1:
                break
            length += 1
        labels.append("/".join(parts[-length:]))
    return labels
