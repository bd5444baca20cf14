"""Small parts of an HTML page; every value that goes into one is escaped here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

# Characters that HTML forbids or that UTF-8 cannot write, among them halves of surrogate pairs,
# and those that turn the direction of whatever follows, our own numbers too.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


class Markup(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def printable(text: str) -> str:
    """Replace what no page can show by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def escape(value: object) -> Markup:
    """Write any value as the text of a page; markup stays as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(printable(str(value))))


def element(name: str, content: str, *, kind: str = "", **attributes: str) -> Markup:
    """Wrap markup in an element.

    Args:
        name: The element.
        content: Markup, not text: what comes from outside must go through `escape` first.
        kind: Its class, from the style sheet.
        **attributes: Further attributes, such as `dir="auto"`; values are escaped.
    """
    named = {"class": kind, **attributes} if kind else attributes
    told = "".join(f' {key}="{escape(value)}"' for key, value in named.items())
    return Markup(f"<{name}{told}>{content}</{name}>")


def text_block(text: str, empty: str = "(empty)") -> Markup:
    """Show text as it is, such as an answer, in the direction of its script."""
    return element("pre", escape(text if text.strip() else empty), dir="auto")


def details(summary: str, content: str) -> Markup:
    """Fold markup away under a line of text."""
    return element("details", element("summary", escape(summary)) + content)


def table(
    head: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    kind: str = "",
    name: str = "",
    heads: int = 1,
) -> Markup:
    """Write a table whose first columns name the row; values are escaped.

    Args:
        head: The columns' names; none for a table without a head.
        rows: One value a column.
        kind: Its class, from the style sheet.
        name: What it shows, for those who hear the page.
        heads: Columns that name the row.
    """
    names = "".join(
        element("th", escape(cell), kind="head" if at < heads else "", scope="col")
        for at, cell in enumerate(head)
    )
    lines = [
        "<tr>"
        + "".join(f'<th scope="row">{escape(cell)}</th>' for cell in row[:heads])
        + "".join(element("td", escape(cell)) for cell in row[heads:])
        + "</tr>"
        for row in rows
    ]
    top = f"<thead><tr>{names}</tr></thead>" if head else ""
    body = f"{top}<tbody>{''.join(lines)}</tbody>"
    # What scrolls must be reachable by keyboard, and say what it is.
    box = {"tabindex": "0", "role": "region", "aria-label": name} if name else {}
    return element("div", element("table", body, kind=kind), kind="scroll", **box)


def figure(drawing: str, title: str, caption: str) -> Markup:
    """Frame a drawing with a title above and a caption below; both are escaped."""
    words = element("strong", escape(title)) + element("span", escape(caption))
    return element("figure", element("figcaption", words) + drawing)


def flatten(values: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, str]]:
    """Give nested settings as dotted names and values in words, in the order given."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{inside}{name}.")
        else:
            yield f"{inside}{name}", _in_words(value)


def _in_words(value: object) -> str:
    if value is None or (isinstance(value, (Mapping, list, tuple)) and not value):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        nested = any(isinstance(item, (Mapping, list, tuple)) for item in value)
        return ("; " if nested else ", ").join(_in_words(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(item)}" for name, item in value.items())
    return str(value) or "(empty)"
