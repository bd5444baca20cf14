"""Metrics of translations: chrF, BLEU, and the learned metrics BLEURT and COMET.

The learned metrics are not compatible with the libraries of this package: `unbabel-comet` 2.2
needs transformers below 5 and numpy below 2, and `bleurt-pytorch` 0.0.1 imports names that
transformers 5 does not have. A Python of another environment scores the rows:

    rows ── stdin ──▶ PYTHON -c PROGRAM bleurt score CHECKPOINT ── stdout ──▶ scores

    python -m venv ~/bleurt
    ~/bleurt/bin/pip install bleurt-pytorch "transformers<5"
    export DELIA_BLEURT_PYTHON=~/bleurt/bin/python
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from delia_data._optional import require
from delia_data.errors import EngineError, InputError, MissingExtraError
from delia_data.evaluation.bootstrap import Estimate, Numbers, Resampling, bootstrap
from delia_data.tasks.scoring import chrf_counts, chrf_of_counts

LEARNED: Final = {"bleurt": "BLEURT", "comet": "COMET"}

_PACKAGES: Final = {"bleurt": "bleurt-pytorch 'transformers<5'", "comet": "unbabel-comet"}
_CHECKPOINTS: Final = {
    "bleurt": "a folder for bleurt-pytorch, such as BLEURT-20",
    "comet": "a .ckpt file, such as that of wmt22-comet-da",
}


class LearnedMetric:
    """BLEURT or COMET with a local checkpoint."""

    def __init__(self, metric: str, checkpoint: str) -> None:
        """Find the checkpoint and the Python with the package, without loading anything.

        Args:
            metric: `"bleurt"` or `"comet"`.
            checkpoint: Folder or file of the checkpoint.

        Raises:
            InputError: The checkpoint or the Python does not exist.
            MissingExtraError: The Python does not have the package.
        """
        self.name = LEARNED[metric]
        self._metric = metric
        if not checkpoint or not Path(checkpoint).exists():
            problem = f"{checkpoint} does not exist" if checkpoint else "no checkpoint was given"
            raise InputError(
                f"{self.name} needs a checkpoint, and {problem}: give {metric}=PATH, "
                f"{_CHECKPOINTS[metric]}"
            )
        self._checkpoint = str(Path(checkpoint).resolve())
        variable = f"DELIA_{metric.upper()}_PYTHON"
        given = os.environ.get(variable, sys.executable)
        self._python = shutil.which(given) or ""
        if not self._python:
            raise InputError(f"{variable} is {given!r}, which is not a program: set it to a Python")
        if self._run("check").returncode:
            raise MissingExtraError(
                f"{given} does not have {self.name}: make an environment with pip install "
                f"{_PACKAGES[metric]}, and set {variable} to its Python"
            )

    def counts(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return the score of each row, of shape (rows, 1).

        Raises:
            EngineError: The other Python fails.
        """
        rows = json.dumps(
            [
                {"src": source, "mt": answer, "ref": reference}
                for source, answer, reference in zip(sources, answers, references, strict=True)
            ]
        )
        done = self._run("score", rows)
        try:
            scores = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            scores = None
        if done.returncode or not isinstance(scores, list) or len(scores) != len(answers):
            last = (done.stderr.strip().splitlines() or ["it returned no scores"])[-1]
            raise EngineError(
                f"{self.name} failed with checkpoint {Path(self._checkpoint).name}: {last}"
            )
        return np.asarray(scores, dtype=np.float64).reshape(-1, 1)

    def score(self, sums: Numbers, rows: int) -> Numbers:
        """Return the means."""
        return np.asarray(sums[:, 0] / rows)

    def _run(
        self, what: Literal["check", "score"], rows: str = ""
    ) -> subprocess.CompletedProcess[str]:
        functions = (_run_metric, _score_bleurt, _score_comet)
        sources = [inspect.getsource(each) for each in functions]
        program = "\n".join([_PROGRAM_HEAD, *sources, f"{_run_metric.__name__}()"])
        return subprocess.run(
            [self._python, "-c", program, self._metric, what, self._checkpoint],
            input=rows,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )


_PROGRAM_HEAD: Final = "from __future__ import annotations\nimport json, sys\n"


# The source of the following functions is a program for a Python without this package, so they use
# nothing from this module but each other.
def _run_metric() -> None:
    """Import the package of a metric; if scores are wanted, print those of the rows in stdin.

    Rows are a JSON list of `src`, `mt` and `ref`; the last line of the output is the list of
    scores.
    """
    del sys.path[0]  # the working folder, whose modules are not for others to import
    metric, what, checkpoint = sys.argv[1:]
    run = {"bleurt": _score_bleurt, "comet": _score_comet}[metric]
    scores = run(checkpoint, json.load(sys.stdin) if what == "score" else [])
    if what == "score":
        sys.stdout.write("\n" + json.dumps(scores) + "\n")


def _score_bleurt(checkpoint: str, rows: list[dict[str, str]]) -> list[float]:
    from bleurt_pytorch import BleurtForSequenceClassification, BleurtTokenizer

    if not rows:
        return []
    import torch

    model = BleurtForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = BleurtTokenizer.from_pretrained(checkpoint)
    scores: list[float] = []
    size = 16
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        inputs: Any = tokenizer(
            [row["ref"] for row in part],
            [row["mt"] for row in part],
            padding="longest",
            truncation=True,
            max_length=model.config.max_position_embeddings,
            return_tensors="pt",
        )
        with torch.no_grad():
            scores += model(**inputs).logits.flatten().tolist()
    return scores


def _score_comet(checkpoint: str, rows: list[dict[str, str]]) -> list[float]:
    from comet import load_from_checkpoint

    if not rows:
        return []
    import torch

    model = load_from_checkpoint(checkpoint)
    gpus = int(torch.cuda.is_available())
    predicted: Any = model.predict(rows, batch_size=16, gpus=gpus, progress_bar=False)
    return [float(score) for score in predicted.scores]


METRICS: Final = ("chrf", "bleu", *LEARNED)


class CorpusMetric(Protocol):
    """A score of a corpus of translations.

    Attributes:
        name: Name in reports.
    """

    name: str

    def counts(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return the summands of each row, of shape (rows, k)."""
        ...

    def score(self, sums: Numbers, rows: int) -> Numbers:
        """Return scores of shape (n,) of sums of shape (n, k), each over `rows` rows."""
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
    """BLEU of a corpus with the default settings of sacrebleu, 0 to 100."""

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
        bleu = self._bleu(effective_order=True)  # no warning for sentences; equal counts
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
            raise InputError(
                f"metric {name} has no checkpoint, and {checkpoint!r} was given: give {name}"
            )
        else:
            metrics.append(Chrf() if name == "chrf" else Bleu())
    return tuple(metrics)


Texts: TypeAlias = tuple[Sequence[str], Sequence[str], Sequence[str]]
"""Texts to translate, translations, and reference translations."""


def score_corpus(metric: CorpusMetric, systems: Sequence[Texts], how: Resampling) -> Estimate:
    """Score the translations of a system, or the difference of two on the same rows.

    Args:
        metric: The metric.
        systems: The texts of the system; of a second one to subtract it.
        how: Settings of the interval.

    Raises:
        InputError: The metric is undefined for so few rows.
    """
    counts = [metric.counts(*texts) for texts in systems]
    rows = len(counts[0])

    def statistic(sums: Numbers) -> Numbers:
        first, *others = (metric.score(part, rows) for part in np.split(sums, len(counts), axis=1))
        return first - others[0] if others else first

    estimate = bootstrap(np.hstack(counts), statistic, how)
    if estimate is None:
        raise InputError(f"{metric.name} is undefined for {rows} translations: evaluate more rows")
    return estimate
