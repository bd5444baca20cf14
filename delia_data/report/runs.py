"""The runs of a report: output folders of commands, each recognized by its content.

cache, task, mixture, adapter      by the manifest's kind
evaluation                         evaluation.json      delia evaluate
measurements                       measurements.json    delia measure
ratio                              ratio.json           delia ratio
probe                              distances.json       a quickstart of version 0.1
reproduction                       grid.yaml            delia reproduce, finished or not
a quickstart                       quickstart.json      stands for the parts in it
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from delia_data.errors import InputError, UnfinishedError
from delia_data.evaluation.evaluate import EVALUATION
from delia_data.evaluation.generation import MODEL, AnsweredRow
from delia_data.evaluation.grading import ScoredRow, grade_answers
from delia_data.evaluation.measurements import MEASUREMENTS
from delia_data.evaluation.probes import EvalTask
from delia_data.evaluation.scores import Evaluation, score
from delia_data.experiments.ratio import RESULT as RATIO
from delia_data.experiments.sweep import CELLS
from delia_data.outputs import LOCK, MANIFEST, Manifest, is_finished, read_manifest

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
_PARTS: Final = (
    *("cache", "task", "mixture", "before", "adapter", "after", "trained"),
    "measurements",
)
_BEGUN: Final = (
    *(MANIFEST, LOCK, "plan.json", "training.json", "asking.json", "measuring.json"),
    "series.json",
)
"""A folder that a command has begun has one of these files."""
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
        kind: Kind of its content.
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
    found = dict.fromkeys(part for folder in folders for part in _recognized(Path(folder)))
    labels = labels_of([folder for folder, _ in found])
    return Runs(
        tuple(
            Run(folder, kind, label, None if kind == "reproduction" else read_manifest(folder))
            for (folder, kind), label in zip(found, labels, strict=True)
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
    if not any((folder / name).exists() for name in _BEGUN):
        raise InputError(f"{folder} is not a run: {_GIVE}")
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


def read_first_quickstart(folder: str | os.PathLike[str]) -> tuple[Evaluation, list[ScoredRow]]:
    """Read the answers that a quickstart of version 0.1 wrote, as an evaluation.

    Args:
        folder: Its folder `before` or `after`, next to its folder `task`.

    Raises:
        InputError: The task is missing.
    """
    root = Path(folder)
    if not is_finished(root.parent / "task"):
        raise InputError(
            f"{root} holds answers of a quickstart whose task is missing: give the quickstart's "
            "folder"
        )
    task = EvalTask.read(root.parent / "task")
    lines = (root / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    answered = [
        AnsweredRow(
            probe=probe,
            id=row.record.id,
            question=line["question"] if probe == "held-out" else row.worded.plain or "",
            source=row.record.query,
            expected=line["expected"],
            answers={MODEL: line[key]},
        )
        for probe, key in (("held-out", "with_token"), ("plain", "without_token"))
        # The first line is the question that the quickstart printed.
        for row, line in zip(task.held_out, map(json.loads, lines[1:]), strict=True)
    ]
    scored = grade_answers(task, answered)
    return score(scored, task), scored
