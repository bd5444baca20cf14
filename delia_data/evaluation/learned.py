"""BLEURT and COMET: metrics that are models, in an environment of their own.

Neither runs beside the libraries of this package: `unbabel-comet` 2.2 needs transformers below 5
and numpy below 2, and `bleurt-pytorch` 0.0.1 imports what transformers 5 no longer has. So another
Python scores the rows, which has the package and not ours:

    rows ── stdin ──▶ PYTHON _learned_worker.py bleurt CHECKPOINT ── stdout ──▶ scores

    python -m venv ~/bleurt
    ~/bleurt/bin/pip install bleurt-pytorch "transformers<5"
    export DELIA_BLEURT_PYTHON=~/bleurt/bin/python
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from delia_data.errors import EngineError, InputError, MissingExtraError
from delia_data.evaluation import _learned_worker
from delia_data.evaluation.bootstrap import Sums

LEARNED: Final = {"bleurt": "BLEURT", "comet": "COMET"}

_PACKAGES: Final = {"bleurt": "bleurt-pytorch 'transformers<5'", "comet": "unbabel-comet"}
_CHECKPOINTS: Final = {
    "bleurt": "the folder of one that bleurt-pytorch reads, such as BLEURT-20",
    "comet": "the .ckpt file of one, such as that of wmt22-comet-da",
}


class LearnedMetric:
    """BLEURT or COMET with a checkpoint that lies here."""

    def __init__(self, metric: str, checkpoint: str) -> None:
        """Find the checkpoint and the Python that has the package; nothing is loaded yet.

        Args:
            metric: `"bleurt"` or `"comet"`.
            checkpoint: Folder or file of the checkpoint.

        Raises:
            InputError: The checkpoint is not there, or the Python is not.
            MissingExtraError: The Python does not have the package.
        """
        self.name = LEARNED[metric]
        self._metric = metric
        if not checkpoint or not Path(checkpoint).exists():
            told = f"{checkpoint} is not there" if checkpoint else "no checkpoint was given"
            raise InputError(
                f"{self.name} needs its weights, and {told}: give {metric}=PATH, "
                f"{_CHECKPOINTS[metric]}"
            )
        self._checkpoint = str(Path(checkpoint).resolve())
        variable = f"DELIA_{metric.upper()}_PYTHON"
        given = os.environ.get(variable, sys.executable)
        self._python = shutil.which(given) or ""
        if not self._python:
            raise InputError(f"{variable} names {given!r}, which is no program: give a Python")
        if self._run(_learned_worker.CHECK).returncode:
            raise MissingExtraError(
                f"{given} does not have {self.name}: make an environment with pip install "
                f"{_PACKAGES[metric]}, and set {variable} to its Python"
            )

    def counts(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[str]
    ) -> NDArray[np.float64]:
        """The score of each row, of shape (rows, 1).

        Raises:
            EngineError: The other Python failed.
        """
        rows = json.dumps(
            [
                {"src": source, "mt": answer, "ref": reference}
                for source, answer, reference in zip(sources, answers, references, strict=True)
            ]
        )
        done = self._run(_learned_worker.SCORE, rows)
        try:
            scores = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            scores = None
        if done.returncode or not isinstance(scores, list) or len(scores) != len(answers):
            last = (done.stderr.strip().splitlines() or ["it gave no scores"])[-1]
            raise EngineError(
                f"{self.name} failed with checkpoint {Path(self._checkpoint).name}: {last}"
            )
        return np.asarray(scores, dtype=np.float64).reshape(-1, 1)

    def score(self, sums: Sums, rows: int) -> Sums:
        """Means."""
        return np.asarray(sums[:, 0] / rows)

    def _run(self, what: str, rows: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._python, _learned_worker.__file__, self._metric, what, self._checkpoint],
            input=rows,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
