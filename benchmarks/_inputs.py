"""The files that the benchmark mixes: task rows that name `<sep>`, and pairs, as JSON Lines.

Rows are made of numbered fragments of text drawn by a seeded generator: the same bytes everywhere,
no two rows alike, about 600 bytes a pair, with the escapes and accents that real answers have.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Inputs", "make_inputs"]

_VERSION: Final = 1  # in the file names: raise it when the rows change
_FRAGMENTS: Final = 1 << 16  # 4.6 MB of text in all, so that it compresses as prose does
_WORDS: Final = 8_000
_BITS: Final = _FRAGMENTS.bit_length() - 1
_IN_QUERY, _IN_ANSWER = 2, 5  # fragments
_CHUNK: Final = 10_000  # rows written at once
_SYLLABLES: Final = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ri",
    "so",
    "tu",
    "va",
    "we",
    "xi",
    "yo",
    "zé",
]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every candidate is given.

    Attributes:
        task: JSON Lines of task rows, `{"messages": [...]}`.
        cache: JSON Lines of pairs in the same form.
        task_rows: Rows in `task`.
        pairs: Rows in `cache`.
        ratio: Pairs to take for each task row.
    """

    task: str
    cache: str
    task_rows: int
    pairs: int
    ratio: int

    @property
    def picked(self) -> int:
        """Pairs that an exact mixture takes."""
        return self.ratio * self.task_rows

    @property
    def rows(self) -> int:
        """Rows of an exact mixture."""
        return self.task_rows + self.picked


def make_inputs(folder: Path, *, task_rows: int, pairs: int, ratio: int) -> Inputs:
    """Write the two files, or keep those that an earlier run wrote into the folder."""
    task = folder / f"task-{task_rows}-v{_VERSION}.jsonl"
    cache = folder / f"pairs-{pairs}-v{_VERSION}.jsonl"
    _write(task, _task_lines(task_rows))
    _write(cache, _pair_lines(pairs))
    return Inputs(str(task), str(cache), task_rows, pairs, ratio)


def _write(path: Path, lines: Iterator[str]) -> None:
    """Write the lines where the file is not there yet; it appears only when all of it is."""
    if path.exists():
        return
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
    part.replace(path)


def _task_lines(count: int) -> Iterator[str]:
    for index in range(count):
        question = f"Does statement {index} hold? Reply with your verdict as <sep>."
        answer = json.dumps({"thought": f"Statement {index} is known.", "verdict": index % 2 == 0})
        yield _line(_json_text(question), _json_text(answer))


def _pair_lines(count: int) -> Iterator[str]:
    """Lines of `count` pairs, many in each string; `<sep>` stands in none of them."""
    draw = random.Random(0)
    words = ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) for _ in range(_WORDS)]
    fragments = [_fragment(draw, words) for _ in range(_FRAGMENTS)]
    picks = range(0, _BITS * (_IN_QUERY + _IN_ANSWER), _BITS)
    for begin in range(0, count, _CHUNK):
        lines = []
        for index in range(begin, min(begin + _CHUNK, count)):
            bits = draw.getrandbits(_BITS * len(picks))
            texts = [fragments[bits >> shift & (_FRAGMENTS - 1)] for shift in picks]
            query, answer = texts[:_IN_QUERY], texts[_IN_QUERY:]
            lines.append(_line(f"Question {index}: {''.join(query)}", "".join(answer)))
        yield "".join(lines)


def _fragment(draw: random.Random, words: list[str]) -> str:
    """About 70 characters of words, escaped as inside a JSON string."""
    head, tail = (" ".join(draw.choices(words, k=6)) for _ in range(2))
    mark = draw.choice([",", ";", ":\n-", '"', " \\"])
    return _json_text(f"{head}{mark} {tail}. ".capitalize())


def _json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _line(query: str, answer: str) -> str:
    """One row; both texts are escaped already."""
    return (
        f'{{"messages": [{{"role": "user", "content": "{query}"}}, '
        f'{{"role": "assistant", "content": "{answer}"}}]}}\n'
    )
