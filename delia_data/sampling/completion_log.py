"""Completions of numbered requests on disk: the texts that a model writes for a list.

    folder/
        plan.json        everything the texts depend on; a rerun with another plan is refused
        written.jsonl    log of completions, usable or not

Which texts are usable is computed from the log alone, in the order of the numbers, whenever it is
read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delia_data.engines.base import Completion, Finish
from delia_data.outputs import (
    LOCK,
    JsonlLog,
    check_folder_is_ours,
    check_same_settings,
    folder_lock,
    write_json,
)

_PLAN: Final = "plan.json"
_LOG: Final = "written.jsonl"


@dataclass(frozen=True, slots=True)
class LoggedCompletion:
    """One completion.

    Attributes:
        number: Number of the request, from 0.
        text: The text.
        finish: How the text ended.
        tokens: Number of generated tokens.
        prompt_tokens: Number of prompt tokens; 0 if the engine does not report it.
        cost: Cost in dollars; None if the price is unknown.
        error: Error message, if the request failed.
    """

    number: int
    text: str
    finish: Finish
    tokens: int
    prompt_tokens: int = 0
    cost: float | None = 0.0
    error: str | None = None

    @classmethod
    def of(cls, number: int, completion: Completion) -> LoggedCompletion:
        """Build the entry of a completion."""
        # A lone surrogate cannot be written to a file.
        text = completion.text.encode("utf-8", "replace").decode("utf-8")
        return cls(
            number,
            text,
            completion.finish,
            completion.tokens,
            completion.prompt_tokens,
            completion.cost,
            completion.error,
        )


class CompletionLog:
    """The completions of a folder.

    Attributes:
        by_number: The completions that `read` and `append` have seen so far.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Name a folder without reading it."""
        self._folder = Path(folder)
        self._log = JsonlLog(
            self._folder / _LOG, LoggedCompletion, if_damaged="or write into another folder"
        )
        self._read_bytes = 0
        self.by_number: dict[int, LoggedCompletion] = {}

    def read(self, plan: dict[str, Any]) -> None:
        """Read the entries that were added since the last call.

        Raises:
            SettingsError: The folder was started with another plan.
            OutputError: A line is damaged.
        """
        if (self._folder / _PLAN).is_file():
            earlier = json.loads((self._folder / _PLAN).read_text(encoding="utf-8"))
            check_same_settings(self._folder, earlier, json.loads(json.dumps(plan)))
        for row, start, length in self._log.read(self._read_bytes):
            self.by_number[row.number] = row
            self._read_bytes = start + length

    @contextmanager
    def writing(self, plan: dict[str, Any]) -> Iterator[None]:
        """Lock the folder and read its entries; `append` works inside the block.

        Raises:
            ForeignFolderError: The folder holds other files.
            LockedError: Another process writes into it.
            SettingsError: The folder was started with another plan.
            OutputError: A line is damaged, or the disk is full or gone.
        """
        check_folder_is_ours(self._folder, frozenset({_PLAN, _LOG}), sign=LOCK)
        with folder_lock(self._folder):
            self.read(plan)
            if not (self._folder / _PLAN).is_file():
                write_json(self._folder / _PLAN, plan)
            with self._log:
                yield

    def append(self, row: LoggedCompletion) -> None:
        """Write one entry.

        Raises:
            OutputError: The disk is full or gone. Entries written before stay.
        """
        self._read_bytes += self._log.append(row)
        self.by_number[row.number] = row
