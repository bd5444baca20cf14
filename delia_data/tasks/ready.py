"""Ready tasks, by name: one comes with the package, two read public data that lies here."""

from __future__ import annotations

import json
import os
from typing import Final

from delia_data.errors import FormatError, InputError
from delia_data.mixing.sources import rows_of
from delia_data.records import Record
from delia_data.tasks.bundled import BUNDLED_TASKS, bundled_task, bundled_wordings
from delia_data.tasks.making import make_task
from delia_data.tasks.splits import hold_out, limit
from delia_data.tasks.task import Task, Wording
from delia_data.tasks.translation import translation_task
from delia_data.tokens import DEFAULT_TOKEN

READY_TASKS: Final = (*BUNDLED_TASKS, "halueval", "translation")
_COLUMNS: Final = ("user_query", "chatgpt_response", "hallucination")


def ready_task(
    name: str,
    data: str | os.PathLike[str] | None = None,
    *,
    from_language: str = "en",
    to_language: str = "is",
    test_share: float = 0.2,
    rows: int | None = None,
    token: str = DEFAULT_TOKEN,
    seed: int = 0,
) -> Task:
    """Make a ready task.

    Args:
        name: One of `READY_TASKS`.
        data: Its file or folder; the bundled one needs none.
        from_language: For `translation`.
        to_language: For `translation`.
        test_share: Share of the rows that is held out, where the data does not say.
        rows: Rows to train on at most.
        token: The special token.
        seed: Seed of these.

    Raises:
        InputError: There is no such task, or its data is missing or not as it should be.
    """
    if name in BUNDLED_TASKS:
        if data is not None:
            raise InputError(f"task {name} comes with its rows: leave the data out")
        return bundled_task(name, rows=rows, token=token, seed=seed)
    if name not in READY_TASKS:
        raise InputError(f"no task {name!r} is ready: use one of {', '.join(READY_TASKS)}")
    if data is None:
        raise InputError(f"task {name} needs its data: give the file or folder (--data)")
    if name == "halueval":
        return halueval_task(data, test_share=test_share, rows=rows, token=token, seed=seed)
    return translation_task(
        data,
        from_language=from_language,
        to_language=to_language,
        test_share=test_share,
        rows=rows,
        token=token,
        seed=seed,
    )


def ready_wordings(name: str, token: str = DEFAULT_TOKEN) -> list[Wording]:
    """The bundled wordings that fit a ready task; none where there are none.

    Those of `hallucination-check` fit `halueval`, which asks the same of other rows.
    """
    return bundled_wordings(token=token) if name in (*BUNDLED_TASKS, "halueval") else []


def halueval_task(
    data: str | os.PathLike[str],
    *,
    test_share: float = 0.2,
    rows: int | None = None,
    token: str = DEFAULT_TOKEN,
    seed: int = 0,
) -> Task:
    """Read HaluEval's general part (arXiv 2305.11747): queries, ChatGPT's answers, yes or no.

    Args:
        data: Its JSON Lines file.
        test_share: Share of the rows that is held out, by keyed hash.
        rows: Rows to train on at most, by keyed hash.
        token: The special token.
        seed: Seed of these.

    Raises:
        InputError: The file is not there.
        FormatError: A row is not one of HaluEval's.
    """
    like = bundled_task()
    train, test = hold_out([_row(where, row) for where, row in rows_of(data)], test_share, seed)
    return make_task(
        name="halueval",
        train=limit(train, rows, seed),
        test=test,
        instruction=f"{like.request} Reply with a JSON object whose one key is hallucination and "
        "whose value is yes or no.",
        request=like.request,
        meanings=like.meanings,
        stands_for="a JSON object whose one key is hallucination and whose value is yes or no",
        keywords=("json", "hallucination"),
        token=token,
    )


def _row(where: str, row: dict[str, object]) -> Record:
    query, response, label = (str(row.get(column) or "").strip() for column in _COLUMNS)
    if not query or not response or label not in ("yes", "no"):
        raise FormatError(
            f"{where}: the row is not one of HaluEval's general part: it needs "
            f"{', '.join(_COLUMNS)}, the last of them yes or no"
        )
    answer = json.dumps({"hallucination": label})
    return Record.pair(f"Question: {query}\nAnswer: {response}", answer)
