"""One run of a grid: where it is, and what it is given beside the grid.

out/
grid.yaml        the grid that the folder was begun with; another one is refused
inputs.json      hashes of what it was given beside the grid
caches/          pairs that the models wrote, once for all cells that share them
cells/NAME/      a cell: result.json, run.json, answers, manifest.json, FINISHED
report.md, report.json, figures/
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from delia_data.errors import InputError
from delia_data.outputs import (
    MANIFEST,
    canonical_json,
    check_folder_is_ours,
    check_same_settings,
    file_sha256,
    read_manifest,
    write_json,
    write_text,
)
from delia_data.reproduction.cell import Cell, cells_of
from delia_data.reproduction.grid import CacheSettings, Experiment, Grid
from delia_data.reproduction.report import REPORT_FILES
from delia_data.reproduction.results import CELLS

_GRID: Final = "grid.yaml"
_INPUTS: Final = "inputs.json"
_CACHES: Final = "caches"
_SAMPLED: Final = "sampled here"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a grid.

    Attributes:
        grid: The grid.
        out: Its folder.
        cache: A cache to take the pairs from; None samples each model's own.
        data: Folder of parallel files, for the experiments that translate.
        dictionary: Dictionaries for DiPMT, a folder with `en-is.tsv` and `is-en.tsv`; None makes
            them of the training rows.
        device: Where models compute.
        only: Methods that are run; all where none is named.
        keep_adapters: Keep what was trained.
    """

    grid: Grid
    out: Path
    cache: Path | None = None
    data: Path | None = None
    dictionary: Path | None = None
    device: str = "cpu"
    only: tuple[str, ...] = ()
    keep_adapters: bool = False

    def begin(self) -> None:
        """Write down what the run is of, or see that it is what it was begun with.

        Raises:
            ForeignFolderError: The folder holds something else.
            SettingsError: It was begun with another grid, or with other inputs.
            InputError: An input is not there.
        """
        own = frozenset({_GRID, _INPUTS, CELLS, _CACHES, *REPORT_FILES})
        check_folder_is_ours(self.out, own, sign=_GRID)
        grid, inputs = self.grid.as_dict(), self._inputs()
        if (self.out / _GRID).is_file():
            begun = yaml.safe_load((self.out / _GRID).read_text(encoding="utf-8"))
            check_same_settings(self.out, _of_the_work(begun), _of_the_work(grid))
        else:
            write_text(self.out / _GRID, yaml.safe_dump(grid, sort_keys=False, allow_unicode=True))
        known: dict[str, Any] = {}
        if (self.out / _INPUTS).is_file():
            known = json.loads((self.out / _INPUTS).read_text(encoding="utf-8"))
            both = {name: digest for name, digest in inputs.items() if name in known}
            check_same_settings(self.out, {name: known[name] for name in both}, both)
        if inputs.keys() - known.keys():
            write_json(self.out / _INPUTS, {**known, **inputs})

    def cells(self) -> list[Cell]:
        """The cells that can be run with what was given, in their order."""
        blocked = set(self.blocked())
        return [cell for cell in self.asked_for() if cell not in blocked]

    def asked_for(self) -> list[Cell]:
        """The cells that are asked for, whatever they need."""
        return cells_of(self.grid, only=self.only)

    def blocked(self) -> list[Cell]:
        """The cells that need translated texts, where none were given."""
        if self.data is not None:
            return []
        return [cell for cell in self.asked_for() if cell.experiment != "formatted-text"]

    def folder(self, cell: Cell) -> Path:
        """The folder of a cell."""
        return self.out / CELLS / cell.name

    def cache_of(self, experiment: Experiment) -> Path:
        """Where an experiment's pairs are: the given cache, or one for each model and sampling."""
        if self.cache is not None:
            return self.cache
        key = hashlib.sha256(canonical_json([experiment.model, asdict(experiment.cache)]))
        name = Path(experiment.model).name
        return self.out / _CACHES / f"{name}-{key.hexdigest()[:8]}"

    def caches(self, cells: Sequence[Cell]) -> dict[Path, tuple[str, CacheSettings]]:
        """The caches that cells need and that are sampled here, with model and settings."""
        if self.cache is not None:
            return {}
        needed = {cell.experiment: None for cell in cells if cell.ratio}
        found = (self.grid.experiments[name] for name in needed)
        return {self.cache_of(one): (one.model, one.cache) for one in found}

    def _inputs(self) -> dict[str, str]:
        """Hashes of what was given; the same input elsewhere has the same one."""
        inputs = {"cache": _SAMPLED if self.cache is None else _hash_of(self.cache)}
        if self.data is not None:
            inputs["data"] = _hash_of(self.data)
        if self.dictionary is not None:
            inputs["dictionary"] = _hash_of(self.dictionary)
        return inputs


def _of_the_work(grid: dict[str, Any]) -> dict[str, Any]:
    """A grid without its words and its estimates, which change no number."""
    experiments = {
        name: {key: value for key, value in experiment.items() if key != "seconds"}
        for name, experiment in grid["experiments"].items()
    }
    return {**grid, "about": "", "experiments": experiments}


def _hash_of(path: Path) -> str:
    """Hash of a file, of a finished output, or of the files of a folder."""
    if path.is_file():
        return file_sha256(path)
    if not path.is_dir():
        raise InputError(f"{path} is not there: check the path")
    if (path / MANIFEST).is_file():
        read_manifest(path)  # refuses what is not finished
        return file_sha256(path / MANIFEST)
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("[!.]*") if p.is_file())
    return hashlib.sha256(
        canonical_json([[name, file_sha256(path / name)] for name in names])
    ).hexdigest()
