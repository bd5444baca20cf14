r"""Strings and braces in text that was meant to be JSON but may be quoted wrongly.

    {'thought': 'It isn't so', 'hallucination': 'yes'}
     ^       ^  ^           ^  ^             ^  ^   ^      delimiters: beside { : , }
                      ^                                    no delimiter: inside a word

A quote opens a string unless it stands right behind a letter. What may close the string depends
on the character before it: a key ends before a colon, a value before a brace or before a comma
that another key follows. Every regular expression here runs in linear time, up to the 200
characters that a key may have.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

# A backslash counts only before a quote or another backslash, so that "\{" is still a brace.
_MARK: Final = re.compile(r"""\\[\\"']|["'{}]""")
_ESCAPE_OR_QUOTE: Final = re.compile(r'\\[\s\S]|"')

# By the character before a string: what must follow a quote for it to end that string.
_PROSE: Final = ""
_AFTER: Final = {
    "{": re.compile(r"\s*:"),
    ":": re.compile(r"""\s*(?:(?:,\s*)?\}|,\s*(["'])(?:[^"'\\]|\\.){0,200}\1\s*:)"""),
    "[": re.compile(r"\s*[],]"),
    ",": re.compile(r"\s*[]:,]"),
    _PROSE: re.compile(r"(?!\w)"),
}


def balanced_object(text: str, start: int = 0) -> str | None:
    """Find the earliest balanced pair of curly braces, leaving out braces inside strings.

    Args:
        text: Any text.
        start: Where to begin.

    Returns:
        The text from the opening brace to its closing one, or None where no brace is closed.
    """
    opened: list[int] = []
    earliest: tuple[int, int] | None = None
    for mark, first, last in _walk(text, start):
        if mark == "{":
            opened.append(first)
        elif mark == "}" and opened:
            pair = (opened.pop(), last + 1)
            earliest = min(earliest or pair, pair)
            if not opened:
                break
    return text[slice(*earliest)] if earliest else None


def mend_quotes(text: str) -> str:
    """Write the strings of an object the way JSON wants them, and leave all else as it is.

    Delimiters become double quotes, double quotes within are escaped, and the escape before an
    apostrophe goes. A quote that closes nothing stays, so that `json` will refuse it.

    Args:
        text: One object, from brace to brace.
    """
    parts, done = [], 0
    for mark, first, last in _walk(text, 0):
        if mark == "string":
            parts += [text[done:first], '"', _escaped(text[first + 1 : last]), '"']
            done = last + 1
    return "".join([*parts, text[done:]])


def _walk(text: str, start: int) -> Iterator[tuple[str, int, int]]:
    """Give braces outside strings, and strings, each with its first and last position.

    A string is named `"string"` where it stands as a key or a value, else `"prose"`.
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
    """The last character that is no space, where it is one that a key or value stands behind."""
    while position > floor and text[position - 1].isspace():
        position -= 1
    before = text[position - 1] if position > floor else _PROSE
    return before if before in _AFTER else _PROSE


def _escaped(content: str) -> str:
    """Write what stands inside a string so that JSON reads it back, apostrophes bare."""

    def fix(match: re.Match[str]) -> str:
        found = match.group()
        return {'"': '\\"', "\\'": "'"}.get(found, found)

    return _ESCAPE_OR_QUOTE.sub(fix, content)
