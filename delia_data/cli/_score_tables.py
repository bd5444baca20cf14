"""Tables and notes of evaluations and measurements in the console."""

from __future__ import annotations

from collections.abc import Iterable

from delia_data.cli._output import print_table, say
from delia_data.evaluation.tables import Table


def show_table(table: Table) -> None:
    """Print a table with its title and its note."""
    say(table.title)
    print_table(table.head, ([str(cell) for cell in row] for row in table.rows), right=table.heads)
    if table.note:
        say(f"{table.note}\n")


def show_notes(notes: Iterable[str]) -> None:
    """Print each note once."""
    for note in dict.fromkeys(notes):
        say(f"note: {note}")
