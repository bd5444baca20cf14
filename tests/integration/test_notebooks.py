"""The notebooks run from top to bottom, and their kept outputs are what they print.

What a model writes may differ from one processor to the next: cells tagged `varies` must print
something, and `CLAIMS` says what must hold of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from delia_data.models import embedded_gguf

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
VARIES = "varies"

CLAIMS = {
    "02_your_own_task": (
        "assert cache.rows['kept'] == 18 and _exit_code == 0\n"
        "assert plain['messages'] == checked['messages'] == mixture.train['messages'].to_pylist()"
    ),
}
"""What must hold at the end of a notebook, by its name; run there as a last cell."""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(embedded_gguf() is None, reason="the embedded weights are not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]


def printed(cell: nbformat.NotebookNode) -> str:
    """What a code cell shows as text."""
    outputs = [
        output.get("text") or output.get("data", {}).get("text/plain")
        for output in cell.outputs
        if output.get("name") != "stderr"  # where a library is missing, and such
    ]
    return "".join(str(text) for text in outputs)


def test_the_notebooks_are_there() -> None:
    assert {path.stem for path in NOTEBOOKS} >= set(CLAIMS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 100_000
    shown = json.dumps([cell.get("outputs") for cell in json.loads(text)["cells"]])
    for sign in ("/tmp", "/root", "/home", "/work", "localhost", "127.0.0.1", "stderr"):
        assert sign not in shown, sign


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path: Path, tmp_path: Path) -> None:
    here = tmp_path / "notebooks"
    here.mkdir()
    for beside in ("tests", "benchmarks"):  # as they lie beside a reader's notebooks
        (tmp_path / beside).symlink_to(ROOT / beside)
    kept = nbformat.read(path, as_version=4)
    run = nbformat.from_dict(kept.copy())
    claim = nbformat.v4.new_code_cell(CLAIMS.get(path.stem, ""))
    run.cells.append(claim)
    NotebookClient(run, timeout=1200, resources={"metadata": {"path": str(here)}}).execute()
    for ours, theirs in zip(run.cells, kept.cells, strict=False):
        if ours.cell_type == "markdown":
            continue
        if VARIES in theirs.metadata.get("tags", ()):
            assert bool(printed(ours)) == bool(printed(theirs)), theirs.source
        else:
            assert printed(ours) == printed(theirs), theirs.source
