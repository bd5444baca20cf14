"""Probes: held-out rows put in several ways, each with the token and without it.

probe      with the token                                  without it
held-out   the row in a wording that training never saw    the same request without the token
training   the row in a wording that training saw          the same request without the token
bare       the query, "Follow the <sep> format."           the query alone
negative   the held-out wording without the token, and     the same without that sentence
           "Do NOT use the <sep> format."

The negative one should bring *no* answer in the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from delia_data.diversify.plain import plain_form
from delia_data.errors import InputError
from delia_data.evaluation.asked_task import AskedTask, HeldOutRow
from delia_data.ranking import rank
from delia_data.records import Message
from delia_data.tasks import Wording
from delia_data.tasks.instruction import with_query

ProbeName = Literal["held-out", "training", "bare", "negative"]
PROBES: Final[tuple[ProbeName, ...]] = get_args(ProbeName)

BARE: Final = "Follow the {token} format."
NEGATIVE: Final = "Do NOT use the {token} format."


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One row, put in one way.

    Attributes:
        id: Content id of the task's row: the same in every probe, and for every system.
        query: The row's query, in no wording.
        prompt: The turns that are asked, naming the token.
        plain: The same turns without the token.
        expected: The row's own answer.
        wording_id: Id of the wording; None where it is none of the task's.
    """

    id: str
    query: str
    prompt: tuple[Message, ...]
    plain: tuple[Message, ...]
    expected: str
    wording_id: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """Rows that are all put in the same way.

    Attributes:
        name: One of `PROBES`, or a name of the caller's own.
        rows: The rows, in the order in which they are asked.
        wants_format: Whether an answer should be in the format.
        notes: What a reader should know of it.
    """

    name: str
    rows: tuple[ProbeRow, ...]
    wants_format: bool = True
    notes: tuple[str, ...] = ()


def make_probes(
    task: AskedTask,
    names: Sequence[str] = PROBES,
    *,
    rows: int | None = None,
    seed: int = 0,
) -> tuple[Probe, ...]:
    """Put a task's held-out rows.

    The rows of a smaller number are among those of a larger one, in the same wordings, so that a
    later run with more asks only for the new ones.

    Args:
        task: The task.
        names: Which probes, of `PROBES`.
        rows: Rows to ask at most, by keyed hash.
        seed: Seed of the rows, and of the training wordings that they get.

    Returns:
        The probes, in the order of `names`.

    Raises:
        InputError: A name is unknown, a number is below 1, a held-out row has no plain form, or
            no training wording has one.
    """
    if unknown := [name for name in names if name not in PROBES]:
        raise InputError(f"probe {unknown[0]!r} is unknown: use one of {', '.join(PROBES)}")
    if not names:
        raise InputError(f"there is no probe to ask: give one of {', '.join(PROBES)}")
    if rows is not None and rows < 1:
        raise InputError(f"{rows} rows are too few: give at least 1")
    chosen = list(_chosen(task, seed))[:rows]
    makers = {
        "held-out": lambda: Probe("held-out", tuple(map(_held_out, chosen))),
        "training": lambda: _training(task, chosen, seed),
        "bare": lambda: Probe("bare", tuple(_bare(row, task.token) for row in chosen)),
        "negative": lambda: Probe(
            "negative", tuple(_negative(row, task.token) for row in chosen), wants_format=False
        ),
    }
    return tuple(makers[name]() for name in dict.fromkeys(names))


def _chosen(task: AskedTask, seed: int) -> Iterator[HeldOutRow]:
    """The held-out rows in their keyed order; equal ones once."""
    unique = {row.record.id: row for row in task.held_out}
    for row_id in sorted(unique, key=lambda one: rank(seed, one, "evaluated rows")):
        yield unique[row_id]


def _held_out(row: HeldOutRow) -> ProbeRow:

    return _row(row, row.worded.record.query, _plain(row), row.worded.wording_id)


def _training(task: AskedTask, rows: Sequence[HeldOutRow], seed: int) -> Probe:
    """Deal the training wordings that have a plain form out to the rows."""
    trained = [wording for wording in task.wordings if wording.split == "train"]
    plains = {w.id: w.plain or plain_form(w.text, task.token) for w in trained}
    able = [wording for wording in trained if plains[wording.id]]
    if not able:
        raise InputError(
            f"none of {len(trained)} training wordings has a form without {task.token}, which "
            'rows are asked with as well: give one as "plain", or leave the training probe out'
        )
    deck = sorted(able, key=lambda wording: rank(seed, wording.id, "evaluated wordings"))
    dealt = [(row, deck[place % len(deck)]) for place, row in enumerate(rows)]

    def put(row: HeldOutRow, wording: Wording) -> ProbeRow:
        query = row.record.query
        plain = Wording(wording.text, plain=plains[wording.id]).fill_plain(query)
        return _row(row, wording.fill(query), plain, wording.id)

    left = len(trained) - len(able)
    told = f"{left} of {len(trained)} training wordings have no plain form and are not asked"
    return Probe("training", tuple(put(*pair) for pair in dealt), notes=(told,) if left else ())


def _bare(row: HeldOutRow, token: str) -> ProbeRow:
    query = row.record.query
    return _row(row, f"{query}\n\n{BARE.format(token=token)}", query)


def _negative(row: HeldOutRow, token: str) -> ProbeRow:
    plain = _plain(row)
    return _row(row, f"{plain}\n\n{NEGATIVE.format(token=token)}", plain, row.worded.wording_id)


def _plain(row: HeldOutRow) -> str:
    if row.worded.plain is None:
        raise InputError(
            f"held-out row {row.worded.record.id} has no plain form: diversify the task again"
        )
    return row.worded.plain


def _row(row: HeldOutRow, asked: str, plain: str, wording_id: str | None = None) -> ProbeRow:
    record = row.record
    return ProbeRow(
        id=record.id,
        query=record.query,
        prompt=with_query(record, asked).prompt,
        plain=with_query(record, plain).prompt,
        expected=record.answer,
        wording_id=wording_id,
    )
