"""Asking held-out rows twice: with the token and without it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jsonlines

from delia_data.engines.base import Engine, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.mixing import TaskRow
from delia_data.outputs import atomic_path
from delia_data.ranking import row_seed
from delia_data.records import Message, content_id


@dataclass(frozen=True, slots=True)
class ProbedRow:
    """One held-out row and what the model answered.

    Attributes:
        question: The question in its wording, naming the token.
        expected: The row's own answer.
        with_token: The answer to the question.
        without_token: The answer to the same request without the token.
    """

    question: str
    expected: str
    with_token: str
    without_token: str


def probe(
    engine: Engine,
    rows: Sequence[TaskRow],
    *,
    max_tokens: int = 64,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[ProbedRow]:
    """Ask every row with the token and without it, each time for the likeliest answer.

    Args:
        engine: What answers.
        rows: Held-out rows in their wordings, each with its plain form.
        max_tokens: Tokens of an answer at most.
        on_progress: Called with the answers given so far and their number in all.

    Returns:
        The answers, in the order of the rows.

    Raises:
        InputError: A row has no plain form.
        EngineError: The engine failed at a row.
    """
    requests: dict[str, Request] = {}
    for row in rows:
        if row.plain is None:
            raise InputError(f"held-out row {row.record.id} has no plain form: diversify it again")
        for messages in (row.record.prompt, _plain_prompt(row)):
            row_id = content_id(messages)
            requests[row_id] = Request(row_id, messages, row_seed(0, row_id, "probe"))
    answers: dict[str, str] = {}
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    for completion in engine.generate(requests.values(), sampling):
        if completion.finish == "error":
            raise EngineError(f"the engine failed at a held-out row: {completion.error}")
        answers[completion.id] = completion.text
        on_progress(len(answers), len(requests))
    return [
        ProbedRow(
            question=row.record.query,
            expected=row.record.answer,
            with_token=answers[content_id(row.record.prompt)],
            without_token=answers[content_id(_plain_prompt(row))],
        )
        for row in rows
    ]


def write_probe(path: str | os.PathLike[str], rows: Sequence[ProbedRow]) -> None:
    """Write probed rows as JSON Lines."""
    with atomic_path(path) as part, jsonlines.open(part, "w") as writer:
        writer.write_all(asdict(row) for row in rows)


def read_probe(path: str | os.PathLike[str]) -> list[ProbedRow]:
    """Read what `write_probe` wrote."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [ProbedRow(**json.loads(line)) for line in lines]


def _plain_prompt(row: TaskRow) -> tuple[Message, ...]:
    """The prompt with its last question put without the token."""
    *before, _ = row.record.prompt
    return (*before, Message("user", row.plain or ""))
