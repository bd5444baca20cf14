"""What "in the format" means for a task, and what an answer in it says.

    json       the earliest object in the answer has the task's keys      (formatted_text.py)
    label      the answer is one of the task's labels, and nothing else
    line       the answer is one line without quotes around it            (translation)
    pattern    the answer as a whole matches a regular expression
    check      a function of the user's says so

An answer that needs mending counts as in the format, but not as *strict*: quotes that `json`
refuses, and for labels case, spaces and an ending full stop. The other kinds mend nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from delia_data.errors import InputError
from delia_data.evaluation.formatted_text import parse_answer
from delia_data.tasks import Scoring
from delia_data.tasks.scoring import json_object, labels_of

FormatKind = Literal["json", "label", "line", "pattern", "check"]

WHOLE: Final = "answer"
"""The name under which the label of an answer that is nothing but a label stands."""

_QUOTES: Final = ('""', "''", "“”", "„“", "«»", "‘’", "``")


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """An answer that is in the format.

    Attributes:
        strict: Whether nothing was mended.
        labels: What it says where the task has labels, in plain form, by key; `WHOLE` where the
            answer itself is the label.
    """

    strict: bool
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What an answer in a task's format is.

    Attributes:
        kind: Which rule tells.
        keys: Keys of the object, for `json`.
        labels: The labels in plain form, by key; `WHOLE` for `label`.
        pattern: The regular expression, for `pattern`.
        check: The user's function, for `check`.

    Raises:
        InputError: The pattern is no regular expression.
    """

    kind: FormatKind
    keys: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pattern: str = ""
    check: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError(
                f"pattern {self.pattern!r} is no regular expression: {error}"
            ) from None

    @classmethod
    def of(
        cls,
        answers: Sequence[str],
        *,
        keys: Sequence[str],
        scoring: Scoring | None,
        description: str = "",
        rule: str | Callable[[str], bool] | None = None,
    ) -> AnswerFormat:
        """Tell the format by what is known of a task.

        Args:
            answers: The task's own answers.
            keys: Keys of its object; none where the answers are no objects.
            scoring: How it is scored; None where that is not known.
            description: What the token stands for, for the error.
            rule: A regular expression that a whole answer matches, or a function that says
                whether an answer is in the format; it goes before all else.

        Raises:
            InputError: The answers are free text, and there is no rule.
        """
        if callable(rule):
            return cls("check", check=rule)
        if rule is not None:
            return cls("pattern", pattern=rule)
        if keys:
            return cls("json", tuple(keys), _labels_by_key(answers, keys))
        if labels := labels_of(answers):
            plain = tuple(dict.fromkeys(map(plain_label, labels)))
            return cls("label", labels={WHOLE: plain})
        if scoring == "translation":
            return cls("line")
        told = f", which stands for {description!r}" if description else ""
        raise InputError(
            f"the task's answers are free text{told}: what is in this format cannot be told; give "
            "a regular expression that a whole answer matches (--pattern), or a function"
        )

    def read(self, answer: str) -> ReadAnswer | None:
        """Read an answer; None where it is not in the format."""
        match self.kind:
            case "json":
                return self._read_object(answer)
            case "label":
                return self._read_label(answer)
            case "line":
                return ReadAnswer(True) if _is_line(answer.strip()) else None
            case "pattern":
                return ReadAnswer(True) if re.fullmatch(self.pattern, answer.strip()) else None
            case "check":
                assert self.check is not None
                return ReadAnswer(True) if self.check(answer) else None

    def as_dict(self) -> dict[str, Any]:
        """What a manifest says of it."""
        told = {
            "keys": list(self.keys),
            "labels": {key: list(labels) for key, labels in self.labels.items()},
            "pattern": self.pattern,
            "check": getattr(self.check, "__qualname__", "") if self.check else "",
        }
        return {"kind": self.kind, **{name: value for name, value in told.items() if value}}

    def _read_object(self, answer: str) -> ReadAnswer | None:
        parsed = parse_answer(answer, self.keys)
        if parsed is None:
            return None
        return ReadAnswer(parsed.strict, {k: plain_label(parsed.value[k]) for k in self.labels})

    def _read_label(self, answer: str) -> ReadAnswer | None:
        plain = plain_label(answer)
        if plain not in self.labels[WHOLE]:
            return None
        return ReadAnswer(answer.strip() in (plain, plain.capitalize()), {WHOLE: plain})


def plain_label(value: Any) -> str:
    """A label with case, spaces and an ending full stop aside; values other than text as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.casefold().split()).removesuffix(".")


def _labels_by_key(answers: Sequence[str], keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The keys whose values are a few labels that return, at least two."""
    objects = [found for answer in answers if (found := json_object(answer)) is not None]
    found = {}
    for key in keys:
        labels = labels_of([plain_label(value.get(key)) for value in objects]) if objects else ()
        if len(labels) > 1:
            found[key] = labels
    return found


def _is_line(text: str) -> bool:
    quoted = len(text) > 1 and text[0] + text[-1] in _QUOTES
    return bool(text) and len(text.splitlines()) == 1 and not quoted
