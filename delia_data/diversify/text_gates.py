"""Gates that read a wording: its marks, its words, its length, what it gives away.

Each takes a wording and gives the reason why it fails, or None.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from delia_data.diversify.sentences import asks, is_format_talk, sentences_of
from delia_data.sampling.similarity import words
from delia_data.tasks import QUERY_SLOT, Task, Wording
from delia_data.tasks.scoring import json_object

Gate: TypeAlias = Callable[[Wording], str | None]

MIN_WORDS: Final = 2
MAX_WORDS: Final = 120
NEAR_COPY: Final = 0.8  # Jaccard similarity of two sets of words
_COPIED: Final = 6  # words in a row of a query
_EXAMPLE: Final = 4  # words in a row of an example, or of an answer
_MARK: Final = re.compile(r"<[^<>\n]{1,40}>|\[/?[A-Za-z][^\]\n]{0,40}\]|[{}]|<\||\|>|__+")
_GLUED: Final = r"(?<=\w)TOKEN|TOKEN(?=\w)"
_REWORDING: Final = re.compile(
    r"\b(?:re-?word|re-?phras|paraphras)\w*|\bplaceholders?\b|\bthe mark\b|\bas an ai\b"
    r"|\boriginal (?:request|instruction|sentence|text)\b"
    r"|\b(?:here is|here's|this is) (?:an?|the|your|another) \w*\s?(?:version|instruction|request)",
    re.I,
)
_ANSWERING: Final = re.compile(
    r"\W*(?:yes|no|sure|certainly|of course|absolutely|i'm sorry|i am sorry|sorry, (?:i|but)"
    r"|i(?:'m| am) (?:not )?(?:an? (?:ai|assistant|bot|(?:large )?language)|here|ready|happy|unable"
    r"|able|sure|sorry)|i(?: cannot|can't| can) help"
    r"|the (?:given |correct |right )?answer (?:is|was)(?! whether)"
    r"|that answer (?:is|was|may)|it is (?:not )?(?:true|false|correct|wrong))\b",
    re.I,
)
_NEGATED: Final = re.compile(
    r"(?<!or )(?<!if )(?<!why )\b(?:not|never|cannot)\b(?!\.? (?:so|only|just))|\w+n't\b"
    r"|\bnothing\b(?! else| more)",
    re.I,
)
_TURNS: Final = re.compile(r"^\W*(?:q|a|user|assistant|system|human|ai|bot)\s*:", re.I | re.M)
_ABOUT: Final = re.compile(
    r"\bhow (?:to|do (?:you|we|i|people|they))\b|\bwhat does it mean\b"
    r"|\b(?:did|have|are|were) you\b",
    re.I,
)
_QUOTES: Final = re.compile(r"[\"“”«»`]")
_MISUSED: Final = r"TOKEN (?:to|and (?!nothing)\w+|with|for a|of|as a)\b|\bTOKEN(?:'s|,? which)"
_CONDITION: Final = re.compile(
    r"(?:^|[.!?\n]\s*)(?:if|when|unless)\b"
    r"|(?:^|[.!?:\n]\s*|\b(?:and|then|please)\s+)(?:reply|respond|answer|write|use|put)\b"
    r"[^.?!\n]*\b(?:if|when|unless)\b",
    re.I,
)


def own_words(wording: Wording, token: str) -> tuple[str, ...]:
    """Words of the phrasing itself, without the token and the slot of the query."""
    return words(wording.text.replace(token, " ").replace(QUERY_SLOT, " "))


def marks_gate(token: str, times: int = 1) -> Gate:
    """The token stands there as often as asked and by itself, the query once, no other mark."""
    glued = re.compile(_GLUED.replace("TOKEN", re.escape(token)))

    def gate(wording: Wording) -> str | None:
        named = wording.text.count(token)
        if named < times:
            return "no_token"
        if named > times:
            return "token_repeated"
        if wording.text.count(QUERY_SLOT) != 1:
            return "no_query_slot"
        if glued.search(wording.text):
            return "token_glued"
        rest = wording.text.replace(token, " ").replace(QUERY_SLOT, " ")
        return "other_mark" if _MARK.search(rest) else None

    return gate


def shape_gate(token: str) -> Gate:
    """It has words, not too many, and does not repeat itself."""

    def gate(wording: Wording) -> str | None:
        said = own_words(wording, token)
        if not said:
            return "no_words"
        if len(said) < MIN_WORDS:
            return "too_short"
        if len(said) > MAX_WORDS:
            return "too_long"
        threes = Counter(zip(said, said[1:], said[2:], strict=False))
        stuck = any(len(set(three)) == 1 for three in threes)
        again = threes and max(threes.values()) >= 3
        fours = Counter(zip(said, said[1:], said[2:], said[3:], strict=False))
        twice = fours and max(fours.values()) >= 2
        return "repetition" if stuck or again or twice else None

    return gate


def leaks_gate(token: str, leaks: frozenset[str]) -> Gate:
    """It does not use the words that describe the format."""
    phrases = [words(leak) for leak in sorted(leaks)]

    def gate(wording: Wording) -> str | None:
        said = own_words(wording, token)
        return "leaks_format" if any(_has(said, phrase) for phrase in phrases) else None

    return gate


def answers_gate(task: Task) -> Gate:
    """It gives no answer away: no label without the others, nothing of an answer's words."""
    labels = [words(label) for label in task.labels if label.casefold() not in task.leaks]
    told = " ".join((task.instruction, task.plain_request, *task.meanings))
    known = set(_grams(words(told), _EXAMPLE))
    texts = [text for row in (*task.train, *task.test) for text in _values(row.answer)]
    pieces = {gram for text in texts for gram in _grams(words(text), _EXAMPLE)} - known

    def gate(wording: Wording) -> str | None:
        said = own_words(wording, task.token)
        named = sum(_has(said, label) for label in labels)
        one_sided = 0 < named < len(labels)
        copied = not pieces.isdisjoint(_grams(said, _EXAMPLE))
        return "leaks_answer" if one_sided or copied else None

    return gate


def copies_gate(task: Task, examples: Iterable[str] = ()) -> Gate:
    """It has nothing of a row's query, and nothing of the examples that a writer is shown."""
    told = words(" ".join((task.instruction, task.plain_request, *task.meanings)))
    rows = {gram for row in (*task.train, *task.test) for gram in _grams(words(row.query), _COPIED)}
    rows -= set(_grams(told, _COPIED))
    shown = {
        gram
        for text in examples
        for part in text.split(task.token)
        for gram in _grams(words(part), _EXAMPLE)
    } - set(_grams(told, _EXAMPLE))

    def gate(wording: Wording) -> str | None:
        said = own_words(wording, task.token)
        if not rows.isdisjoint(_grams(said, _COPIED)):
            return "copies_row"
        return None if shown.isdisjoint(_grams(said, _EXAMPLE)) else "copies_example"

    return gate


def written_gate(token: str) -> Gate:
    """What small models write instead of a wording.

    Talk of rewording, answers, quotations, turns of its own, questions how it is done, orders not
    to do it, a token that is a tool or a condition of the reply, no request at all. It knows
    English.
    """
    misused = re.compile(_MISUSED.replace(r"TOKEN", re.escape(token)), re.I)

    def gate(wording: Wording) -> str | None:
        text = wording.text.replace(QUERY_SLOT, "\n").strip()
        if _REWORDING.search(text):
            return "about_rewording"
        if _ANSWERING.match(text):
            return "answers"
        if _QUOTES.search(text):
            return "quotes"
        if _TURNS.search(text):
            return "other_turns"
        if _ABOUT.search(text):
            return "asks_how"
        if _NEGATED.search(text):
            return "negated"
        if misused.search(text):
            return "token_misused"
        if _CONDITION.search(text):
            return "conditional_reply"
        sentences = sentences_of(text)
        named = next((part for part in sentences if token in part), "")
        rest = "\n".join(part for part in sentences if part is not named)
        said = rest if is_format_talk(named, token) else f"{rest}\n{named.replace(token, '')}"
        return None if asks(said) else "no_request"

    return gate


def is_near_copy(said: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two wordings share most of their words."""
    a, b = set(said), set(other)
    return len(a & b) >= NEAR_COPY * len(a | b)


def _values(answer: str) -> list[str]:
    value = json_object(answer)
    return [answer] if value is None else [str(part) for part in value.values()]


def _grams(said: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    return (tuple(said[i : i + size]) for i in range(len(said) - size + 1))


def _has(said: Sequence[str], phrase: Sequence[str]) -> bool:
    size = len(phrase)
    return bool(size) and any(
        tuple(said[i : i + size]) == tuple(phrase) for i in range(len(said) - size + 1)
    )
