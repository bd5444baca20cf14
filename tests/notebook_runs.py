"""Run notebooks as a reader does: in `notebooks/`, next to the rest of the repository.

python tests/notebook_runs.py notebooks/01_quickstart.ipynb    run it and save its outputs
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
CELL_TIMEOUT_S = 1200


def run_notebook(path: Path, folder: Path, *, claim: str = "") -> nbformat.NotebookNode:
    """Run a notebook from top to bottom, and return it with its outputs.

    Args:
        path: The notebook; it is not changed.
        folder: Empty folder for the layout of the repository.
        claim: Code of a last cell, which is not returned.
    """
    here = folder / "notebooks"
    here.mkdir(parents=True)
    for name in ("benchmarks", "tests"):
        (folder / name).symlink_to(ROOT / name)
    run = nbformat.read(path, as_version=4)
    run.cells.append(nbformat.v4.new_code_cell(claim))
    resources = {"metadata": {"path": str(here)}}
    NotebookClient(run, timeout=CELL_TIMEOUT_S, resources=resources).execute()
    run.cells.pop()
    return run


def keep(path: Path, run: nbformat.NotebookNode) -> None:
    """Write a notebook with its outputs, without times, machines and warnings."""
    run.metadata.language_info = {"name": "python"}
    for cell in run.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            kept = [output for output in cell.outputs if output.get("name") != "stderr"]
            if len(kept) > 1 and all(output.get("name") == "stdout" for output in kept):
                kept[0].text = "".join(output.text for output in kept)
                kept = kept[:1]
            cell.outputs = kept
    nbformat.write(run, path)


if __name__ == "__main__":
    for name in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            keep(name, run_notebook(name, Path(folder)))
