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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delia_data.engines.base import Completion, Engine, Finish, Request, Sampling
from delia_data.errors import EngineError
from delia_data.outputs import (
    LOCK,
    JsonlLog,
    check_folder_is_ours,
    check_same_settings,
    folder_lock,
    write_json,
)
from delia_data.records import encodable
from delia_data.sampling.budget import Budget, Limits

_ATTEMPTS: Final = 3
_MAX_CONSECUTIVE_FAILURES: Final = 32  # after which the engine counts as dead

_PLAN: Final = "plan.json"
_LOG: Final = "written.jsonl"


@dataclass(frozen=True, slots=True)
class LoggedCompletion:
    """A completion by the number of its request; the other fields are those of `Completion`."""

    number: int
    text: str
    finish: Finish
    tokens: int
    prompt_tokens: int = 0
    cost: float | None = 0.0
    error: str | None = None


class CompletionLog:
    """The completions of a folder.

    Attributes:
        by_number: The completions that were read or requested so far.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Name a folder without reading it."""
        self._folder = Path(folder)
        self._log = JsonlLog(
            self._folder / _LOG, LoggedCompletion, if_damaged="or write into another folder"
        )
        self._read_bytes = 0
        self._consecutive_failures = 0
        self.by_number: dict[int, LoggedCompletion] = {}

    @property
    def spent(self) -> tuple[int, float]:
        """Prompt and generated tokens of all texts, and dollars; unknown prices count as 0."""
        rows = self.by_number.values()
        return (
            sum(row.tokens + row.prompt_tokens for row in rows),
            sum(row.cost or 0.0 for row in rows),
        )

    def usage(self, numbers: Iterable[int]) -> dict[str, Any]:
        """Return the entry of a manifest: generated tokens of some texts, and dollars if known."""
        rows = [self.by_number[number] for number in numbers]
        costs = [row.cost for row in rows if row.cost is not None]
        cost = sum(costs) if len(costs) == len(rows) else None
        return {"tokens": sum(row.tokens for row in rows), "cost_usd": cost}

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
        """Lock the folder and read its entries; `request` works inside the block.

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

    def request(
        self,
        engine: Engine,
        numbers: Sequence[int],
        build: Callable[[int], Request],
        sampling: Sampling,
        *,
        purpose: str,
        budget: Budget | None = None,
        on_completion: Callable[[], None],
    ) -> bool:
        """Request the missing ones of the numbers; repeat failed requests twice.

        Returns:
            Whether the budget allowed all requests.

        Raises:
            EngineError: The engine failed, or 32 requests failed in a row.
            OutputError: The disk is full or gone. Entries written before stay.
        """
        missing = [number for number in numbers if number not in self.by_number]
        requests = [build(number) for number in missing]
        number_of = dict(zip((request.id for request in requests), missing, strict=True))
        for completion, is_last in generate_with_retries(engine, requests, sampling, budget):
            failed = completion.finish == "error"
            self._consecutive_failures = self._consecutive_failures + 1 if failed else 0
            if self._consecutive_failures == _MAX_CONSECUTIVE_FAILURES:
                raise EngineError(
                    f"{_MAX_CONSECUTIVE_FAILURES} requests for {purpose} failed one after the "
                    f"other ({completion.error}): fix the engine and run again; "
                    f"finished {purpose} stay"
                )
            if is_last:
                row = LoggedCompletion(
                    number_of[completion.id],
                    encodable(completion.text),
                    completion.finish,
                    completion.tokens,
                    completion.prompt_tokens,
                    completion.cost,
                    completion.error,
                )
                self._read_bytes += self._log.append(row)
                self.by_number[row.number] = row
                on_completion()
        return all(number in self.by_number for number in numbers)


def generate_with_retries(
    engine: Engine,
    requests: Sequence[Request],
    sampling: Sampling,
    budget: Budget | None = None,
) -> Iterator[tuple[Completion, bool]]:
    """Request completions; repeat failed requests twice, unless they would fail again.

    Equal requests are made once, and requests stop before the budget is exceeded.

    Yields:
        Each completion, and whether it is the last one of its request.

    Raises:
        EngineError: The engine failed.
    """
    budget = budget or Budget(Limits(), engine.prices)
    missing = {request.id: request for request in requests}
    for attempt in range(1, _ATTEMPTS + 1):
        affordable = budget.affordable(list(missing.values()), sampling.max_tokens)
        for completion in engine.generate(affordable, sampling) if missing else ():
            budget.settle(completion)
            repeat = completion.finish == "error" and not completion.final
            if is_last := not repeat or attempt == _ATTEMPTS:
                del missing[completion.id]
            yield completion, is_last
