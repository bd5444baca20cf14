"""The rows of a CSV file, as texts: a cell may have several lines, or look like a number."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from delia_data.errors import FormatError, InputError


def csv_rows(file: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Read a CSV file with a header, one row after another.

    Yields:
        Where the row ends (`"file:line"`), and its cells by column; None for an empty one.

    Raises:
        InputError: The file cannot be read.
        FormatError: A row has more cells than the header.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            for row in reader:
                where = f"{file}:{reader.line_num}"
                if None in row:
                    raise FormatError(
                        f"{where}: the row has more cells than the header: quote cells that "
                        "hold commas"
                    )
                yield where, {name: cell or None for name, cell in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read: {error}; check the file") from error
