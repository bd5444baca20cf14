"""A user's own wordings, from a file or a list.

    wordings.txt      one a line; or, where the file has empty lines, one a paragraph
    wordings.jsonl    {"text": ..., "split": "test", "kind": ..., "plain": ...}; .json, .csv, ...

A wording without a place for the query gets it on a line of its own, at the end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from delia_data.errors import FormatError, InputError
from delia_data.mixing.sources import rows_of
from delia_data.tasks import QUERY_SLOT, Wording

_PARAGRAPHS: Final = re.compile(r"\n[ \t]*\n\s*")
_SPLITS: Final = ("train", "test")


def read_wordings(given: str | os.PathLike[str] | Iterable[Any]) -> list[Wording]:
    r"""Read wordings.

    Args:
        given: A file, or texts, rows or wordings. In texts, `\n` on one line stands for a line
            break.

    Raises:
        InputError: The file is not there, cannot be read, or has no wordings.
        FormatError: A row has no text, or a split that is none.
    """
    if isinstance(given, str | os.PathLike):
        rows = _lines(Path(given)) if Path(given).suffix == ".txt" else rows_of(given)
        source = str(given)
    else:
        rows = ((f"wording {i}", row) for i, row in enumerate(given))
        source = "the list"
    found = [_wording(where, row) for where, row in rows]
    if not found:
        raise InputError(f"{source} has no wordings: give at least one")
    return found


def _lines(file: Path) -> list[tuple[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; check the path") from error
    parts = _PARAGRAPHS.split(text) if _PARAGRAPHS.search(text) else text.splitlines()
    return [(f"{file}: wording {i}", part) for i, part in enumerate(parts, 1) if part.strip()]


def _wording(where: str, row: Any) -> Wording:
    if isinstance(row, Wording):
        return row
    if isinstance(row, str):
        return Wording(_placed(row.replace("\\n", "\n")))
    if not isinstance(row, Mapping) or not str(row.get("text") or "").strip():
        raise FormatError(f'{where} has no text: give it as "text"')
    split = row.get("split") or "train"
    if split not in _SPLITS:
        raise FormatError(f"{where} has split {split!r}: use one of {', '.join(_SPLITS)}")
    plain = row.get("plain")
    return Wording(
        _placed(str(row["text"])),
        "test" if split == "test" else "train",
        str(row.get("kind") or ""),
        None if not plain else _placed(str(plain)),
    )


def _placed(text: str) -> str:
    said = text.strip()
    return said if QUERY_SLOT in said else f"{said}\n{QUERY_SLOT}"
