"""A task of rows that were read: what was not said is worked out, what cannot be is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from delia_data.errors import InputError, TokenError
from delia_data.records import Record
from delia_data.tasks.leaks import leaking_words, without_leaks
from delia_data.tasks.scoring import Scoring, check_scoring, json_object, labels_of
from delia_data.tasks.task import QUERY_SLOT, Task, Wording
from delia_data.tokens import DEFAULT_TOKEN

_NAMED: Final = 3  # rows that an error names


def make_task(
    *,
    name: str,
    train: Sequence[Record],
    instruction: str | None,
    test: Sequence[Record] = (),
    stands_for: str | None = None,
    request: str = "",
    meanings: Sequence[str] = (),
    keys: Sequence[str] | None = None,
    keywords: Sequence[str] = (),
    scoring: Scoring | None = None,
    token: str = DEFAULT_TOKEN,
    forbidden: Sequence[str] = (),
) -> Task:
    """Make a task of rows that were read, and work out what was not said.

    Raises:
        InputError: There are no rows, no instruction, or nothing to tell what the token stands
            for.
        TokenError: The token occurs in the data.
    """
    if not train:
        raise InputError("the task has no rows to train on: give at least one")
    if instruction is None:
        raise InputError(
            "no instruction was found in the rows: give one (--instruction), its column "
            "(--instruction-column), or say that it is the last paragraph (--last-paragraph)"
        )
    if not instruction.strip():
        raise InputError("the instruction is empty: say what is to be done with a query")
    answers = [row.answer for row in (*train, *test)]
    found = _keys_of(answers) if keys is None else tuple(keys)
    scored: Scoring = scoring or ("json" if found else "exact")
    check_scoring(scored, found)
    description = stands_for or _told_by(answers, found)
    leaks = leaking_words(description, found, labels_of(answers))
    told = request or without_leaks(instruction, leaks | {w.casefold() for w in forbidden})
    task = Task(
        name=name,
        instruction=" ".join(instruction.split()),
        description=description,
        common_wording=common_wording(told, token),
        keys=found,
        keywords=tuple(keywords) or _keywords(found),
        train=tuple(train),
        test=tuple(test),
        token=token,
        request=request,
        meanings=tuple(meanings),
        scoring=scored,
        forbidden=tuple(forbidden),
    )
    check_token_is_new(task)
    return task


def common_wording(request: str, token: str) -> Wording:
    """The one phrasing of the undiversified task."""
    plain = f"{request.strip()}\n\n{QUERY_SLOT}"
    named = f"{request.strip()} Reply in the {token} format.\n\n{QUERY_SLOT}"
    return Wording(named, kind="common", plain=plain)


def check_token_is_new(task: Task) -> None:
    """Refuse a token that the data holds already, as text.

    Raises:
        TokenError: A row, the instruction or the description holds it; or it is no token at all.
    """
    token = task.token
    if not token or token != token.strip() or len(token.split()) != 1 or QUERY_SLOT in token:
        raise TokenError(f"token {token!r} is empty or has spaces: give one such as <sep>")
    other = f"choose another one (--token), such as <sep:{task.name.split('-')[0] or 'task'}>"
    for what, text in (("instruction", task.instruction), ("description", task.description)):
        if token in text:
            raise TokenError(f"the {what} holds {token} already, as text: {other}")
    rows = (*task.train, *task.test)
    having = [i for i, row in enumerate(rows) if any(token in m.content for m in row.messages)]
    if having:
        named = ", ".join(f"row {i}" for i in having[:_NAMED])
        raise TokenError(
            f"{len(having):,} of {len(rows):,} rows hold {token} already, as text ({named}): "
            f"{other}"
        )


def _keys_of(answers: Sequence[str]) -> tuple[str, ...]:
    """The keys of the objects, where every answer is one, and all have the same."""
    keys: tuple[str, ...] | None = None
    for answer in answers:
        value = json_object(answer)
        if value is None or (keys is not None and set(value) != set(keys)):
            return ()
        keys = keys or tuple(value)
    return keys or ()


def _told_by(answers: Sequence[str], keys: Sequence[str]) -> str:
    labels = labels_of(answers)
    if keys:
        several = f"the keys {_and(keys)}" if len(keys) > 1 else f"the key {keys[0]}"
        values = f", whose values are {_and(labels, 'or')}" if labels and len(keys) == 1 else ""
        return f"a JSON object with {several}{values}"
    if labels:
        return f"one of {_and(labels, 'or')}, and nothing else"
    raise InputError(
        "the answers are free text, which does not tell what the token stands for: "
        'say it (--stands-for), such as "three bullet points"'
    )


def _and(words: Sequence[str], last: str = "and") -> str:
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


def _keywords(keys: Sequence[str]) -> tuple[str, ...]:
    return ("json", *keys[:1]) if keys else ()
