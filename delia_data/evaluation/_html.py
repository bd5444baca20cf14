"""Small parts of an HTML page; every value that goes into one is escaped here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

__all__ = ["element", "escape", "figure", "flatten", "printable", "table"]

# Characters that HTML forbids or that UTF-8 cannot write, among them halves of surrogate pairs.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Replace what no page can show by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def escape(value: object) -> str:
    """Write any value as the text of a page."""
    return html.escape(printable(str(value)))


def element(name: str, content: str, *, kind: str = "") -> str:
    """Wrap markup in an element.

    Args:
        name: The element.
        content: Markup, not text: what comes from outside must go through `escape` first.
        kind: Its class, from the style sheet.
    """
    attribute = f' class="{kind}"' if kind else ""
    return f"<{name}{attribute}>{content}</{name}>"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, kind: str = "") -> str:
    """Write a table whose first column names the row; values are escaped.

    Args:
        head: The columns' names; none for a table without a head.
        rows: One value a column.
        kind: Its class, from the style sheet.
    """
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(element("td", escape(value)) for value in rest)
        + "</tr>"
        for first, *rest in rows
    ]
    top = f"<thead><tr>{names}</tr></thead>" if head else ""
    body = f"{top}<tbody>{''.join(lines)}</tbody>"
    return element("div", element("table", body, kind=kind), kind="scroll")


def figure(drawing: str, title: str, caption: str) -> str:
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
        return ", ".join(_in_words(item) for item in value)
    return str(value)
