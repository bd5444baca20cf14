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
from delia_data.evaluation.bootstrap import Estimate, Numbers, Resampling, bootstrap
from delia_data.tasks.scoring import chrf_counts, chrf_of_counts

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

    def score(self, sums: Numbers, rows: int) -> Numbers:
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


METRICS: Final = ("chrf", "bleu", *LEARNED)


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

    def score(self, sums: Numbers, rows: int) -> Numbers:
        """Scores of shape (n,) of sums of shape (n, k), each of `rows` rows."""
        ...


class Chrf:
    """chrF2 of a corpus, 0 to 100, equal to that of sacrebleu."""

    name = "chrF"

    def counts(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return counts of character n-grams, of shape (rows, k)."""
        rows = [chrf_counts(*pair) for pair in zip(answers, references, strict=True)]
        return np.asarray(rows, dtype=np.float64)

    def score(self, sums: Numbers, rows: int) -> Numbers:
        """Return the scores of sums of counts."""
        return np.asarray([100 * chrf_of_counts(each) for each in sums.tolist()])


class Bleu:
    """BLEU of a corpus with sacrebleu's own settings, 0 to 100."""

    name = "BLEU"

    def __init__(self) -> None:
        """Load sacrebleu.

        Raises:
            MissingExtraError: sacrebleu is not installed.
        """
        self._bleu: Any = require("sacrebleu.metrics", extra="translation").BLEU

    def counts(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return lengths and counts of word n-grams, of shape (rows, k)."""
        bleu = self._bleu(effective_order=True)  # as it wants for sentences; counts are the same
        scores = (
            bleu.sentence_score(answer, [reference])
            for answer, reference in zip(answers, references, strict=True)
        )
        rows = [[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores]
        return np.asarray(rows, dtype=np.float64)

    def score(self, sums: Numbers, rows: int) -> Numbers:
        """Return the scores of sums of counts."""
        half = (sums.shape[1] - 2) // 2
        return np.asarray(
            [
                self._bleu.compute_bleu(
                    correct=each[2 : 2 + half],
                    total=each[2 + half :],
                    sys_len=each[0],
                    ref_len=each[1],
                    smooth_method="exp",
                ).score
                for each in sums.astype(int).tolist()
            ]
        )


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
            metrics.append(Chrf() if name == "chrf" else Bleu())
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
