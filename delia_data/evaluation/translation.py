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
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from delia_data._optional import require
from delia_data.errors import EngineError, InputError, MissingExtraError
from delia_data.evaluation import _learned_worker
from delia_data.evaluation.bootstrap import Estimate, Resampling, Sums, bootstrap

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


_SACREBLEU: Final = {"chrf": "chrF", "bleu": "BLEU"}
METRICS: Final = (*_SACREBLEU, *LEARNED)


class CorpusMetric(Protocol):
    """A score of translations.

    Attributes:
        name: Its name, as reports show it.
    """

    name: str

    def counts(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[str]
    ) -> NDArray[np.float64]:
        """What each row adds to the sums, of shape (rows, k)."""
        ...

    def score(self, sums: Sums, rows: int) -> Sums:
        """Scores of shape (n,) of sums of shape (n, k), each of `rows` rows."""
        ...


class Sacrebleu:
    """chrF2 or BLEU with sacrebleu's own settings.

    The counts of a row come from the methods that its significance tests use.
    """

    def __init__(self, metric: str) -> None:
        """Make the metric.

        Args:
            metric: `"chrf"` or `"bleu"`.

        Raises:
            MissingExtraError: sacrebleu is not installed.
        """
        library = require("sacrebleu.metrics", extra="translation")
        self.name = _SACREBLEU[metric]
        self._metric: Any = library.CHRF() if metric == "chrf" else library.BLEU()

    def counts(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[str]
    ) -> NDArray[np.float64]:
        """Counts of n-grams, of shape (rows, k)."""
        found = self._metric._extract_corpus_statistics(list(answers), [list(references)])
        return np.asarray(found, dtype=np.float64)

    def score(self, sums: Sums, rows: int) -> Sums:
        """Scores of sums of counts, 0 to 100."""
        by = self._metric._compute_score_from_stats
        return np.asarray([by([int(n) for n in each]).score for each in sums])


def load_metrics(given: Sequence[str]) -> tuple[CorpusMetric, ...]:
    """Load metrics of translations.

    Args:
        given: Names: `"chrf"`, `"bleu"`, `"bleurt=CHECKPOINT"`, `"comet=CHECKPOINT"`.

    Raises:
        InputError: A name is unknown, or a checkpoint is missing.
        MissingExtraError: A library is not installed.
    """
    metrics: list[CorpusMetric] = []
    for text in given:
        name, _, checkpoint = text.partition("=")
        if name not in METRICS:
            raise InputError(f"metric {name!r} is unknown: use one of {', '.join(METRICS)}")
        if name in LEARNED:
            metrics.append(LearnedMetric(name, checkpoint))
        elif checkpoint:
            raise InputError(f"metric {name} takes no checkpoint, and {checkpoint!r} was given")
        else:
            metrics.append(Sacrebleu(name))
    return tuple(metrics)


def score_corpus(
    metric: CorpusMetric,
    sources: Sequence[str],
    answers: Sequence[str],
    references: Sequence[str],
    how: Resampling,
) -> Estimate:
    """Score translations.

    Args:
        metric: The metric.
        sources: What was translated.
        answers: The translations.
        references: The known translations.
        how: How the interval is made.

    Raises:
        InputError: There are no translations, or not as many of each.
    """
    if not len(sources) == len(answers) == len(references):
        raise InputError(
            f"{len(sources)} sources, {len(answers)} translations and {len(references)} "
            "references: give one of each a row"
        )
    if not answers:
        raise InputError("there are no translations to score: give at least one")
    counts = metric.counts(sources, answers, references)
    found = bootstrap(counts, lambda sums: metric.score(sums, len(answers)), how)
    if found is None:
        raise InputError(f"{metric.name} gave no number for {len(answers)} translations")
    return found
