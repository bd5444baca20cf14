"""Check wordings: token, shape, leaks, copies, language and meaning.

Each check takes a wording and returns the reason why it fails, or None.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from delia_data.diversify.plain import asks, is_format_talk, sentences_of
from delia_data.engines.base import Finish
from delia_data.records import Rejection
from delia_data.sampling.embeddings import Embed, Vectors
from delia_data.sampling.filters import Detector, is_other_language
from delia_data.sampling.similarity import words
from delia_data.tasks import QUERY_SLOT, Task, Wording
from delia_data.tasks.scoring import json_object
from delia_data.tokens import add_token_to_tokenizer, render_ids, split_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Gate: TypeAlias = Callable[[Wording], str | None]

MIN_WORDS: Final = 2
MAX_WORDS: Final = 120
NEAR_COPY: Final = 0.8  # Jaccard similarity of two sets of words
_COPIED: Final = 6  # consecutive words of a query
_EXAMPLE: Final = 4  # consecutive words of an example, or of an answer
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
    """Return the words of a phrasing, without the token and the slot of the query."""
    return words(wording.text.replace(token, " ").replace(QUERY_SLOT, " "))


def marks_gate(token: str) -> Gate:
    """Require the token once, as a separate word, one slot, and no other mark."""
    glued = re.compile(_GLUED.replace("TOKEN", re.escape(token)))

    def gate(wording: Wording) -> str | None:
        named = wording.text.count(token)
        if named < 1:
            return "no_token"
        if named > 1:
            return "token_repeated"
        if wording.text.count(QUERY_SLOT) != 1:
            return "no_query_slot"
        if glued.search(wording.text):
            return "token_glued"
        rest = wording.text.replace(token, " ").replace(QUERY_SLOT, " ")
        return "other_mark" if _MARK.search(rest) else None

    return gate


def shape_gate(token: str) -> Gate:
    """Require between 2 and 120 words without repetition."""

    def gate(wording: Wording) -> str | None:
        terms = own_words(wording, token)
        if not terms:
            return "no_words"
        if len(terms) < MIN_WORDS:
            return "too_short"
        if len(terms) > MAX_WORDS:
            return "too_long"
        threes = Counter(zip(terms, terms[1:], terms[2:], strict=False))
        stuck = any(len(set(three)) == 1 for three in threes)
        again = threes and max(threes.values()) >= 3
        fours = Counter(zip(terms, terms[1:], terms[2:], terms[3:], strict=False))
        twice = fours and max(fours.values()) >= 2
        return "repetition" if stuck or again or twice else None

    return gate


def leaks_gate(token: str, leaks: frozenset[str]) -> Gate:
    """Forbid the words that describe the format."""
    phrases = [words(leak) for leak in sorted(leaks)]

    def gate(wording: Wording) -> str | None:
        terms = own_words(wording, token)
        return "leaks_format" if any(_has(terms, phrase) for phrase in phrases) else None

    return gate


def answers_gate(task: Task) -> Gate:
    """Forbid a label without all others, and four consecutive words of an answer."""
    labels = [words(label) for label in task.labels if label.casefold() not in task.leaks]
    public = " ".join((task.instruction, task.plain_request, *task.meanings))
    allowed = set(_grams(words(public), _EXAMPLE))
    texts = [text for row in (*task.train, *task.test) for text in _values(row.answer)]
    pieces = {gram for text in texts for gram in _grams(words(text), _EXAMPLE)} - allowed

    def gate(wording: Wording) -> str | None:
        terms = own_words(wording, task.token)
        named = sum(_has(terms, label) for label in labels)
        one_sided = 0 < named < len(labels)
        copied = not pieces.isdisjoint(_grams(terms, _EXAMPLE))
        return "leaks_answer" if one_sided or copied else None

    return gate


def copies_gate(task: Task, examples: Iterable[str] = ()) -> Gate:
    """Forbid six consecutive words of a query, and four of an example in the prompts."""
    public = words(" ".join((task.instruction, task.plain_request, *task.meanings)))
    rows = {gram for row in (*task.train, *task.test) for gram in _grams(words(row.query), _COPIED)}
    rows -= set(_grams(public, _COPIED))
    shown = {
        gram
        for text in examples
        for part in text.split(task.token)
        for gram in _grams(words(part), _EXAMPLE)
    } - set(_grams(public, _EXAMPLE))

    def gate(wording: Wording) -> str | None:
        terms = own_words(wording, task.token)
        if not rows.isdisjoint(_grams(terms, _COPIED)):
            return "copies_row"
        return None if shown.isdisjoint(_grams(terms, _EXAMPLE)) else "copies_example"

    return gate


def written_gate(token: str) -> Gate:
    """Forbid what small models write instead of a wording, in English.

    They talk about rewording, answer, quote, add turns, ask how to do it, negate the request, use
    the token as a tool or as a condition, or make no request.
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
        terms = rest if is_format_talk(named, token) else f"{rest}\n{named.replace(token, '')}"
        return None if asks(terms) else "no_request"

    return gate


def is_near_copy(terms: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two wordings share most of their words."""
    a, b = set(terms), set(other)
    return len(a & b) >= NEAR_COPY * len(a | b)


def _values(answer: str) -> list[str]:
    value = json_object(answer)
    return [answer] if value is None else [str(part) for part in value.values()]


def _grams(terms: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    return (tuple(terms[i : i + size]) for i in range(len(terms) - size + 1))


def _has(terms: Sequence[str], phrase: Sequence[str]) -> bool:
    size = len(phrase)
    return bool(size) and any(
        tuple(terms[i : i + size]) == tuple(phrase) for i in range(len(terms) - size + 1)
    )


LOW: Final = 0.3
STRICT: Final = 0.5
HIGH: Final = 0.98
SAME: Final = 0.9
"""Similarity from which a wording is a near copy of another."""
_MARGIN: Final = -0.05  # margin to requests of other tasks
_STRICT_MARGIN: Final = 0.1
_ALIKE: Final = 0.75
"""Similarity from which another request is one of the task's own."""
_PLAINLY: Final = 0.65
"""Similarity from which a single sentence asks for another request."""
_FEWEST_WORDS: Final = 2


def bare_text(text: str, token: str) -> str:
    """Return the text to embed: a wording without its slot and its token."""
    return " ".join(text.replace(QUERY_SLOT, " ").replace(token, " ").split())


class Meaning:
    """Compares the meaning of wordings with the task's requests and others, by embeddings."""

    def __init__(self, task: Task, embed: Embed, *, strict: bool = False) -> None:
        """Embed the task's requests and the others."""
        self._embed = embed
        self._token = task.token
        self._strict = strict
        self._low = STRICT if strict else LOW
        self._margin = _STRICT_MARGIN if strict else _MARGIN
        self._own = embed((task.plain_request, task.instruction, *task.meanings))
        others = embed(_lines("others.txt") + (_lines("near.txt") if strict else ()))
        self._others = others[(others @ self._own.T).max(axis=1) < _ALIKE]

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Embed wordings; shape (texts, width)."""
        return self._embed([bare_text(text, self._token) for text in texts])

    def fault(self, text: str, vector: Vectors) -> str | None:
        """Return why a wording's meaning is not the task's, or None."""
        own, other = self._near(vector)
        if own < self._low:
            return "off_meaning"
        if own > HIGH:
            return "copies_request"
        if own < other + self._margin:
            return "other_request"
        return "asks_more" if self._asks_more(text) else None

    def _asks_more(self, text: str) -> bool:
        """Return whether one of several sentences asks for something else."""
        sentences = sentences_of(text)
        parts = [
            bare_text(part, self._token)
            for part in sentences
            if len(part.split()) >= _FEWEST_WORDS and not is_format_talk(part, self._token)
        ]
        if len(sentences) < _FEWEST_WORDS or not parts:
            return False
        nears = [self._near(vector) for vector in self._embed(parts)]
        if self._strict:
            return any(own < LOW or other > own for own, other in nears)
        return any(other >= _PLAINLY and other > own for own, other in nears)

    def _near(self, vector: Vectors) -> tuple[float, float]:
        """Return the similarity to the nearest request of the task, and to the nearest other."""
        other = float((self._others @ vector).max()) if len(self._others) else -1.0
        return float((self._own @ vector).max()), other

    def is_near_copy(self, vector: Vectors, others: Sequence[Vectors]) -> bool:
        """Return whether a wording is a near copy of one with these vectors."""
        return bool(others) and float(np.max(np.stack(others) @ vector)) >= SAME


@cache
def _lines(name: str) -> tuple[str, ...]:
    data = files("delia_data.diversify") / "data" / name
    return tuple(data.read_text(encoding="utf-8").splitlines())


_SHOWN: Final = 3  # rejected texts that are shown
_SURE: Final = 0.6
_FEWEST_LETTERS: Final = 20
Verdicts = Callable[[Sequence[str]], Mapping[str, Rejection | None]]
"""Returns why to reject each text, or None."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """Accepted and rejected wordings.

    Attributes:
        accepted: The accepted wordings in order.
        rejected: The other wordings, each with the reason and its details.
    """

    accepted: tuple[Wording, ...]
    rejected: tuple[tuple[Wording, Rejection], ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of rejected wordings by reason, without details."""
        return dict(sorted(Counter(why.reason for _, why in self.rejected).items()))

    @property
    def share(self) -> float:
        """Share of accepted wordings, 0 to 1."""
        count = len(self.accepted) + len(self.rejected)
        return len(self.accepted) / count if count else 0.0

    def complaint(self) -> str:
        """Return which check rejects most, with three examples; empty if nothing was rejected."""
        if not self.rejected:
            return ""
        reason, count = max(self.counts.items(), key=lambda one: one[1])
        texts = [w.text for w, why in self.rejected if why.reason == reason and w.text.strip()]
        shown = "; ".join(repr(text[:120]) for text in dict.fromkeys(texts[: 4 * _SHOWN]))
        shown = "; ".join(shown.split("; ")[:_SHOWN])
        return f"{reason} rejects most, {count:,} of {len(self.rejected):,}: {shown or 'no text'}"


class WordingChecker:
    """Checks wordings one after another, and compares each with those accepted before."""

    def __init__(
        self,
        task: Task,
        *,
        embed: Embed | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        detect: Detector | None = None,
        examples: Iterable[str] = (),
        strict: bool = False,
        judge: Verdicts | None = None,
    ) -> None:
        """Set up the checks of a task.

        Args:
            task: The task.
            embed: Turns texts into vectors of length 1; without it, meanings are not checked.
            tokenizer: Tokenizer of the model to train, in which the token must be a single id. The
                token is added to it. Without it, only `delia lint` checks this.
            detect: Detects languages; without it, the language is not checked.
            examples: Examples in the prompts.
            strict: Also run the checks for what small models write.
            judge: Judges the texts of wordings that pass all other checks.

        Raises:
            TokenError: The tokenizer has the token with another role.
        """
        self._token = task.token
        gates = [marks_gate(task.token), shape_gate(task.token)]
        gates += [leaks_gate(task.token, task.leaks), answers_gate(task)]
        gates += [copies_gate(task, examples)]
        if strict:
            gates += [written_gate(task.token)]
        if tokenizer is not None:
            gates += [_whole_gate(task, tokenizer)]
        if detect is not None and (language := _language_of(task, detect)) is not None:
            gates += [_language_gate(task.token, language, detect)]
        self._gates: Sequence[Gate] = gates
        self._meaning = None if embed is None else Meaning(task, embed, strict=strict)
        self._judge = judge
        self.accepted: list[Wording] = []
        self.rejected: list[tuple[Wording, Rejection]] = []
        self._verdicts: dict[str, Rejection | None] = {}
        self._embedded: dict[str, Vectors] = {}  # of the wordings that are being checked
        self._words: list[tuple[str, ...]] = []
        self._vectors: list[Vectors] = []

    @property
    def result(self) -> GateResult:
        """The accepted and rejected wordings so far."""
        return GateResult(tuple(self.accepted), tuple(self.rejected))

    @property
    def has_judge(self) -> bool:
        """Whether a judge sees the wordings."""
        return self._judge is not None

    def check(self, wording: Wording, finish: Finish = "stop") -> str | None:
        """Check a wording; return the reason to reject it, or None."""
        before = len(self.rejected)
        self.check_all([wording], [finish])
        return self.rejected[-1][1].reason if len(self.rejected) > before else None

    def check_all(
        self,
        wordings: Sequence[Wording],
        finishes: Sequence[Finish] = (),
        *,
        most: int | None = None,
    ) -> GateResult:
        """Check wordings in order.

        The judge sees many at a time: those that pass if it accepts all of them, then those that
        pass now, until each has its verdict. The result is as if it saw them one by one.

        Args:
            wordings: The wordings.
            finishes: How the text of each ended; default: `"stop"`.
            most: Stop when as many wordings are accepted.

        Raises:
            EngineError: The judge failed.
        """
        ends: Iterable[Finish] = finishes or repeat("stop")
        lists: list[list[Any]] = [self.accepted, self.rejected, self._words, self._vectors]
        lengths = [len(each) for each in lists]
        while True:
            unjudged = []
            for wording, finish in zip(wordings, ends, strict=False):
                if most is not None and len(self.accepted) >= most:
                    break
                if self._check(wording, finish) and wording.text not in self._verdicts:
                    unjudged.append(wording.text)
            if self._judge is None or not unjudged:
                self._embedded.clear()
                return self.result
            self._verdicts |= self._judge(unjudged)
            for each, length in zip(lists, lengths, strict=True):
                del each[length:]

    def _check(self, wording: Wording, finish: Finish) -> bool:
        """Accept or reject a wording; return whether only a judge can reject it."""
        terms = own_words(wording, self._token)
        reason = {"error": "failed", "length": "cut_off"}.get(finish)
        if reason is None:
            reason = next((why for gate in self._gates if (why := gate(wording))), None)
        if reason is None and any(is_near_copy(terms, other) for other in self._words):
            reason = "near_copy"
        vector = None
        if reason is None and self._meaning is not None:
            if (vector := self._embedded.get(wording.text)) is None:
                vector = self._embedded[wording.text] = self._meaning.vectors([wording.text])[0]
            reason = self._meaning.fault(wording.text, vector)
            if reason is None and self._meaning.is_near_copy(vector, self._vectors):
                reason = "near_copy"
        verdict = Rejection(reason) if reason is not None else self._verdicts.get(wording.text)
        if verdict is not None:
            self.rejected.append((wording, verdict))
            return reason is None
        self.accepted.append(wording)
        self._words.append(terms)
        if vector is not None:
            self._vectors.append(vector)
        return True


def gate_task_wordings(
    task: Task,
    wordings: Iterable[Wording],
    *,
    embed: Embed | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    detect: Detector | None = None,
) -> GateResult:
    """Check wordings against a task, in their order.

    Args:
        task: The task.
        wordings: The wordings.
        embed: As `WordingChecker`.
        tokenizer: As `WordingChecker`.
        detect: As `WordingChecker`.
    """
    checker = WordingChecker(task, embed=embed, tokenizer=tokenizer, detect=detect)
    return checker.check_all(list(wordings))


def _whole_gate(task: Task, tokenizer: PreTrainedTokenizerBase) -> Gate:
    """Require one id for each token after the chat template."""
    token_ids = [add_token_to_tokenizer(tokenizer, one) for one in split_tokens(task.token)]
    query = task.train[0].query

    def gate(wording: Wording) -> str | None:
        turn = {"role": "user", "content": wording.fill(query)}
        ids = render_ids(tokenizer, [turn], generate=True)
        return None if all(ids.count(one) == 1 for one in token_ids) else "token_split"

    return gate


def _language_of(task: Task, detect: Detector) -> str | None:
    """Return the language of the request; None if it is not sure."""
    scores = detect(" ".join((task.plain_request, *task.meanings)))
    code = max(scores, key=lambda one: scores[one])
    return code if scores[code] >= _SURE else None


def _language_gate(token: str, language: str, detect: Detector) -> Gate:
    def gate(wording: Wording) -> str | None:
        terms = " ".join(own_words(wording, token))
        if sum(letter.isalpha() for letter in terms) < _FEWEST_LETTERS:
            return None
        return "wrong_language" if is_other_language(detect(terms), language) else None

    return gate
