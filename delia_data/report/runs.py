"""What is reported on: folders that commands left behind, each recognised by what it holds.

cache, task, mixture, adapter      by the manifest's kind
evaluation                         evaluation.json      delia evaluate
measurements                       measurements.json    delia measure
ratio                              ratio.json           delia ratio
probe                              distances.json       a quickstart, before or after training
reproduction                       grid.yaml            delia reproduce, whatever is finished
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
from delia_data.evaluation.measuring import MEASUREMENTS
from delia_data.outputs import LOCK, MANIFEST, Manifest, is_finished, read_manifest
from delia_data.ratio.result import RESULT as RATIO
from delia_data.reproduction.results import CELLS

Kind = Literal[
    "cache",
    "task",
    "mixture",
    "adapter",
    "evaluation",
    "measurements",
    "ratio",
    "probe",
    "reproduction",
]
_GIVE: Final = (
    "give what delia sample, diversify, mix, train, evaluate, measure, ratio, reproduce or "
    "quickstart wrote"
)

_QUICKSTART: Final = "quickstart.json"
_GRID: Final = "grid.yaml"
_PARTS: Final = ("cache", "task", "mixture", "before", "adapter", "after")
_BEGUN: Final = (
    *(MANIFEST, LOCK, "plan.json", "training.json", "asking.json", "measuring.json"),
    *("series.json", "stage.json"),
)
"""Names of which a folder that a command has begun has one."""
_EVALUATIONS: Final[dict[str, Kind]] = {
    EVALUATION: "evaluation",
    MEASUREMENTS: "measurements",
    RATIO: "ratio",
    "distances.json": "probe",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One finished folder.

    Attributes:
        folder: The folder.
        kind: What it holds.
        label: What it is called here: the end of its path that no other has.
        manifest: Its manifest; None of a reproduction, which has one a cell.
    """

    folder: Path
    kind: Kind
    label: str
    manifest: Manifest | None


@dataclass(frozen=True, slots=True)
class Runs:
    """All that is reported on, in the order given."""

    every: tuple[Run, ...]

    def of(self, *kinds: Kind) -> list[Run]:
        """Those of some kinds."""
        return [run for run in self.every if run.kind in kinds]


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> Runs:
    """Recognise folders.

    Args:
        folders: What commands left behind; one that is named twice counts once.

    Raises:
        InputError: None is given, one is not there, or holds something else.
        UnfinishedError: One is not finished.
    """
    if not folders:
        raise InputError(f"there is nothing to report on: {_GIVE}")
    found = dict.fromkeys(part for folder in folders for part in _recognised(Path(folder)))
    labels = labels_of([folder for folder, _ in found])
    return Runs(
        tuple(
            Run(folder, kind, label, None if kind == "reproduction" else read_manifest(folder))
            for (folder, kind), label in zip(found, labels, strict=True)
        )
    )


def _recognised(folder: Path) -> Iterator[tuple[Path, Kind]]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: {_GIVE}")
    if (folder / _QUICKSTART).is_file():
        parts = [folder / name for name in _PARTS if is_finished(folder / name)]
        if not parts:
            raise UnfinishedError(
                f"{folder} is a quickstart of which no step is finished: run delia quickstart "
                "--out with it again"
            )
        yield from (part for each in parts for part in _recognised(each))
    elif (folder / _GRID).is_file():
        if not any(is_finished(cell) for cell in (folder / CELLS).glob("*")):
            raise UnfinishedError(
                f"{folder} is a reproduction of which no cell is finished: run delia reproduce "
                "with it again"
            )
        yield folder, "reproduction"
    else:
        yield folder, _kind(folder)


def _kind(folder: Path) -> Kind:
    if not any((folder / name).exists() for name in _BEGUN):
        raise InputError(f"{folder} is no run: {_GIVE}")
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
        f"on which there is nothing to report: {_GIVE}"
    )


def labels_of(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; of a quickstart's part, with its own."""
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
