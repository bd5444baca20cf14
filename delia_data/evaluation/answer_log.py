"""Answers on disk: a line each, there as soon as it is given.

A line is written at once, so that a kill takes nothing that was answered; a last line that a kill
cut short is dropped when the log is opened again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from delia_data.errors import OutputError


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        id: Content id of the turns that were asked.
        text: The answer.
        tokens: Tokens of it; 0 where the engine does not tell.
        cut: Whether it was cut off.
    """

    id: str
    text: str
    tokens: int
    cut: bool


class AnswerLog:
    """A file of answers to append to, for one process at a time.

    Attributes:
        answers: Those that are there, by id.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            OutputError: A line is damaged.
        """
        self._path = path
        self._file: IO[bytes] | None = None
        self.answers: dict[str, Answer] = {}
        self._whole = 0
        if path.exists():
            self._read()

    def __enter__(self) -> AnswerLog:
        """Open it for writing."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(self._whole)
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Let it outlive a crash of the machine too."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def add(self, answer: Answer) -> None:
        """Write an answer.

        Raises:
            OutputError: The disk is full or gone; what was written before stays.
        """
        assert self._file is not None
        left = memoryview(json.dumps(asdict(answer), ensure_ascii=False).encode() + b"\n")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._unwritable(error) from error
        self.answers[answer.id] = answer

    def _read(self) -> None:
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    answer = Answer(**json.loads(line))
                except (ValueError, TypeError) as error:
                    raise OutputError(
                        f"{self._path}:{number}: the line is damaged: remove it, and its question "
                        "is asked again"
                    ) from error
                self.answers[answer.id] = answer
                self._whole += len(line)

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self._path} cannot be written: {error.strerror or error}; what was answered "
            "before stays: free some space and run again"
        )
