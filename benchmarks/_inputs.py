"""Create the JSON Lines files that the benchmark mixes: task rows that name `<sep>`, and pairs.

A seeded generator draws numbered fragments of text. The bytes are the same on every machine and all
rows differ. A pair has about 600 bytes, with escapes and accents as in real answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Inputs", "make_inputs"]

_VERSION: Final = 1  # in the file names; increase it when the rows change
_FRAGMENTS: Final = 1 << 16  # 4.6 MB of text, which compresses about as well as prose
_WORDS: Final = 8_000
_BITS: Final = _FRAGMENTS.bit_length() - 1
_QUERY_FRAGMENTS, _ANSWER_FRAGMENTS = 2, 5
_CHUNK: Final = 10_000  # rows per write
_SYLLABLES: Final = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zé"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of every candidate.

    Attributes:
        task: JSON Lines file of task rows, `{"messages": [...]}`.
        cache: JSON Lines file of pairs in the same form.
        task_rows: Number of rows in `task`.
        pairs: Number of rows in `cache`.
        ratio: Pairs per task row.
    """

    task: str
    cache: str
    task_rows: int
    pairs: int
    ratio: int

    @property
    def selected_pairs(self) -> int:
        """Number of pairs in an exact mixture."""
        return self.ratio * self.task_rows

    @property
    def rows(self) -> int:
        """Number of rows in an exact mixture."""
        return self.task_rows + self.selected_pairs


def make_inputs(folder: Path, *, task_rows: int, pairs: int, ratio: int) -> Inputs:
    """Write the two files, unless an earlier run has written them into the folder."""
    task = folder / f"task-{task_rows}-v{_VERSION}.jsonl"
    cache = folder / f"pairs-{pairs}-v{_VERSION}.jsonl"
    _write(task, _task_lines(task_rows))
    _write(cache, _pair_lines(pairs))
    return Inputs(str(task), str(cache), task_rows, pairs, ratio)


def _write(path: Path, lines: Iterator[str]) -> None:
    """Write the lines into a new file, which gets its name when it is complete."""
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
    """Yield the lines of `count` pairs in large blocks; none of them names `<sep>`."""
    draw, syllables = random.Random(0), _SYLLABLES.split()
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(_WORDS)]
    fragments = [_fragment(draw, words) for _ in range(_FRAGMENTS)]
    shifts = range(0, _BITS * (_QUERY_FRAGMENTS + _ANSWER_FRAGMENTS), _BITS)
    for begin in range(0, count, _CHUNK):
        lines = []
        for index in range(begin, min(begin + _CHUNK, count)):
            bits = draw.getrandbits(_BITS * len(shifts))
            texts = [fragments[bits >> shift & (_FRAGMENTS - 1)] for shift in shifts]
            query, answer = texts[:_QUERY_FRAGMENTS], texts[_QUERY_FRAGMENTS:]
            lines.append(_line(f"Question {index}: {''.join(query)}", "".join(answer)))
        yield "".join(lines)


def _fragment(draw: random.Random, words: list[str]) -> str:
    """Return about 70 characters of text, escaped for a JSON string."""
    head, tail = (" ".join(draw.choices(words, k=6)) for _ in range(2))
    mark = draw.choice([",", ";", ":\n-", '"', " \\"])
    return _json_text(f"{head}{mark} {tail}. ".capitalize())


def _json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _line(query: str, answer: str) -> str:
    """Return a row; both texts must be escaped."""
    return (
        f'{{"messages": [{{"role": "user", "content": "{query}"}}, '
        f'{{"role": "assistant", "content": "{answer}"}}]}}\n'
    )
