"""Read any input: files, folders, URLs, Hub ids, datasets, tables and rows.

given ──▶ open_source ──▶ Source ──▶ batches()   Arrow, one column `messages`
├─▶ map(read)   a value for each row, with its location
└─▶ rows()      raw rows, with their locations
"""

from __future__ import annotations

from delia_data.reading.files import KINDS, FilePart, is_url
from delia_data.reading.inputs import (
    Problems,
    Report,
    Source,
    choose_split,
    is_output,
    open_source,
    open_splits,
    read_records,
)
from delia_data.reading.tables import MESSAGES

__all__ = [
    "KINDS",
    "MESSAGES",
    "FilePart",
    "Problems",
    "Report",
    "Source",
    "choose_split",
    "is_output",
    "is_url",
    "open_source",
    "open_splits",
    "read_records",
]
