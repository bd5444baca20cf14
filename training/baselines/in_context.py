"""In-context learning: some rows of the task, with their answers, before the question."""

from __future__ import annotations

from collections.abc import Sequence

from delia_data.errors import InputError
from delia_data.ranking import rank
from delia_data.records import Message, Record
from delia_data.training.baselines.baseline import Baseline, Material, Prompt


def example_rows(material: Material) -> list[Record]:
    """The rows that are shown: the first in a keyed order, so that more add to fewer.

    Raises:
        InputError: There are not as many training rows as examples.
    """
    rows = sorted(material.task.train, key=lambda row: rank(material.seed, row.id, "examples"))
    if len(rows) < material.examples:
        raise InputError(
            f"{material.examples} examples are to be shown, and the task has {len(rows)} "
            "training rows: show fewer"
        )
    return rows[: material.examples]


def shown_before(
    examples: Sequence[Sequence[Message]], asked: Sequence[Message]
) -> tuple[Message, ...]:
    """Put examples as earlier turns before a question; a system turn stays first."""
    system = [turn for turn in asked[:1] if turn.role == "system"]
    turns = [turn for example in examples for turn in example if turn.role != "system"]
    return (*system, *turns, *asked[len(system) :])


def _prompt(material: Material) -> Prompt:
    wording = material.task.common_wording
    examples = [
        [Message("user", wording.fill(row.query)), Message("assistant", row.answer)]
        for row in example_rows(material)
    ]
    return lambda asked, _: shown_before(examples, asked)


IN_CONTEXT = Baseline(
    "in_context",
    "In-context learning",
    "no training; rows of the task with their answers stand before the question",
    prompt=_prompt,
)
