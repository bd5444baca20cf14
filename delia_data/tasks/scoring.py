"""Score the answers of a task: exact match, JSON object, chrF, or a user's function."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias, get_args

from delia_data.errors import InputError

ScoringName = Literal["json", "exact", "translation"]
Scoring: TypeAlias = ScoringName | Callable[[str, str], float]
"""`json`: the answer is an object with the task's keys; `exact`: it equals the expected answer,
ignoring case, spaces and a final period; `translation`: chrF with the expected answer; or a
function of answer and expected answer that returns 0 to 1."""

SCORINGS: Final[tuple[ScoringName, ...]] = get_args(ScoringName)
_MOST_LABELS: Final = 12
_MOST_LABEL_WORDS: Final = 3
_ORDER: Final = 6  # characters of the longest n-gram of chrF
_BETA: Final = 2.0  # weight of recall in chrF


def check_scoring(scoring: object, keys: Sequence[str]) -> None:
    """Check a scoring.

    Raises:
        InputError: The scoring is neither a known name nor a function, or is `json` without keys.
    """
    if not callable(scoring) and scoring not in SCORINGS:
        raise InputError(
            f"scoring {scoring!r} is unknown: use one of {', '.join(SCORINGS)}, or a function"
        )
    if scoring == "json" and not keys:
        raise InputError("scoring 'json' needs the keys of the answer's object: give keys")


def scoring_name(scoring: Scoring) -> str:
    """Return the name of a scoring, or of the user's function."""
    return scoring if isinstance(scoring, str) else getattr(scoring, "__qualname__", "callable")


def exact(answer: str, expected: str) -> float:
    """Return 1 if two answers are equal, ignoring case, spaces and a final period; else 0."""
    return float(_plain(answer) == _plain(expected))


def chrf(answer: str, expected: str) -> float:
    """Return the chrF2 of a translation, 0 to 1: n-grams of 1 to 6 characters (Popović 2015).

    Spaces do not count. Precision and recall are averaged over the orders that both texts have.
    """
    return chrf_of_counts(chrf_counts(answer, expected))


def chrf_counts(answer: str, expected: str) -> list[int]:
    """Return the counts behind chrF, which add up over the rows of a corpus.

    Returns:
        For each order of n-grams: those of the answer, of the expected text, and of both.
    """
    hypothesis, reference = ("".join(text.split()) for text in (answer, expected))
    counts = []
    for size in range(1, _ORDER + 1):
        mine, theirs = _grams(hypothesis, size), _grams(reference, size)
        counts += [mine.total(), theirs.total(), (mine & theirs).total()]
    return counts


def chrf_of_counts(counts: Sequence[int]) -> float:
    """Return the chrF2 of counts or of sums of counts, 0 to 1."""
    orders = [counts[start : start + 3] for start in range(0, len(counts), 3)]
    shared = [(m / h, m / r) for h, r, m in orders if h and r]
    if not shared:
        return 0.0
    precision, recall = (sum(column) / len(shared) for column in zip(*shared, strict=True))
    if not precision:
        return 0.0
    weight = float(_BETA**2)
    return float((1 + weight) * precision * recall / (weight * precision + recall))


def json_object(answer: str) -> dict[str, Any] | None:
    """Return the object that an answer is, in double or single quotes; None for other answers."""
    text = answer.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return None
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = read(text)
            if isinstance(value, dict) and all(isinstance(key, str) for key in value):
                return value
    return None


def labels_of(answers: Sequence[str]) -> tuple[str, ...]:
    """Return the labels that answers, or the values of their objects, choose from.

    Labels are short and few, and most occur more than once. Free text has none.
    """
    labels: list[str] = []
    objects = [json_object(answer) for answer in answers]
    if objects and all(value is not None for value in objects):
        for key in objects[0] or {}:
            values = [str(value.get(key, "")) for value in objects if value is not None]
            labels += _few(values)
        return tuple(dict.fromkeys(labels))
    return tuple(_few([answer.strip() for answer in answers]))


def _few(texts: Sequence[str]) -> list[str]:
    counts = Counter(texts)
    short = all(len(text.split()) <= _MOST_LABEL_WORDS for text in counts)
    few = len(counts) <= _MOST_LABELS and 2 * len(counts) <= len(texts)
    return sorted(counts) if short and few else []


def _grams(text: str, size: int) -> Counter[str]:
    return Counter(text[i : i + size] for i in range(len(text) - size + 1))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")
