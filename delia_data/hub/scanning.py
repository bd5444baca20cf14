"""The scan of what is about to leave: every text of every row, and the manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.errors import SecretError
from delia_data.hub.parts import CACHE, TASK, Part
from delia_data.hub.secrets import Finding, is_allowed, report, scan
from delia_data.records import read_rows

_BATCH: Final = 1_000


def check_secrets(
    parts: Mapping[str, Part], allow: Sequence[str], login: str | None
) -> Counter[str]:
    """Scan what is about to leave.

    Mixtures are scanned where the task or the cache is not: their rows are from these.

    Args:
        parts: What is to be published.
        allow: Kinds, or patterns of values, that are let through.
        login: The token of the one who publishes.

    Returns:
        What was let through, by kind.

    Raises:
        SecretError: Something else was found; its `report` says what and where.
    """
    sources = {CACHE, TASK} <= set(parts)
    texts = (
        text
        for part in parts.values()
        if not sources or part.name in (CACHE, TASK)
        for text in texts_of(part)
    )
    found = list(scan(texts, login=login))
    refused = [finding for finding in found if not is_allowed(finding, allow)]
    if refused:
        kinds = ", ".join(sorted({finding.kind for finding in refused}))
        error = SecretError(
            f"{len(refused)} places hold what must not leave unseen ({kinds}), the first in "
            f"{refused[0].where}: remove them, or give --allow with a kind or a pattern"
        )
        error.add_note(report(refused))
        raise error
    return Counter(finding.kind for finding in found)


def texts_of(part: Part) -> Iterator[tuple[str, str]]:
    """Every text of a part, with its place."""
    told = part.manifest.model_dump(mode="json", exclude={"files", "inputs"})
    yield from _strings(f"{part.name}/manifest.json", told)
    for path, file in part.sources().items():
        if file.suffix == ".parquet":
            yield from _of_parquet(path, file)
        elif file.suffix == ".jsonl":
            for where, row in read_rows(file):
                yield from _strings(f"{path} {where.rsplit(': ', 1)[-1]}", row)
        elif file.name not in ("manifest.json", "FINISHED"):
            yield path, file.read_text(encoding="utf-8", errors="replace")


def _of_parquet(path: str, file: Path) -> Iterator[tuple[str, str]]:
    number = 0
    parquet = pq.ParquetFile(file)
    names = [field.name for field in parquet.schema_arrow if not _is_plain(field)]
    for batch in parquet.iter_batches(_BATCH, columns=names):
        for row in batch.to_pylist():
            yield from _strings(f"{path} row {number}", row)
            number += 1


def _is_plain(field: pa.Field) -> bool:
    """Whether a column cannot hold a text of anybody's."""
    return pa.types.is_primitive(field.type) or field.name in ("source_id", "wording_id", "row_id")


def _strings(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every string within a value of JSON, keys too."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            yield where, str(key)
            yield from _strings(where, inside)
    elif isinstance(value, Iterable):
        for inside in value:
            yield from _strings(where, inside)


def findings_of(error: SecretError) -> str:
    """The report that an error carries."""
    return "\n".join(getattr(error, "__notes__", []))


def scan_text(where: str, text: str, login: str | None) -> list[Finding]:
    """Scan one text, such as a card that a person wrote."""
    return list(scan([(where, text)], login=login))
