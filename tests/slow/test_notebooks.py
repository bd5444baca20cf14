"""The notebooks run from top to bottom, and print their saved outputs.

The output of a model may differ between processors: cells tagged `varies` must print something, and
`CLAIMS` has assertions about it.
"""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from notebook_runs import ROOT, keep, run_notebook

from delia_data.models import embedded_gguf

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
VARIES = "varies"

CLAIMS = {
    "01_quickstart": (
        "assert mixture.num_rows == 120 and losses[-1] < losses[0]\n"
        "assert evaluation.number('follow', 'untrained').value == 0, evaluation\n"
        "assert evaluation.number('follow').value > 0.5 and leak.rows == 16, evaluation"
    ),
    "02_your_own_task": (
        "assert cache.rows['kept'] == 18 and _exit_code == 0\n"
        "assert grown.tag == 'v1.1.0' and grown.why.startswith('changed: cache'), grown\n"
        "assert plain['messages'] == checked['messages'] == mixture.train['messages'].to_pylist()"
    ),
    "03_does_it_work": (
        "assert results.finished and set(methods) >= {'delia', 'step_matched', 'common'}"
    ),
}
"""Assertions by notebook, which run as its last cell."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.release,
    pytest.mark.skipif(embedded_gguf() is None, reason="the embedded weights are not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def printed(cell: nbformat.NotebookNode) -> str:
    """Return the text output of a code cell."""
    outputs = [
        output.get("text") or output.get("data", {}).get("text/plain")
        for output in cell.outputs
        if output.get("name") != "stderr"  # where a library is missing, and such
    ]
    return "".join(str(text) for text in outputs)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebooks_are_there() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(CLAIMS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 100_000
    shown = json.dumps([cell.get("outputs") for cell in json.loads(text)["cells"]])
    for sign in ("/tmp", "/root", "/home", "localhost", "127.0.0.1", "stderr"):
        assert sign not in shown, sign


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path: Path, tmp_path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    run = run_notebook(path, tmp_path / "tree", claim=CLAIMS[path.stem])
    for ours, theirs in zip(code(run), code(kept), strict=True):
        if VARIES in theirs.metadata.get("tags", ()):
            assert bool(printed(ours)) == bool(printed(theirs)), theirs.source
        else:
            assert printed(ours) == printed(theirs), theirs.source
    keep(tmp_path / "kept.ipynb", run)
    again = nbformat.read(tmp_path / "kept.ipynb", as_version=4)
    assert [printed(cell) for cell in code(again)] == [printed(cell) for cell in code(run)]
