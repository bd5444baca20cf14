"""What a model wrote while queries were sought: on disk as it comes, by number.

    folder/
        plan.json        all that the texts depend on; a rerun with another one is refused
        written.jsonl    one completion a line, usable or not; append-only

Whether a text is a query is worked out from these lines alone, in the order of their numbers,
whenever they are read.
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
_LINES: Final = "written.jsonl"


@dataclass(frozen=True, slots=True)
class Written:
    """One completion.

    Attributes:
        number: Its place among all that are asked for, from 0.
        text: What the model wrote.
        finish: How it ended.
        tokens: Tokens generated.
        prompt_tokens: Tokens of the prompt; 0 where the engine does not tell.
        cost: Dollars; None where the price is not known.
        error: What went wrong, where something did.
    """

    number: int
    text: str
    finish: Finish
    tokens: int
    prompt_tokens: int = 0
    cost: float | None = 0.0
    error: str | None = None

    @classmethod
    def of(cls, number: int, completion: Completion) -> Written:
        """Take a completion for a number."""
        text = completion.text.encode("utf-8", "replace").decode("utf-8")  # no half characters
        return cls(
            number,
            text,
            completion.finish,
            completion.tokens,
            completion.prompt_tokens,
            completion.cost,
            completion.error,
        )


class WrittenTexts:
    """The texts of a folder.

    Attributes:
        by_number: What is there, as far as `read` and `append` have seen.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Point at a folder; nothing is read yet."""
        self._folder = Path(folder)
        self._log = JsonlLog(
            self._folder / _LINES, Written, if_damaged="or write into another folder"
        )
        self._read_bytes = 0
        self.by_number: dict[int, Written] = {}

    def read(self, plan: dict[str, Any]) -> None:
        """Take up what was written since the last time.

        Raises:
            SettingsError: It was written by another plan.
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
        """Hold the folder, and take up what is there; `append` works inside.

        Raises:
            ForeignFolderError: The folder holds something else.
            LockedError: Another process writes there.
            SettingsError: It was begun with another plan.
            OutputError: A line is damaged, or the disk is full or gone.
        """
        check_folder_is_ours(self._folder, frozenset({_PLAN, _LINES}), sign=LOCK)
        with folder_lock(self._folder):
            self.read(plan)
            if not (self._folder / _PLAN).is_file():
                write_json(self._folder / _PLAN, plan)
            with self._log:
                yield

    def append(self, row: Written) -> None:
        """Write one line.

        Raises:
            OutputError: The disk is full or gone. What was written before stays.
        """
        self._read_bytes += self._log.append(row)
        self.by_number[row.number] = row
