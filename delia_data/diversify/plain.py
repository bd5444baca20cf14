"""Plain forms of a wording: the same request without the token."""

from __future__ import annotations

import re
from typing import Final

from delia_data.sampling.similarity import words
from delia_data.tasks import QUERY_SLOT

_SENTENCE: Final = re.compile(r"[^.?!\n]*(?:[.?!]+[)\"']*|\n|$)[ \t]*")
_REPLYING: Final = """
    a accepted an and answer as back be by come do else ever fill following for form format get give
    here i in into is it its just keep kept kindly know layout like me must my no nothing now of on
    only out output please prefer put reply report respond response result send should stick style
    tell thank that the then this to use using want way will with would write you your
"""
_TALK: Final = frozenset(_REPLYING.split())
_REQUEST: Final = re.compile(r"\?|\b(?:whether|if)\b", re.I)
_STATES: Final = re.compile(
    r"\W*(?:(?:i|my|we|our|a|an|the|this|that|these|those|it|he|she|they|you|your|there|here"
    r"|what|when|whenever|if|somebody|wrong|such)\b|(?:\w+\W+){1,3}?(?:is|was|are|will|has)\b)",
    re.I,
)
_FEWEST_WORDS: Final = 2


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text with their ends; a line break ends one too."""
    return [part for part in _SENTENCE.findall(text) if part.strip(" \n\t") not in ("", QUERY_SLOT)]


def is_format_talk(sentence: str, token: str) -> bool:
    """Return whether a sentence names the token and only says how to reply."""
    content = words(sentence.replace(token, " ").replace(QUERY_SLOT, " "))
    return token in sentence and _TALK.issuperset(content)


def asks(text: str) -> bool:
    """Return whether a text is a complete request."""
    content = text.replace(QUERY_SLOT, "\n")
    if len(words(content)) < _FEWEST_WORDS and "?" not in content:
        return False
    parts = [part for part in _SENTENCE.findall(content) if words(part)]
    orders = (not part.rstrip().endswith(":") and not _STATES.match(part) for part in parts)
    return bool(_REQUEST.search(content)) or any(orders)


_VERB: Final = (
    r"(?:reply|respond|answer|report|write|note|give|put|send|tell|use|state|say|return|submit"
    r"|follow|express|fill)"
)
_BEFORE: Final = (
    rf"(?:(?:,?[ ]*\b(?:and|then)\b(?:[ ]+then)?(?:[ ]+(?:can|could|would|will)[ ]you)?[ ]+)?"
    rf"(?:kindly[ ]+)?\b{_VERB}(?:[ ]+(?:so|it|this|that|them|back|the[ ]\w+|your[ ]\w+))?[ ]+)?"
    r"\b(?:in|as|with|using|through|via|into|following)[ ]+(?:the[ ]+|a[ ]+)?"
)
_OBJECT: Final = rf",?[ ]*\b(?:and|then)\b(?:[ ]+then)?[ ]+{_VERB}[ ]+(?:the[ ]+)?"
_AFTER: Final = r"(?:[ ]+(?:format|form|style|layout|pattern|notation)\b)?\)?"
_FOLLOWS: Final = r"(?=[ ]*(?:[.?!,;:]|$|\n)|[ ]+(?:whether|if|on|for)\b)"
_HANGS: Final = re.compile(
    r"\b(?:come|comes|phrased|written|issued|kindly|leaving|be|is|are|must|would|will|should|you|put"
    r"|goes|belongs|reply|us|me|and|or|in|as|with|using|through|to|the|a|an|only|it|made|done|means)$",
    re.I,
)


def plain_form(text: str, token: str) -> str | None:
    """Return a wording without the parts about the token.

    Returns:
        The request without the token; None if no rule leaves a complete one.
    """
    if text.count(token) != 1:
        return None
    sentences = [part for part in _SENTENCE.findall(text) if part]
    named = next(part for part in sentences if token in part)
    rest = "".join(part for part in sentences if part is not named)
    if QUERY_SLOT not in named and not re.search(r"\b(?:whether|if)\b", named) and asks(rest):
        return _tidy(rest)
    return _cut(text, token)


def _cut(text: str, token: str) -> str | None:
    pattern = rf"[ ]*,?[ ]*\(?(?:{_BEFORE}|{_OBJECT}){re.escape(token)}{_AFTER}{_FOLLOWS}"
    match = re.search(pattern, text, re.I)
    if match is None:
        return None
    head, tail = text[: match.start()].rstrip(), text[match.end() :]
    if _HANGS.search(head):
        return None
    if head[-1:] in ("", ".", "?", "!", "\n"):  # it began a sentence
        tail = tail.lstrip(" ,")
        tail = f" {tail[:1].upper()}{tail[1:]}"
    return _tidy(head + tail)


def _tidy(text: str) -> str:
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n")]
    lines = [re.sub(r"[ ]+([.?!,;:])", r"\1", line) for line in lines]
    joined = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return joined if joined.startswith(QUERY_SLOT) else joined[:1].upper() + joined[1:]
