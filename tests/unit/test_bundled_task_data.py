"""Properties of the bundled task's data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Set
from importlib import resources
from itertools import groupby, pairwise
from statistics import mean
from typing import Any

import pytest

Row = dict[str, str]

SPLITS = ("train", "test")
FACT_KEYS = {"field", "question", "answer", "wrong", "statement", "split", "hallucination"}
LEAKS = re.compile(
    r"json|\bdict|\bkey|brac(?:e|ket)|\bfields?\b|thought|hallucinat|quot(?:e|ation)|curly|\bobjects?\b"
    r"|\b(?:yes|no)\b",
    re.IGNORECASE,
)
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to is are was were do does did which what who how many it its by for "
        "and we with most one have has that from",
    )
)


def _read(name: str) -> str:
    root = resources.files("delia_data") / "tasks" / "data" / "hallucination_check"
    return (root / name).read_text(encoding="utf-8")


def _rows(name: str) -> list[Row]:
    return [json.loads(line) for line in _read(name).splitlines()]


FACTS = _rows("facts.jsonl")
WORDINGS = _rows("wordings.jsonl")
TASK: dict[str, Any] = json.loads(_read("task.json"))


def _split(rows: list[Row], split: str) -> list[Row]:
    return [row for row in rows if row["split"] == split]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _normal(text: str) -> str:
    return " ".join(_words(text))


def _content(text: str) -> frozenset[str]:
    """Return the words with meaning, so that a rephrased fact gives the same words."""
    return frozenset(_words(text)) - STOP_WORDS


def _shown(row: Row) -> str:
    return row["wrong"] if row["hallucination"] == "yes" else row["answer"]


def _overlap(one: Set[str], other: Set[str]) -> float:
    """Return the Jaccard index of two sets."""
    return len(one & other) / len(one | other)


def _requests() -> Iterator[tuple[str, Row]]:
    """Return all texts that are used as instructions, with their rows."""
    for row in WORDINGS:
        yield row["text"], row
        if "plain" in row:
            yield row["plain"], row


# --- facts ------------------------------------------------------------------------------------


def test_facts_have_the_asked_shape() -> None:
    assert len(FACTS) == 200
    for row in FACTS:
        assert set(row) == FACT_KEYS
        assert all(isinstance(value, str) and value == value.strip() for value in row.values())
        assert row["hallucination"] in {"yes", "no"}
    assert Counter(row["split"] for row in FACTS) == {"train": 100, "test": 100}


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(split: str) -> None:
    rows = _split(FACTS, split)
    assert Counter(row["hallucination"] for row in rows) == {"yes": 50, "no": 50}
    for field in {row["field"] for row in rows}:
        labels = Counter(row["hallucination"] for row in rows if row["field"] == field)
        assert abs(labels["yes"] - labels["no"]) <= 1, field


@pytest.mark.parametrize("column", ["hallucination", "split"])
def test_position_does_not_predict_the_label(column: str) -> None:
    values = [row[column] for row in FACTS]
    changes = sum(a != b for a, b in pairwise(values))
    assert 80 <= changes <= 120
    assert max(len(list(run)) for _, run in groupby(values)) <= 10
    for period in range(2, 11):
        for phase in range(period):
            share = mean(value == values[0] for value in values[phase::period])
            assert 0.2 <= share <= 0.8, (period, phase)


@pytest.mark.parametrize("split", SPLITS)
def test_form_of_the_answer_does_not_predict_the_label(split: str) -> None:
    looks: dict[str, Callable[[str], float]] = {
        "characters / 20": lambda text: len(text) / 20,
        "words / 3": lambda text: len(text.split()) / 3,
        "has a digit": lambda text: any(char.isdigit() for char in text),
        "starts upper case": lambda text: text[0].isupper(),
        "starts with the": lambda text: text.startswith("the "),
        "ends with s": lambda text: text.endswith("s"),
    }
    for name, look in looks.items():
        means = [
            mean(look(_shown(row)) for row in _split(FACTS, split) if row["hallucination"] == label)
            for label in ("yes", "no")
        ]
        assert abs(means[0] - means[1]) <= 0.1, (name, means)


def test_no_question_and_no_statement_comes_twice() -> None:
    for column in ("question", "statement"):
        assert len({_normal(row[column]) for row in FACTS}) == len(FACTS)


def test_no_fact_is_in_both_splits_not_even_turned_round() -> None:
    for train in _split(FACTS, "train"):
        for test in _split(FACTS, "test"):
            pair = (train["question"], test["question"])
            assert _content(train["question"]) != _content(test["question"]), pair
            assert _overlap(_content(train["statement"]), _content(test["statement"])) < 0.5, pair


# --- wordings ---------------------------------------------------------------------------------


def test_wordings_have_the_asked_shape() -> None:
    assert Counter(row["split"] for row in WORDINGS) == {"train": 72, "test": 16}
    for row in WORDINGS:
        extra = {"plain"} if row["split"] == "test" else set()
        assert set(row) == {"text", "kind", "split"} | extra
        assert row["text"].isascii()


def test_every_request_holds_the_query_once_and_the_token_only_where_it_should() -> None:
    for request, row in _requests():
        assert request.count("{query}") == 1, request
        assert not set("{}") & set(request.replace("{query}", "")), request
        assert request.count("<sep>") == (1 if request == row["text"] else 0), request
        assert not set("<>") & set(request.replace("<sep>", "")), request
        assert request == request.strip() and "\n\n\n" not in request, request


def test_wordings_do_not_leak_the_format() -> None:
    for request, _ in _requests():
        assert not LEAKS.search(request), request


# --- task.json --------------------------------------------------------------------------------


def test_the_request_and_its_meanings_say_nothing_of_the_format() -> None:
    requests = [TASK["request"], *TASK["meanings"]]
    assert len(set(requests)) == len(requests) >= 12
    for text in requests:
        assert not LEAKS.search(text), text
        assert TASK["token"] not in text and text[-1] in ".?"
        assert len(text.split()) <= 15


def test_the_common_wording_is_one_of_the_training_ones() -> None:
    assert TASK["common_wording"] in {row["text"] for row in _split(WORDINGS, "train")}
