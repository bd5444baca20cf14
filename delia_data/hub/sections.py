"""Cards as front matter and sections, so that what a person wrote by hand survives the next push.

A section is a heading of the second level with what follows it. One whose heading is none of ours
is a person's: it stays, behind the section that it stood behind. Keys of the front matter that we
do not write stay as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import yaml

from delia_data.errors import FormatError

_FRONT: Final = re.compile(r"\A---\r?\n(.*?)\r?\n?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_FENCE: Final = re.compile(r"\s{0,3}(```|~~~)")


def split_card(card: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Cut a card into its front matter and its sections, the text before the first under `""`.

    Raises:
        FormatError: The front matter is no YAML mapping.
    """
    found = _FRONT.match(card)
    try:
        front = yaml.safe_load(found.group(1)) if found else {}
    except yaml.YAMLError as error:
        line = str(error).splitlines()[0]
        raise FormatError(f"the card's front matter is no YAML ({line}): mend README.md") from error
    if front is not None and not isinstance(front, dict):
        raise FormatError("the card's front matter is no YAML mapping: mend README.md")
    body = card[found.end() :] if found else card
    sections: list[tuple[str, list[str]]] = [("", [])]
    fenced = False
    for line in body.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        if line.startswith("## ") and not fenced:
            sections.append((line[3:].strip(), []))
        else:
            sections[-1][1].append(line)
    return front or {}, [(heading, "\n".join(lines).strip()) for heading, lines in sections]


def join_card(front: Mapping[str, Any], sections: list[tuple[str, str]]) -> str:
    """Put a card together."""
    head = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    texts = [f"## {heading}\n\n{text}".rstrip() if heading else text for heading, text in sections]
    return f"---\n{head}---\n\n" + "\n\n".join(text for text in texts if text) + "\n"


def merge_cards(card: str, before: str, ours: Collection[str]) -> str:
    """Take what a person wrote into the card before over into the new one.

    Args:
        card: The new card, as it was generated.
        before: The card before; empty where there was none.
        ours: Headings of all sections that are generated, now or then.

    Raises:
        FormatError: The front matter of the card before is no YAML.
    """
    front, sections = split_card(card)
    old_front, old_sections = split_card(before)
    behind = ""
    for heading, text in old_sections:
        if heading not in ours and heading:
            names = [name for name, _ in sections]
            place = names.index(behind) if behind in names else len(names) - 1
            sections.insert(place + 1, (heading, text))
        behind = heading if heading in [name for name, _ in sections] else behind
    return join_card({**front, **{k: v for k, v in old_front.items() if k not in front}}, sections)
