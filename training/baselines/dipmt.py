"""DiPMT (Ghazvininejad et al. 2023): dictionary entries and examples in the prompt.

Every text comes with the entries of its words, and so do some translated rows before it:

    Translate ... : The dog sleeps.
    In this text, the word "dog" means "hundur"; the word "sleeps" means "sefur".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from delia_data.errors import InputError
from delia_data.records import Message
from delia_data.training.baselines.baseline import Baseline, Material, Prompt
from delia_data.training.baselines.dictionary import learn_dictionary, words
from delia_data.training.baselines.in_context import example_rows, shown_before

_MOST: Final = 20  # entries in one prompt


def with_entries(question: str, text: str, dictionary: Mapping[str, Sequence[str]]) -> str:
    """Add the entries of a text's words to a question about it; none where no word has one."""
    known = [word for word in dict.fromkeys(words(text)) if word in dictionary][:_MOST]
    if not known:
        return question
    entries = "; ".join(f'the word "{word}" means {_or(dictionary[word])}' for word in known)
    return f"{question}\nIn this text, {entries}."


def _or(translations: Sequence[str]) -> str:
    return " or ".join(f'"{one}"' for one in translations)


def _prompt(material: Material) -> Prompt:
    task = material.task
    if task.scoring != "translation":
        raise InputError(f"task {task.name} is no translation, which alone has a dictionary")
    learnt = material.dictionary is None
    dictionary = learn_dictionary(task.train) if learnt else dict(material.dictionary or {})
    examples = [
        [
            Message(
                "user", with_entries(task.common_wording.fill(row.query), row.query, dictionary)
            ),
            Message("assistant", row.answer),
        ]
        for row in example_rows(material)
    ]

    def ask(asked: Sequence[Message], query: str) -> tuple[Message, ...]:
        *before, last = asked
        named = replace(last, content=with_entries(last.content, query, dictionary))
        return shown_before(examples, [*before, named])

    return ask


DIPMT = Baseline(
    "dipmt",
    "DiPMT",
    "no training; dictionary entries of the text's words, and examples, stand in the prompt",
    prompt=_prompt,
    kind="translation",
)
