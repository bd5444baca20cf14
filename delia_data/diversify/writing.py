"""Wordings that a model writes: on disk as they come, judged in the order of their numbers.

    author.request(number) ──▶ engine ──▶ CompletionLog (on disk)
                                               │ in the order of the numbers
    accepted, in order ◀── every gate ◀── author.wording(number, completion)

What is accepted follows from the completions in the order of their numbers, whatever order they
came in, so that a killed run goes on where it stopped and a larger budget only adds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from delia_data.diversify.author import Author
from delia_data.diversify.gates import Gatekeeper, GateResult
from delia_data.engines.base import Engine, Sampling
from delia_data.errors import InputError
from delia_data.sampling.completion_log import CompletionLog

WORDING_SAMPLING: Final = Sampling(temperature=0.7, top_p=0.95, max_tokens=96)
"""How wordings are drawn."""

_FIRST: Final = 32  # requests of the first wave
_LEAST_YIELD: Final = 0.02  # accepted texts a request; lower ones are not believed


@dataclass(frozen=True, slots=True)
class WordingRun:
    """What came of a run.

    Attributes:
        gates: The accepted and the rejected wordings, in the order of their numbers.
        tries: Completions that were judged.
        tokens: Tokens that were written, in all runs.
        cost: Dollars, in all runs; None where the price of one is not known.
        plan: All that the texts depend on.
    """

    gates: GateResult
    tries: int
    tokens: int
    cost: float | None
    plan: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "tries": self.tries,
            "accepted_share": round(self.gates.share, 4),
            "tokens": self.tokens,
            "cost_usd": self.cost,
            "plan": self.plan,
        }


def write_wordings(
    engine: Engine,
    author: Author,
    keeper: Gatekeeper,
    folder: str | os.PathLike[str],
    *,
    count: int,
    tries: int,
    spare: int = 0,
    sampling: Sampling = WORDING_SAMPLING,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> WordingRun:
    """Let a model write wordings until enough pass, or the tries are used up.

    Args:
        engine: What writes.
        author: What is asked of it.
        keeper: The gates; new, and made for this run.
        folder: Where texts are kept; a rerun asks only for what is not there.
        count: Wordings that must pass.
        tries: Completions to judge at most, those of earlier runs included.
        spare: More of them that may pass, where tries are left, so that there is a choice.
        sampling: How they are drawn.
        on_progress: Called with the wordings that passed and the tries so far.

    Returns:
        The wordings: `count` of them at least.

    Raises:
        InputError: Fewer than `count` passed; the message names the gate that rejects most, and
            shows three texts.
        EngineError: The engine failed, or so did 32 requests one after the other.
        SettingsError: The folder was begun with another task, model, or prompts.
    """
    if count < 1 or tries < 1:
        raise InputError(f"{count} wordings in {tries} tries: give at least 1 of each")
    plan = {**author.describe(), "sampling": asdict(sampling), "writer": engine.describe()}
    run = _Run(engine, author, keeper, CompletionLog(folder), sampling, on_progress)
    run.wanted, run.tries = count + spare, tries
    with run.texts.writing(plan):
        run.judge()
        while not run.is_done:
            run.write(run.next_numbers())
    rows = [run.texts.by_number[number] for number in range(run.judged)]
    costs = [row.cost for row in rows]
    done = WordingRun(
        gates=keeper.result,
        tries=run.judged,
        tokens=sum(row.tokens for row in rows),
        cost=None if None in costs else sum(cost or 0.0 for cost in costs),
        plan=plan,
    )
    if len(keeper.accepted) < count:
        raise InputError(
            f"{len(keeper.accepted)} of {count} wordings passed in {run.judged:,} tries; "
            f"{done.gates.complaint()}; give more tries (--tries), which goes on from here, "
            "another model, or wordings of your own"
        )
    return done


class _Run:
    """The texts so far, and how many of them were judged."""

    def __init__(
        self,
        engine: Engine,
        author: Author,
        keeper: Gatekeeper,
        texts: CompletionLog,
        sampling: Sampling,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.texts = texts
        self.judged = 0  # numbers that were judged: all below
        self.wanted = self.tries = 0
        self._engine, self._author, self._keeper = engine, author, keeper
        self._sampling, self._on_progress = sampling, on_progress

    @property
    def is_done(self) -> bool:
        """Whether enough passed, or the tries are used up."""
        return len(self._keeper.accepted) >= self.wanted or self.judged >= self.tries

    def judge(self) -> None:
        """Judge what is there, up to the first number that is not, until enough passed."""
        while not self.is_done:
            row = self.texts.by_number.get(self.judged)
            if row is None:
                break
            self._keeper.judge(self._author.wording(row.number, row.text), row.finish)
            self.judged += 1
        self._on_progress(len(self._keeper.accepted), self.judged)

    def next_numbers(self) -> list[int]:
        """Numbers to ask for next: as many as the missing ones may need, within the tries."""
        kept = len(self._keeper.accepted)
        wave = _FIRST
        if self.judged:
            rate = max(kept / self.judged, _LEAST_YIELD)
            wave = max(_FIRST, math.ceil((self.wanted - kept) / rate))
        end = min(self.judged + wave, self.tries)
        return [n for n in range(self.judged, end) if n not in self.texts.by_number]

    def write(self, numbers: Sequence[int]) -> None:
        """Request wordings."""
        self.texts.request(
            self._engine,
            numbers,
            self._author.request,
            self._sampling,
            purpose="wordings",
            on_completion=self.judge,
        )
