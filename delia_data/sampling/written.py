"""What a model wrote while queries were sought: on disk as it comes, by number.

    folder/
        plan.json        all that the texts depend on; a rerun with another one is refused
        written.jsonl    one completion a line, usable or not; append-only

A line is written the moment its completion is there, so that it outlives a kill of the process, and
made durable twice a second. A last line without its end is dropped. Whether a text is a query is
worked out from these lines alone, in the order of their numbers, whenever they are read.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import jsonlines

from delia_data.engines.base import Completion, Finish
from delia_data.errors import OutputError
from delia_data.outputs import (
    LOCK,
    check_folder_is_ours,
    check_same_settings,
    folder_lock,
    write_json,
)

_PLAN: Final = "plan.json"
_LINES: Final = "written.jsonl"
_DURABLE_S: Final = 0.5


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
        self._file: io.FileIO | None = None
        self._read_bytes = 0
        self._durable_at = 0.0
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
        path = self._folder / _LINES
        if not path.is_file():
            return
        with path.open("rb") as lines:
            lines.seek(self._read_bytes)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                row = _parsed(line, path)
                self.by_number[row.number] = row
                self._read_bytes += len(line)

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
            # Unbuffered: what cannot be written fails where it is written, not at closing.
            with (self._folder / _LINES).open("ab", buffering=0) as self._file:
                self._file.truncate(self._read_bytes)  # a line that a kill cut short goes
                try:
                    yield
                finally:
                    os.fsync(self._file.fileno())

    def append(self, row: Written) -> None:
        """Write one line.

        Raises:
            OutputError: The disk is full or gone. What was written before stays.
        """
        assert self._file is not None, "texts are appended while the folder is held"
        buffer = io.BytesIO()
        with jsonlines.Writer(buffer) as writer:
            writer.write(asdict(row))
        left = memoryview(buffer.getvalue())
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
            if time.monotonic() - self._durable_at > _DURABLE_S:
                os.fsync(self._file.fileno())
                self._durable_at = time.monotonic()
        except OSError as error:
            raise OutputError(
                f"{self._folder / _LINES} cannot be written: {error.strerror or error}; "
                "what was written before is whole: free some space and run again"
            ) from error
        self._read_bytes += len(buffer.getvalue())
        self.by_number[row.number] = row


def _parsed(line: bytes, path: Path) -> Written:
    try:
        with jsonlines.Reader([line.decode("utf-8")]) as reader:
            return Written(**reader.read(type=dict))
    except (jsonlines.Error, TypeError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{path} is damaged ({str(error).splitlines()[0]}): remove the damaged line, "
            "or write queries into another folder"
        ) from error
