"""Numbers as the report writes them: a value, and its interval in a lighter hand."""

from __future__ import annotations

from typing import Protocol

from delia_data.evaluation._html import Markup, element, escape


class Interval(Protocol):
    """A number with its interval, such as `evaluation.Estimate`."""

    @property
    def value(self) -> float:
        """The number."""
        ...

    @property
    def low(self) -> float:
        """Lower end of its interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of it."""
        ...


def signed(found: Interval | None) -> Markup:
    """A difference, with its sign."""
    if found is None:
        return escape("–")
    return _with_interval(
        signed_number(found.value), f"{signed_number(found.low)}, {signed_number(found.high)}"
    )


def signed_text(found: Interval) -> str:
    """The same as text."""
    return f"{signed_number(found.value)} [{signed_number(found.low)}, {signed_number(found.high)}]"


def value(found: Interval | None, *, share: bool = False, digits: int = 2) -> Markup:
    """A number; a share in percent."""
    if found is None:
        return escape("–")
    if share:
        return _with_interval(
            f"{found.value:.0%}", f"{100 * found.low:.0f}, {100 * found.high:.0f}"
        )
    low, high = (f"{end:.{digits}f}" for end in (found.low, found.high))
    return _with_interval(f"{found.value:.{digits}f}", f"{low}, {high}")


def count(number: int) -> str:
    """A count, with commas."""
    return f"{number:,}"


def named(number: int, one: str, many: str | None = None) -> str:
    """A count and what it counts."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _with_interval(number: str, interval: str) -> Markup:
    return Markup(
        element("b", escape(number)) + element("span", escape(f"[{interval}]"), kind="ci")
    )


def signed_number(number: float) -> str:
    """A difference in two places; what rounds to nothing has no sign."""
    rounded = round(number, 2) + 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded):.2f}"
