"""Scores of translations: chrF and BLEU by sacrebleu, BLEURT and COMET with a checkpoint.

    metric    of a row                          of all rows
    chrF      n-gram counts, which add up       chrF2 of the counts           0 to 100
    BLEU      n-gram counts, which add up       BLEU of the counts            0 to 100
    BLEURT    what the checkpoint says          mean                          about 0 to 1
    COMET     what the checkpoint says          mean                          about 0 to 1

chrF and BLEU are those of the whole corpus, and so are those of a resample (Koehn 2004). A metric
gives numbers for each row that add up, and makes the score of their sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from delia_data._optional import require
from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate, Resampling, Sums, bootstrap
from delia_data.evaluation.learned import LEARNED, LearnedMetric

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
