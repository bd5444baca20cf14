"""The notebooks run from top to bottom, and their kept outputs are what they print."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell shows as text."""
    shown = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [
                output.get("text") or output.get("data", {}).get("text/plain")
                for output in cell.outputs
                if output.get("name") != "stderr"  # where a library is missing, and such
            ]
            shown.append("".join(str(text) for text in outputs))
    return shown


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path: Path, tmp_path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    run = nbformat.from_dict(kept.copy())
    NotebookClient(run, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert printed(run) == printed(kept)
    assert path.stat().st_size < 100_000
