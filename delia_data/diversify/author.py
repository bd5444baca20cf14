"""What a model is asked for wordings: numbered prompts, kind by kind.

Each number has a kind (a question, a role, a rule first, something terse, ...), one of the task's
plain requests, a place for the input, now and then a manner, and examples of that kind for other
tasks. What differs from prompt to prompt is what makes the wordings differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import yaml

from delia_data.engines.base import Request
from delia_data.errors import InputError
from delia_data.outputs import canonical_json
from delia_data.ranking import rank, row_seed
from delia_data.records import Message, content_id
from delia_data.tasks import QUERY_SLOT, Task, Wording
from delia_data.tasks.leaks import words_of
from delia_data.tokens import DEFAULT_TOKEN

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
class Author:
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
