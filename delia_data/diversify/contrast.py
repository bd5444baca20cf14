"""Contrast rows: requests near the task that are answered without its format.

    plain      the query of a task row in the plain form of a training wording
    forbid     the same request in a phrasing that forbids the token's format
    mention    the same request in a phrasing that only mentions the token
    about      a question about the token

Each has the untrained model's answer to the plain request; of `about` to the question without the
brackets of the token.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any, Final, Literal, TypeAlias, get_args

import yaml

from delia_data.diversify.plain import plain_form
from delia_data.engines.base import Completion, Engine, Request, Sampling
from delia_data.errors import InputError
from delia_data.mixing.task_rows import ContrastRow, TaskRows
from delia_data.outputs import canonical_json
from delia_data.ranking import rank, row_seed
from delia_data.records import Message, Record, content_id
from delia_data.sampling.budget import Budget
from delia_data.sampling.completion_log import CompletionLog
from delia_data.sampling.filters import empty, failed, names, truncated
from delia_data.tasks import QUERY_SLOT, Task, Wording
from delia_data.tasks.reading import with_query
from delia_data.tokens import split_tokens

ContrastKind: TypeAlias = Literal["forbid", "mention", "about"]
ContrastSplit: TypeAlias = Literal["train", "test"]
CONTRAST_KINDS: Final[tuple[ContrastKind, ...]] = get_args(ContrastKind)
ROW_KINDS: Final = ("plain", *CONTRAST_KINDS)
"""Kinds of contrast rows."""
DEFAULT_KINDS: Final = ("forbid", "plain", "forbid", "mention", "forbid", "about")
"""Kinds in the order in which they take turns: obeying needs more rows than the others."""
_TRIES_PER_ROW: Final = 4
_SPARE_TRIES: Final = 32
_BRACKETS: Final = "<>[](){}|"


@cache
def contrast_phrasings(kind: ContrastKind, split: ContrastSplit) -> tuple[str, ...]:
    """Return the phrasings of one kind; each has the slots `{request}` and `{token}` once.

    Args:
        kind: `"forbid"` rules out the format, `"mention"` names the token without asking for it.
            `"about"` are questions about the token, without `{request}`.
        split: `"train"` for training rows, `"test"` for evaluation. No phrasing is in both.

    Raises:
        InputError: The kind or the split is unknown.
    """
    if kind not in CONTRAST_KINDS or split not in get_args(ContrastSplit):
        raise InputError(
            f"there are no contrast phrasings {kind!r} of split {split!r}: use a kind of "
            f"{', '.join(CONTRAST_KINDS)} and split train or test"
        )
    file = files("delia_data.diversify") / "data" / "contrast.yaml"
    return tuple(yaml.safe_load(file.read_text(encoding="utf-8"))[kind][split])


def fill_phrasing(phrasing: str, request: str, token: str) -> str:
    """Return a phrasing with its slots filled; braces in the request stay as they are."""
    head, _, tail = phrasing.partition("{request}")
    return head.replace("{token}", token) + request + tail.replace("{token}", token)


def check_contrast(share: float, kinds: Sequence[str]) -> None:
    """Check the share of contrast rows and their kinds.

    Raises:
        InputError: The share is not a number of at least 0, or a kind is unknown.
    """
    if not 0 <= share < math.inf:
        raise InputError(f"contrast {share} is out of range: give 0 or more, such as 0.5")
    if not kinds or {*kinds} - {*ROW_KINDS}:
        raise InputError(
            f"contrast kinds {', '.join(kinds) or 'none'}: give some of {', '.join(ROW_KINDS)} "
            "(--contrast-kinds)"
        )


def make_contrast_rows(
    open_engine: Callable[[], tuple[Engine, Budget]],
    task: Task,
    rows: TaskRows,
    wordings: Sequence[Wording],
    folder: str | os.PathLike[str],
    *,
    share: float,
    kinds: Sequence[str],
    sampling: Sampling,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[tuple[ContrastRow, ...], dict[str, Any]]:
    """Let the untrained model answer plain requests, and make contrast rows of the answers.

    Every task row is used once before one is used again, each time in another wording. The kinds
    take turns; one that is given several times has several turns. The rows of a smaller share are
    among those of a larger one. Options are as for `make_task_folder`; the folder is that of the
    answers, and a rerun requests only those that are missing.

    Returns:
        Exactly `round(share * training rows)` contrast rows, and the entry of a manifest: their
        kinds, dropped answers by reason (another request took the place of each), what the
        answers took, the model that gave them, and everything they depend on.

    Raises:
        InputError: An argument is wrong, no wording has a plain form, too few answers can be used,
            or the budget is spent.
        EngineError: The engine failed.
        SettingsError: The folder was started with other settings.
    """
    check_contrast(share, kinds)
    count = round(share * len(task.train))
    if not count:
        raise InputError(
            f"contrast {share} of {len(task.train)} training rows is no row: give more (--contrast)"
        )
    plains = [
        (wording.id, plain)
        for wording in sorted(wordings, key=lambda one: rank(seed, one.id, "contrast"))
        if wording.split == "train"
        and (plain := wording.plain or plain_form(wording.text, task.token))
        and task.token not in plain
    ]
    if not plains:
        raise InputError(
            f"none of {len(wordings)} wordings is for training and has a form without "
            f'{task.token}, which contrast rows need: give one as "plain"'
        )
    most = _TRIES_PER_ROW * count + _SPARE_TRIES
    candidates = _candidates(task, rows, plains, kinds, most, seed)
    numbers = {kind: [n for n, row in enumerate(candidates) if row.kind == kind] for kind in kinds}
    wanted = {kind: sum(n < count for n in of_kind) for kind, of_kind in numbers.items()}
    engine, budget = open_engine()
    plan: dict[str, Any] = {
        "source": "contrast",
        "seed": seed,
        "task": task.sha256,
        "wordings": hashlib.sha256(canonical_json(plains)).hexdigest(),
        "sampling": sampling.as_dict(),
        "writer": engine.describe(),
    }
    answers = CompletionLog(folder)
    checks = (failed, empty, truncated, names(task.token))
    reasons: dict[int, str | None] = {}  # why an answer is dropped; None for a usable one
    usable = read = 0

    def request(number: int) -> Request:
        row_id = content_id([Message("user", f"contrast:{number}")])
        turns = candidates[number].teacher_messages
        return Request(row_id, turns, row_seed(seed, row_id, "contrast"))

    def check() -> None:
        nonlocal usable, read
        for number, row in islice(answers.by_number.items(), read, None):
            read += 1
            if number < most:  # the others belong to an earlier run with more rows
                completion = Completion("", row.text, row.tokens, row.finish)
                query = candidates[number].teacher_messages[-1].content
                rejecting = (reason for each in checks if (reason := each(query, completion)))
                reasons[number] = next(rejecting, None)
                usable += reasons[number] is None
        on_progress(min(usable, count), count)

    def chosen(kind: str) -> list[int]:
        """Return the numbers whose answers are used, if those to come can be used."""
        return [n for n in numbers[kind] if reasons.get(n) is None][: wanted[kind]]

    with answers.writing(plan):
        budget.spend(*answers.spent)
        check()
        while missing := [n for kind in numbers for n in chosen(kind) if n not in reasons]:
            if not answers.request(
                engine,
                missing,
                request,
                sampling,
                purpose="contrast rows",
                budget=budget,
                on_completion=check,
            ):
                raise InputError(
                    f"the budget is spent after {len(reasons)} answers for contrast rows: raise it "
                    "and rerun to continue, or ask for fewer rows (--contrast)"
                )
    taken = {kind: chosen(kind) for kind in numbers}
    tried = sorted(
        n for kind, used in taken.items() if used for n in numbers[kind] if n <= used[-1]
    )
    dropped = Counter(reason for n in tried if (reason := reasons[n]))
    numbers_made = sorted(n for used in taken.values() for n in used)
    if len(numbers_made) < count:
        counts = Counter(reason for reason in reasons.values() if reason).most_common()
        listed = ", ".join(f"{n} {reason}" for reason, n in counts)
        raise InputError(
            f"{len(numbers_made)} of {count} answers for contrast rows can be used "
            f"({listed}): allow longer ones (--contrast-max-tokens) in a new folder, or use "
            "another model"
        )

    def answered(number: int) -> ContrastRow:
        answer = Message("assistant", answers.by_number[number].text)
        prompt = candidates[number].record.prompt
        return replace(candidates[number], record=Record((*prompt, answer)))

    made = tuple(answered(n) for n in numbers_made)
    return made, {
        "kinds": dict(sorted(Counter(row.kind for row in made).items())),
        "dropped": dict(sorted(dropped.items())),
        **answers.usage(tried),
        "model": plan["writer"]["model"],
        "plan": plan,
    }


def _candidates(
    task: Task,
    rows: TaskRows,
    plains: Sequence[tuple[str, str]],
    kinds: Sequence[str],
    count: int,
    seed: int,
) -> list[ContrastRow]:
    """Return contrast rows that still have the answers of the task rows."""
    phrasings: dict[str, list[str]] = {
        kind: sorted(contrast_phrasings(kind, "train"), key=lambda one: rank(seed, one, "contrast"))
        for kind in CONTRAST_KINDS
    }
    made: list[ContrastRow] = []
    order: list[int] = []
    first_place: dict[int, int] = {}
    turns: Counter[str] = Counter()
    for number in range(count):
        lap, place = divmod(number, len(task.train))
        if place == 0:
            ranks = [rank(seed, f"{lap}:{row.id}", "contrast") for row in task.train]
            order = sorted(range(len(ranks)), key=ranks.__getitem__)
        row = task.train[order[place]]
        start = first_place.setdefault(order[place], place)
        wording_id, plain = plains[(start + lap) % len(plains)]
        request = plain.replace(QUERY_SLOT, row.query)
        kind = kinds[number % len(kinds)]
        choice = phrasings.get(kind)
        phrasing = choice[turns[kind] % len(choice)] if choice else None
        turns[kind] += 1
        asked = fill_phrasing(phrasing, request, task.token) if phrasing else request
        if phrasing and kind == "about":
            # Ask the untrained model about "sep" instead of <sep>, which its answers would repeat.
            asked = phrasing.replace("{token}", task.token)
            request = phrasing.replace("{token}", split_tokens(task.token)[0].strip(_BRACKETS))
        made.append(
            ContrastRow(
                with_query(row, asked),
                kind,
                with_query(row, request).prompt,
                wording_id,
                rows.train[order[place]].record.id,
                phrasing,
            )
        )
    return made
