"""Formatted text: how many answers are the object that was asked for.

The paper's metric (its section on formatted text generation, Table 2): take the earliest pair of
curly braces in the answer, mend the quotes where that is needed, and the answer counts when
Python's `json` reads it and its keys are the asked ones.

Quotes alone are mended. An answer that `json` refuses for another reason (`None`, a trailing
comma, a line break inside a string) does not count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from delia_data.errors import InputError
from delia_data.evaluation._quotes import balanced_object, mend_quotes

_Z95: Final = 1.959963984540054  # both tails of the normal distribution together hold 5%


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The object in an answer.

    Attributes:
        value: The object; its keys are the asked ones.
        strict: Whether `json` read it as it stood, with no quote mended.
    """

    value: dict[str, Any]
    strict: bool


@dataclass(frozen=True, slots=True)
class FormattedTextScore:
    """How many answers are in the asked format.

    Attributes:
        rows: Answers in all, at least 1.
        parsed: Answers that are the asked object, as it stood or after mending quotes.
        strict: Those of them that needed no mending.
        correct: Those whose label is the expected one; None where no labels were given.

    Raises:
        InputError: The counts do not fit each other.
    """

    rows: int
    parsed: int
    strict: int
    correct: int | None = None

    def __post_init__(self) -> None:
        fit = (
            0 <= self.strict <= self.parsed <= self.rows and 0 <= (self.correct or 0) <= self.parsed
        )
        if self.rows < 1 or not fit:
            raise InputError(f"{self} does not add up: give 0 <= strict, correct <= parsed <= rows")

    @property
    def share(self) -> float:
        """Share of all answers that are the asked object, 0 to 1: the paper's accuracy."""
        return self.parsed / self.rows

    @property
    def strict_share(self) -> float:
        """Share of all answers that `json` reads with no quote mended, 0 to 1."""
        return self.strict / self.rows

    @property
    def correct_share(self) -> float | None:
        """Share of all answers that are the asked object with the right label, 0 to 1."""
        return None if self.correct is None else self.correct / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95% interval of `share`."""
        return interval(self.parsed, self.rows)


def earliest_object(text: str) -> str | None:
    """Find the earliest balanced pair of curly braces, with all that is between.

    Braces inside quoted strings do not count. An apostrophe inside a word opens no string, and a
    quote that nothing closes is none. The time grows in step with the length of the text.

    Args:
        text: An answer, possibly with words around the object.

    Returns:
        The text from the opening brace to its closing one, or None where no brace is closed.
    """
    start = text.find("{")
    if start < 0:
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
        return text[start:end]
    except (ValueError, RecursionError):
        return balanced_object(text, start)


def parse_answer(text: str, keys: Collection[str]) -> ParsedAnswer | None:
    """Read the object in an answer.

    Args:
        text: An answer, possibly with words around the object.
        keys: The keys that the object must have, neither more nor fewer; any order.

    Returns:
        The object, or None where the earliest pair of braces is not the asked object.
    """
    found = earliest_object(text)
    if found is None:
        return None
    value = _read(found)
    strict = value is not None
    if value is None:
        value = _read(mend_quotes(found))
    if value is None or set(value) != set(keys):
        return None
    return ParsedAnswer(value, strict)


def score_formatted_text(
    answers: Sequence[str],
    keys: Collection[str],
    *,
    label_key: str | None = None,
    labels: Sequence[str] | None = None,
) -> FormattedTextScore:
    """Count the answers that are in the asked format (paper, Table 2).

    Args:
        answers: One answer a row.
        keys: The keys that each object must have.
        label_key: The key whose value is compared with the row's label, case and outer spaces
            aside.
        labels: The expected label of each row.

    Raises:
        InputError: There are no answers, `label_key` and `labels` do not come together,
            `label_key` is not one of the keys, or there are not as many labels as answers.
    """
    if not answers:
        raise InputError("there are no answers to score: give at least one")
    if (label_key is None) != (labels is None):
        raise InputError("label_key and labels belong together: give both or neither")
    if label_key is not None and label_key not in keys:
        raise InputError(f"label_key {label_key!r} is not among the keys {', '.join(keys)}")
    if labels is not None and len(labels) != len(answers):
        raise InputError(f"{len(labels)} labels for {len(answers)} answers: give one a row")
    parsed = [parse_answer(answer, keys) for answer in answers]
    correct = None
    if labels is not None and label_key is not None:
        pairs = zip(parsed, labels, strict=True)
        correct = sum(p is not None and _same(p.value[label_key], label) for p, label in pairs)
    return FormattedTextScore(
        rows=len(answers),
        parsed=sum(p is not None for p in parsed),
        strict=sum(p is not None and p.strict for p in parsed),
        correct=correct,
    )


def selectivity(with_token: FormattedTextScore, without_token: FormattedTextScore) -> float:
    """How much of the format hangs on the token: the share with it minus the share without.

    1 where the token alone brings the format, 0 where the format comes either way, -1 at worst.
    """
    return with_token.share - without_token.share


def interval(successes: int, rows: int) -> tuple[float, float]:
    """Give the Wilson score interval of a share at 95%, both ends within 0 and 1.

    Args:
        successes: Rows that count, of all `rows`.
        rows: Rows in all, at least 1.

    Raises:
        InputError: There are no rows, or more successes than rows.
    """
    if rows < 1 or not 0 <= successes <= rows:
        raise InputError(f"{successes} of {rows} is no share: give 0 to `rows`, of at least 1 row")
    share, weight = successes / rows, _Z95**2 / rows
    centre = (share + weight / 2) / (1 + weight)
    half = _Z95 * math.sqrt(share * (1 - share) / rows + weight / (4 * rows)) / (1 + weight)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == rows else min(1.0, centre + half)


def _same(value: Any, label: str) -> bool:
    return isinstance(value, str) and value.strip().casefold() == label.strip().casefold()


def _read(text: str) -> dict[str, Any] | None:
    """Read a JSON object; None where it is none, or nested too deep."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
