"""Fact-based tuning (Mecklenburg et al. 2024): what the format is, told in atomic facts.

The description of the format is taken apart into facts, each of which stands by itself, and every
fact is asked for in several ways. The paper's authors let a language model take documents apart;
a description of a format is one sentence, for which rules do:

    a JSON object with the keys thought and hallucination, where hallucination is yes or no
      ──▶ It stands for a JSON object with the keys thought and hallucination, where ...
      ──▶ It stands for a JSON object with the keys thought and hallucination.
      ──▶ In it, hallucination is yes or no.
      ──▶ It has the key thought.                           (one for each key)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from delia_data.errors import InputError
from delia_data.records import Record, write_record
from delia_data.tasks import Task
from delia_data.training.baselines.baseline import Baseline, Material, Training
from delia_data.training.baselines.step_matched import as_long_as_delia
from delia_data.training.settings import TrainSettings

_CLAUSE: Final = re.compile(
    r",\s+(?:where|in which|with)\s+|;\s+|,?\s+and\s+(?=\w+\s+(?:is|are)\b)"
)
_WHAT: Final = (
    "What does {token} stand for?",
    "What is the {token} format?",
    "Explain {token}.",
    "Tell me what {token} means.",
    "Someone asks for an answer in the {token} format. What do they want?",
    "Define {token} in one sentence.",
)
_PART: Final = (
    "What do you know about {about} in the {token} format?",
    "Tell me one fact about {about} in {token}.",
    "In the {token} format, what holds for {about}?",
    "What should I know about {about} when I write {token}?",
)
_KEY: Final = (
    "Does the {token} format have a key named {about}?",
    "Which key, beginning with {initial}, does {token} have?",
    "Is {about} a part of {token}?",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One atomic fact, and the questions that it answers.

    Attributes:
        text: The fact, a sentence that does not name the token: the answer to every question.
        questions: Questions that name the token.
    """

    text: str
    questions: tuple[str, ...]


def atomic_facts(task: Task) -> list[Fact]:
    """Take the description of the task's format apart.

    Raises:
        InputError: The task has no description.
    """
    description = task.description.strip().rstrip(".")
    if not description:
        raise InputError("the task does not say what its token stands for: give a description")
    whole, *clauses = (part.strip() for part in _CLAUSE.split(description))
    facts = [_fact(f"It stands for {description}.", _WHAT, task.token)]
    if clauses:
        facts.append(_fact(f"It stands for {whole}.", _WHAT, task.token))
    for clause in clauses:
        about = clause.split(" is ")[0].split(" are ")[0]
        facts.append(_fact(f"In it, {clause}.", _PART, task.token, about))
    facts += [_fact(f"It has the key {key}.", _KEY, task.token, key) for key in task.keys]
    return facts


def fact_rows(task: Task) -> list[dict[str, Any]]:
    """Rows to train on: each question with its fact."""
    rows = []
    for fact in atomic_facts(task):
        for question in fact.questions:
            record = Record.pair(question, fact.text)
            source = {"source": "task", "source_id": record.id, "wording_id": None}
            rows.append({**write_record(record), **source})
    return rows


def _fact(text: str, templates: tuple[str, ...], token: str, about: str = "") -> Fact:
    questions = (
        template.format(token=token, about=about, initial=about[:1]) for template in templates
    )
    return Fact(text, tuple(questions))


def _fact_based(material: Material, settings: TrainSettings) -> Training:
    return as_long_as_delia(tuple(fact_rows(material.task)), material, settings)


FACT_BASED = Baseline(
    "fact_based",
    "Fact based",
    "atomic facts of the format's description, for as many optimiser steps as DELIA",
    _fact_based,
    uses=frozenset({"rows", "ratio", "seed"}),
    trains_on="both",
)
