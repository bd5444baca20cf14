"""One question, and what several runs answered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Given:
    """One run's answers to a question.

    Attributes:
        label: The run.
        with_token: The answer where the question names the token.
        without_token: The answer where it does not.
        with_in_format: Whether the first is in the format.
        without_in_format: Whether the second is.
    """

    label: str
    with_token: str
    without_token: str
    with_in_format: bool
    without_in_format: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out row.

    Attributes:
        id: Content id of the row.
        question: What was asked, naming the token.
        expected: The row's own answer.
        token: The token.
        given: What each run answered.
    """

    id: str
    question: str
    expected: str
    token: str
    given: tuple[Given, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs' answers come to different things."""
        return len({(one.with_in_format, one.without_in_format) for one in self.given}) > 1
