"""A user's own wordings, from a file or a list.

    wordings.txt      one a line; or, where the file has empty lines, one a paragraph
    wordings.jsonl    {"text": ..., "split": "test", "kind": ..., "plain": ...}; .json, .csv, ...

A wording without a place for the query gets it on a line of its own, at the end.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from delia_data.diversify.check import GateResult, WordingChecker
from delia_data.engines.base import Engine, Request, Sampling
from delia_data.errors import FormatError, InputError
from delia_data.outputs import canonical_json
from delia_data.ranking import rank, row_seed
from delia_data.reading import open_source
from delia_data.records import Message, content_id
from delia_data.sampling.completion_log import CompletionLog
from delia_data.tasks import QUERY_SLOT, Task, Wording
from delia_data.tasks.task import words_of
from delia_data.tokens import DEFAULT_TOKEN

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
        rows = _lines(Path(given)) if Path(given).suffix == ".txt" else open_source(given).rows()
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


_SYSTEM: Final = (
    "You reword requests. A reworded request asks for the same thing in other words, and names "
    "{token} {times}. {token} stands for the form of the reply, which is not described in any "
    "other way. Give the reworded request and nothing else."
)
_AVOID: Final = " Do not use the words {words}."
_ASK: Final = "Reword as {kind}{manner}: {request} Reply in {token}."
_TIMES: Final = {1: "once", 2: "twice"}
_ENDS: Final = " \t\n\"'“”*_`"
_LABEL: Final = ("reworded", "rewording", "request", "answer", "output")


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    ask: str
    place: str
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Prompts:
    requests: tuple[str, ...]
    manners: tuple[str, ...]
    kinds: tuple[_Kind, ...]


@cache
def _prompts() -> _Prompts:
    data = files("delia_data.diversify") / "data" / "kinds.yaml"
    read = yaml.safe_load(data.read_text(encoding="utf-8"))
    kinds = tuple(
        _Kind(name, kind["ask"], kind["place"], tuple(kind["examples"]))
        for name, kind in read["kinds"].items()
    )
    return _Prompts(tuple(read["requests"]), tuple(read["manners"]), kinds)


def _names() -> tuple[str, ...]:
    return tuple(kind.name for kind in _prompts().kinds)


KINDS: Final = _names()
"""The kinds of wordings that are asked for, in turn."""


@dataclass(frozen=True)
class ParaphraseGenerator:
    """Makes the prompts for a task's wordings, and reads wordings out of completions.

    Attributes:
        task: The task.
        seed: Seed of what varies from prompt to prompt, and of the draws.
        kinds: Kinds that are asked for, in turn.
        times: How often a wording names the token.

    Raises:
        InputError: A kind is unknown, or there is none; or the task's request names the format.
    """

    task: Task
    seed: int = 0
    kinds: tuple[str, ...] = KINDS
    times: int = 1

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(
                f"kinds {', '.join(unknown) or 'none'}: use some of {', '.join(KINDS)}"
            )
        if leaking := self.task.leaks & set(words_of(self.task.plain_request)):
            raise InputError(
                f"the request {self.task.plain_request!r} names the format "
                f"({', '.join(sorted(leaking))}), and its wordings would too: give the request "
                "without it (--request)"
            )

    def describe(self) -> dict[str, Any]:
        """All that the prompts depend on."""
        prompts = _prompts()
        shown = [
            _SYSTEM,
            _AVOID,
            _ASK,
            prompts.requests,
            prompts.manners,
            [[kind.name, kind.ask, kind.place, kind.examples] for kind in prompts.kinds],
        ]
        return {
            "source": "wordings",
            "seed": self.seed,
            "task": self.task.sha256,
            "requests": list(self._requests),
            "kinds": list(self.kinds),
            "times": self.times,
            "prompts": hashlib.sha256(canonical_json(shown)).hexdigest(),
        }

    @property
    def examples(self) -> Iterator[str]:
        """All that a writer may be shown."""
        for kind in _prompts().kinds:
            yield from (self._named(text) for text in kind.examples)

    def request(self, number: int) -> Request:
        """The request of a number."""
        kind = self._kind(number)
        prompts, token = _prompts(), self.task.token
        manner = self._pick(number, "manner", ("", "", *prompts.manners))
        order = sorted(
            range(len(kind.examples)), key=lambda i: rank(self.seed, f"{number}:{i}", "example")
        )
        ask = {"kind": kind.ask, "token": token}
        turns = [Message("system", self._system())]
        for place in order:
            shown = _ASK.format(manner="", request=prompts.requests[place], **ask)
            turns += [Message("user", shown)]
            turns += [Message("assistant", self._named(kind.examples[place]))]
        wanted = self._pick(number, "request", self._requests)
        manner = f", {manner}" if manner else ""
        turns.append(Message("user", _ASK.format(manner=manner, request=wanted, **ask)))
        row_id = content_id([Message("user", f"wording:{number}")])
        return Request(row_id, tuple(turns), row_seed(self.seed, row_id, "wording"))

    def wording(self, number: int, text: str) -> Wording:
        """The wording in a completion: its first paragraph, with a place for the input."""
        kind = self._kind(number)
        said = text.strip().split("\n\n")[0].strip()
        label, colon, rest = said.partition(":")
        if colon and label.strip(_ENDS).casefold() in _LABEL:
            said = rest
        said = said.strip().strip(_ENDS)
        if QUERY_SLOT in said:
            return Wording(said, kind=kind.name)
        places = ("before", "after") if kind.place == "either" else (kind.place,)
        before = self._pick(number, "place", places) == "before"
        gap = self._pick(number, "gap", ("\n", "\n\n"))
        parts = (QUERY_SLOT, said) if before else (said, QUERY_SLOT)
        return Wording(gap.join(parts), kind=kind.name)

    @property
    def _requests(self) -> tuple[str, ...]:
        """What is to be reworded: the task's request, as often as all its other phrasings."""
        others = self.task.meanings
        return (*[self.task.plain_request] * max(1, len(others)), *others)

    def _system(self) -> str:
        token = self.task.token
        times = _TIMES.get(self.times, f"{self.times} times")
        told = _SYSTEM.format(token=token, times=times)
        avoid = sorted(self.task.leaks - {"yes", "no"})
        return told + (_AVOID.format(words=", ".join(avoid)) if avoid else "")

    def _kind(self, number: int) -> _Kind:
        """The kinds take turns, in another order each time."""
        lap, place = divmod(number, len(self.kinds))
        order = sorted(self.kinds, key=lambda name: rank(self.seed, f"{lap}:{name}", "kinds"))
        return next(kind for kind in _prompts().kinds if kind.name == order[place])

    def _pick(self, number: int, purpose: str, among: tuple[str, ...]) -> str:
        return among[rank(self.seed, str(number), purpose) % len(among)]

    def _named(self, example: str) -> str:
        return example.replace(DEFAULT_TOKEN, self.task.token)


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
    generator: ParaphraseGenerator,
    checker: WordingChecker,
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
        generator: What is asked of it.
        checker: The gates; new, and made for this run.
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
    plan = {**generator.describe(), "sampling": asdict(sampling), "writer": engine.describe()}
    run = _Run(engine, generator, checker, CompletionLog(folder), sampling, on_progress)
    run.wanted, run.tries = count + spare, tries
    with run.texts.writing(plan):
        run.check()
        while not run.is_done:
            run.write(run.next_numbers())
    rows = [run.texts.by_number[number] for number in range(run.checked)]
    costs = [row.cost for row in rows]
    done = WordingRun(
        gates=checker.result,
        tries=run.checked,
        tokens=sum(row.tokens for row in rows),
        cost=None if None in costs else sum(cost or 0.0 for cost in costs),
        plan=plan,
    )
    if len(checker.accepted) < count:
        raise InputError(
            f"{len(checker.accepted)} of {count} wordings passed in {run.checked:,} tries; "
            f"{done.gates.complaint()}; give more tries (--tries), which goes on from here, "
            "another model, or wordings of your own"
        )
    return done


class _Run:
    """The texts so far, and how many of them were judged."""

    def __init__(
        self,
        engine: Engine,
        generator: ParaphraseGenerator,
        checker: WordingChecker,
        texts: CompletionLog,
        sampling: Sampling,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.texts = texts
        self.checked = 0  # numbers that were judged: all below
        self.wanted = self.tries = 0
        self._engine, self._generator, self._checker = engine, generator, checker
        self._sampling, self._on_progress = sampling, on_progress

    @property
    def is_done(self) -> bool:
        """Whether enough passed, or the tries are used up."""
        return len(self._checker.accepted) >= self.wanted or self.checked >= self.tries

    def check(self) -> None:
        """Judge what is there, up to the first number that is not, until enough passed."""
        while not self.is_done:
            row = self.texts.by_number.get(self.checked)
            if row is None:
                break
            self._checker.check(self._generator.wording(row.number, row.text), row.finish)
            self.checked += 1
        self._on_progress(len(self._checker.accepted), self.checked)

    def next_numbers(self) -> list[int]:
        """Numbers to ask for next: as many as the missing ones may need, within the tries."""
        kept = len(self._checker.accepted)
        wave = _FIRST
        if self.checked:
            rate = max(kept / self.checked, _LEAST_YIELD)
            wave = max(_FIRST, math.ceil((self.wanted - kept) / rate))
        end = min(self.checked + wave, self.tries)
        return [n for n in range(self.checked, end) if n not in self.texts.by_number]

    def write(self, numbers: Sequence[int]) -> None:
        """Request wordings."""
        self.texts.request(
            self._engine,
            numbers,
            self._generator.request,
            self._sampling,
            purpose="wordings",
            on_completion=self.check,
        )
