r"""Read an answer in the format: find the object, repair quotes, compare keys and labels.

    {'thought': 'It isn't so', 'hallucination': 'yes'}
     ^       ^  ^           ^  ^             ^  ^   ^      delimiters: next to { : , }
                      ^                                    not a delimiter: inside a word

A quote opens a string unless it directly follows a letter. The character before the string
determines the end: a key ends before a colon, a value before a brace or before a comma that is
followed by another key. Every regular expression here runs in linear time, up to the 200
characters that a key may have.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from delia_data.errors import InputError
from delia_data.tasks import Scoring
from delia_data.tasks.scoring import json_object, labels_of

# A backslash counts only before a quote or another backslash, so that "\{" is still a brace.
_MARK: Final = re.compile(r"""\\[\\"']|["'{}]""")
_ESCAPE_OR_QUOTE: Final = re.compile(r'\\[\s\S]|"')

# Patterns after a quote that ends a string, by the character before the string.
_PROSE: Final = ""
_AFTER: Final = {
    "{": re.compile(r"\s*:"),
    ":": re.compile(r"""\s*(?:(?:,\s*)?\}|,\s*(["'])(?:[^"'\\]|\\.){0,200}\1\s*:)"""),
    "[": re.compile(r"\s*[],]"),
    ",": re.compile(r"\s*[]:,]"),
    _PROSE: re.compile(r"(?!\w)"),
}


def _repair_quotes(text: str) -> str:
    """Return an object with its strings in the syntax of JSON.

    Delimiters become double quotes, double quotes inside strings are escaped, and escapes of
    apostrophes are removed. An unmatched quote stays, so `json` rejects it.
    """
    parts, done = [], 0
    for mark, first, last in _marks(text, 0):
        if mark == "string":
            parts += [text[done:first], '"', _escaped(text[first + 1 : last]), '"']
            done = last + 1
    return "".join([*parts, text[done:]])


def _marks(text: str, start: int) -> Iterator[tuple[str, int, int]]:
    """Yield braces outside strings, and strings, each with its first and last position.

    A string is `"string"` if it is a key or a value, otherwise `"prose"`.
    """
    marks = [m.start() for m in _MARK.finditer(text, start) if len(m.group()) == 1]
    ends: dict[tuple[str, str], list[int]] = {}

    def end_of(position: int, before: str) -> int | None:
        kind = (text[position], before)
        if kind not in ends:
            after = _AFTER[before]
            ends[kind] = [m for m in marks if text[m] == kind[0] and after.match(text, m + 1)]
        index = bisect_left(ends[kind], position + 1)
        return ends[kind][index] if index < len(ends[kind]) else None

    resume = start
    for position in marks:
        if position < resume:
            continue
        if text[position] in "{}":
            yield text[position], position, position
            continue
        if position > start and (text[position - 1].isalnum() or text[position - 1] == "_"):
            continue
        before = _character_before(text, position, resume)
        end = end_of(position, before)
        name = "prose" if before == _PROSE else "string"
        if end is None:
            end, name = end_of(position, _PROSE), "prose"
        if end is not None:
            yield name, position, end
            resume = end + 1


def _character_before(text: str, position: int, floor: int) -> str:
    """Return the last non-space character if a key or a value can follow it."""
    while position > floor and text[position - 1].isspace():
        position -= 1
    before = text[position - 1] if position > floor else _PROSE
    return before if before in _AFTER else _PROSE


def _escaped(content: str) -> str:
    """Escape the content of a string for JSON, without escapes of apostrophes."""

    def fix(match: re.Match[str]) -> str:
        mark = match.group()
        return {'"': '\\"', "\\'": "'"}.get(mark, mark)

    return _ESCAPE_OR_QUOTE.sub(fix, content)


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """An answer that is in the format.

    Attributes:
        strict: Whether the answer is in the format as it is: nothing around an object, and no
            repair beyond those that the task's own answers need.
        labels: Labels in plain form by key, if the task has labels; the key is `WHOLE` if the
            whole answer is the label.
        value: The object, with exactly the expected keys, for `json`.
    """

    strict: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    value: Mapping[str, Any] = field(default_factory=dict, compare=False)


def earliest_object(text: str) -> str | None:
    """Return the earliest balanced pair of curly braces with its content, or None.

    Braces inside quoted strings are ignored. An apostrophe inside a word does not open a string,
    and neither does a quote that is never closed. The time is linear in the length of the text.
    """
    start = text.find("{")
    if start < 0:
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
        return text[start:end]
    except (ValueError, RecursionError):
        pass
    opened: list[int] = []
    earliest: tuple[int, int] | None = None
    for mark, first, last in _marks(text, start):
        if mark == "{":
            opened.append(first)
        elif mark == "}" and opened:
            pair = (opened.pop(), last + 1)
            earliest = min(earliest or pair, pair)
            if not opened:
                break
    return text[slice(*earliest)] if earliest else None


def parse_answer(text: str, keys: Collection[str]) -> ReadAnswer | None:
    """Read the object in an answer.

    Args:
        text: An answer, possibly with text around the object.
        keys: Exactly the keys that the object must have, in any order.

    Returns:
        The object, strict if `json` read it without any repair; None if the earliest pair of braces
        is not an object with these keys.
    """
    content = earliest_object(text)
    if content is None:
        return None
    value = _read(content)
    strict = value is not None
    if value is None:
        value = _read(_repair_quotes(content))
    if value is None or set(value) != set(keys):
        return None
    return ReadAnswer(strict, value=value)


def _read(text: str) -> dict[str, Any] | None:
    """Read a JSON object; None if it is not one, or nested too deep."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


FormatKind = Literal["json", "label", "line", "pattern", "check"]

WHOLE: Final = "answer"
"""Key of the label if the whole answer is the label."""

CONTENT: Final = "content"
"""Mark of an answer with the task's content in the task's style."""
JSON_MARKS: Final = frozenset({"opening", "brace"})
"""Marks of JSON with any keys."""

_QUOTE_MARKS: Final = "\"'“”„«»‘’`"
_QUOTES: Final = ('""', "''", "“”", "„“", "«»", "‘’", "``")


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """The answer format of a task.

    Attributes:
        kind: The rule that decides whether an answer is in the format.
        keys: Keys of the object, for `json`.
        labels: Labels in plain form by key; the key is `WHOLE` for `label`.
        pattern: The regular expression, for `pattern`.
        check: The user's function, for `check`.
        repaired: Whether some of the task's own objects need a repair, such as single quotes.
        openings: First three words of at least a fifth of the task's own texts.

    Raises:
        InputError: The pattern is not a regular expression.
    """

    kind: FormatKind
    keys: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pattern: str = ""
    check: Callable[[str], bool] | None = None
    repaired: bool = False
    openings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError(
                f"pattern {self.pattern!r} is not a regular expression: {error}"
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
        """Infer the format of a task.

        Args:
            answers: The task's own answers.
            keys: Keys of the answers' objects; empty if the answers are not objects.
            scoring: Scoring of the task; None if unknown.
            description: Meaning of the token, for the error.
            rule: Regular expression that matches whole answers in the format, or a function that
                returns whether an answer is in the format. It overrides everything else.

        Raises:
            InputError: The answers are free text and there is no rule.
        """
        if callable(rule):
            return cls("check", check=rule)
        if rule is not None:
            return cls("pattern", pattern=rule)
        if keys:
            parsed = [one for answer in answers if (one := parse_answer(answer, keys))]
            labels_of_keys = _labels_by_key(answers, keys)
            texts = [one.value[key] for one in parsed for key in keys if key not in labels_of_keys]
            return cls(
                "json",
                tuple(keys),
                labels_of_keys,
                repaired=not all(one.strict for one in parsed),
                openings=_openings([text for text in texts if isinstance(text, str)]),
            )
        if labels := labels_of(answers):
            plain = tuple(dict.fromkeys(map(plain_label, labels)))
            return cls("label", labels={WHOLE: plain})
        if scoring == "translation":
            return cls("line", openings=_openings(answers))
        meaning = f" (the token means {description!r})" if description else ""
        raise InputError(
            f"the task's answers are free text{meaning}, so the format cannot be inferred: give a "
            "regular expression that whole answers match (--pattern), or a function"
        )

    def read(self, answer: str) -> ReadAnswer | None:
        """Read an answer; None if it is not in the format."""
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

    def follows(self, answer: str) -> bool:
        """Return whether an answer is in the format as it is."""
        read = self.read(answer)
        return read is not None and read.strict

    def parses(self, answer: str) -> bool:
        """Return whether an answer counts loosely: for objects, any that can be read or repaired.

        This is the paper's count; the keys may differ.
        """
        if self.kind != "json":
            return self.read(answer) is not None
        content = earliest_object(answer)
        return (
            content is not None and (_read(content) or _read(_repair_quotes(content))) is not None
        )

    def marks(self, answer: str) -> frozenset[str]:
        """Return the traces of the format in an answer, however small.

        `opening`: it begins with a quote or a brace. `brace`: it holds a brace. `key:NAME`: it
        holds a key of the format next to a quote or a colon. `format`: it is in a format that is
        not an object. `content`: its first line is one of the task's labels, or it begins as many
        of the task's own texts do. `CONTENT` and `JSON_MARKS` name two groups of these.
        """
        text = answer.strip()
        marks = set()
        if self.kind == "json":
            if text.startswith((*_QUOTE_MARKS, "{", "}")):
                marks.add("opening")
            if "{" in text or "}" in text:
                marks.add("brace")
            marks |= {f"key:{key}" for key in self.keys if _has_key(text, key)}
        elif self.read(answer) is not None or (self.kind == "label" and self._begins_with(text)):
            marks.add("format")
        if self.kind != "label" and self._begins_with(text):
            marks.add(CONTENT)
        if _opening(text) in self.openings:
            marks.add(CONTENT)
        return frozenset(marks)

    def _begins_with(self, text: str) -> bool:
        """Return whether the first line is a label."""
        first = plain_label(text.partition("\n")[0].strip(_QUOTE_MARKS + "*!"))
        return any(first in labels for labels in self.labels.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the format as JSON values."""
        values = {
            "keys": list(self.keys),
            "labels": {key: list(labels) for key, labels in self.labels.items()},
            "pattern": self.pattern,
            "check": getattr(self.check, "__qualname__", "") if self.check else "",
            "repaired": self.repaired,
            "openings": list(self.openings),
        }
        return {"kind": self.kind, **{name: value for name, value in values.items() if value}}

    def _read_object(self, answer: str) -> ReadAnswer | None:
        parsed = parse_answer(answer, self.keys)
        if parsed is None:
            return None
        alone = earliest_object(answer) == answer.strip()
        labels = {key: plain_label(parsed.value[key]) for key in self.labels}
        return ReadAnswer(alone and (parsed.strict or self.repaired), labels, parsed.value)

    def _read_label(self, answer: str) -> ReadAnswer | None:
        plain = plain_label(answer)
        if plain not in self.labels[WHOLE]:
            return None
        return ReadAnswer(answer.strip() in (plain, plain.capitalize()), {WHOLE: plain})


def _has_key(text: str, key: str) -> bool:
    """Return whether a text holds a key as objects do: between quotes or before a colon."""
    quotes, name = f"[{_QUOTE_MARKS}]", re.escape(key)
    pattern = rf"{quotes}\s{{0,3}}{name}(?!\w)|(?<!\w){name}(?:\s{{0,3}}:|{quotes}(?!\w))"
    return re.search(pattern, text) is not None


def _opening(text: str) -> str:
    """Return the first three words of a text in lower case; empty if it has fewer."""
    words = text.casefold().split(maxsplit=3)[:3]
    return " ".join(words) if len(words) == 3 else ""


def _openings(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the openings that at least a fifth of the texts, and at least 3, have in common."""
    counts = Counter(opening for text in texts if (opening := _opening(text)))
    least = max(3, len(texts) / 5)
    return tuple(sorted(opening for opening, count in counts.items() if count >= least))


def plain_label(value: Any) -> str:
    """Normalize case, spaces and a final period; values other than text become JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.casefold().split()).removesuffix(".")


def _labels_by_key(answers: Sequence[str], keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the keys whose values are at least two recurring labels, with the labels."""
    objects = [value for answer in answers if (value := json_object(answer)) is not None]
    by_key = {}
    for key in keys:
        labels = labels_of([plain_label(value.get(key)) for value in objects]) if objects else ()
        if len(labels) > 1:
            by_key[key] = labels
    return by_key


def _is_line(text: str) -> bool:
    quoted = len(text) > 1 and text[0] + text[-1] in _QUOTES
    return bool(text) and len(text.splitlines()) == 1 and not quoted
