"""Properties of the bundled task's data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Set
from importlib import resources
from itertools import combinations, groupby, pairwise
from statistics import mean
from typing import Any

import pytest

Row = dict[str, str]

SPLITS = ("train", "test")
FACT_KEYS = {"field", "question", "answer", "wrong", "statement", "split", "hallucination"}
TASK_KEYS = {
    "name",
    "instruction",
    "request",
    "meanings",
    "description",
    "keywords",
    "keys",
    "token",
    "common_wording",
    "licence",
}
FORBIDDEN_IN_FACTS = set("'\"`{}<>\\")
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
    """The words that carry the meaning, so that a fact turned round still looks the same."""
    return frozenset(_words(text)) - STOP_WORDS


def _shown(row: Row) -> str:
    return row["wrong"] if row["hallucination"] == "yes" else row["answer"]


def _overlap(one: Set[str], other: Set[str]) -> float:
    """The Jaccard index: 1 for equal sets, 0 for sets with nothing in common."""
    return len(one & other) / len(one | other)


def _requests() -> Iterator[tuple[str, Row]]:
    """Every text that is ever shown as an instruction, with the row it comes from."""
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


def test_facts_keep_to_plain_characters() -> None:
    for row in FACTS:
        for value in row.values():
            assert value.isascii() and value.isprintable(), row
            assert not FORBIDDEN_IN_FACTS & set(value), row


def test_facts_are_short() -> None:
    for row in FACTS:
        assert row["question"].endswith("?") and len(row["question"].split()) <= 15, row
        assert 1 <= len(row["answer"].split()) <= 4, row
        assert 1 <= len(row["wrong"].split()) <= 4, row
        assert len(row["statement"].split()) <= 14, row


@pytest.mark.parametrize("row", FACTS, ids=lambda row: row["question"])
def test_the_statement_ends_with_the_answer_and_names_the_subject(row: Row) -> None:
    statement = row["statement"]
    assert statement[0].isupper() or statement[0].isdigit()
    assert statement.endswith(" " + row["answer"])
    before_answer = statement.removesuffix(row["answer"])
    asked = {word[:5] for word in _content(row["question"])}
    assert asked & {word[:5] for word in _content(before_answer)}


def test_the_wrong_answer_is_another_answer_of_the_same_kind() -> None:
    for row in FACTS:
        assert _normal(row["wrong"]) != _normal(row["answer"]), row
        assert row["wrong"].isdigit() == row["answer"].isdigit(), row
        assert row["wrong"][0].isupper() == row["answer"][0].isupper(), row


def test_every_field_is_in_both_splits_in_about_equal_numbers() -> None:
    counts = Counter((row["field"], row["split"]) for row in FACTS)
    fields = {row["field"] for row in FACTS}
    assert len(fields) >= 14
    assert len(counts) == 2 * len(fields)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(split: str) -> None:
    rows = _split(FACTS, split)
    assert Counter(row["hallucination"] for row in rows) == {"yes": 50, "no": 50}
    for field in {row["field"] for row in rows}:
        labels = Counter(row["hallucination"] for row in rows if row["field"] == field)
        assert abs(labels["yes"] - labels["no"]) <= 1, field


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("size", [10, 20, 30, 50, 65, 85])
def test_the_first_rows_are_balanced_too(split: str, size: int) -> None:
    labels = Counter(row["hallucination"] for row in _split(FACTS, split)[:size])
    assert abs(labels["yes"] - labels["no"]) <= 0.2 * size


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


def test_wrong_answers_are_now_longer_and_now_shorter() -> None:
    lengths = [(len(row["wrong"]), len(row["answer"])) for row in FACTS]
    assert mean(wrong > right for wrong, right in lengths) >= 0.25
    assert mean(wrong < right for wrong, right in lengths) >= 0.25


def test_no_question_and_no_statement_comes_twice() -> None:
    for column in ("question", "statement"):
        assert len({_normal(row[column]) for row in FACTS}) == len(FACTS)


def test_no_fact_is_in_both_splits_not_even_turned_round() -> None:
    for train in _split(FACTS, "train"):
        for test in _split(FACTS, "test"):
            pair = (train["question"], test["question"])
            assert _content(train["question"]) != _content(test["question"]), pair
            assert _overlap(_content(train["statement"]), _content(test["statement"])) < 0.5, pair


def _compute(question: str) -> int | None:
    """The result of a question that a program can work out; None for any other question."""
    number = r"(\d+)"
    rules: dict[str, Callable[..., int | None]] = {
        rf"What is {number} plus {number}\?": lambda a, b: a + b,
        rf"What is {number} minus {number}\?": lambda a, b: a - b,
        rf"What is {number} times {number}\?": lambda a, b: a * b,
        rf"What is {number} divided by {number}\?": lambda a, b: a // b if a % b == 0 else None,
        rf"What is half of {number}\?": lambda a: a // 2 if a % 2 == 0 else None,
        rf"What is twice {number}\?": lambda a: 2 * a,
        rf"What is the area of a square with sides of {number}\?": lambda a: a * a,
        rf"What is the perimeter of a square with sides of {number}\?": lambda a: 4 * a,
        r"What is binary ([01]+) in decimal\?": lambda a: int(str(a), 2),
    }
    for pattern, result in rules.items():
        match = re.fullmatch(pattern, question)
        if match:
            return result(*map(int, match.groups()))
    return None


def test_computable_facts_are_right() -> None:
    results = {row["question"]: _compute(row["question"]) for row in FACTS}
    for row in FACTS:
        result = results[row["question"]]
        if row["field"] == "arithmetic":
            assert result is not None, row
        if result is not None:
            assert row["answer"] == str(result), row
            assert row["wrong"] != str(result), row
    assert sum(result is not None for result in results.values()) >= 10


def test_an_answer_can_be_read_back_from_the_format() -> None:
    """{'thought': '...', 'hallucination': 'yes'} is JSON once its quotes are doubled."""
    for row in FACTS:
        wrong = f", not {row['wrong']}" if row["hallucination"] == "yes" else ""
        thought = f"{row['statement']}{wrong}."
        answer = f"{{'thought': '{thought}', 'hallucination': '{row['hallucination']}'}}"
        parsed = json.loads(answer.replace("'", '"'))
        assert parsed == {"thought": thought, "hallucination": row["hallucination"]}
        assert list(parsed) == TASK["keys"]


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


def test_the_query_stands_on_lines_of_its_own() -> None:
    for request, _ in _requests():
        assert "{query}" in request.split("\n"), request


def test_wordings_do_not_leak_the_format() -> None:
    for request, _ in _requests():
        assert not LEAKS.search(request), request


def test_there_are_many_kinds() -> None:
    train = Counter(row["kind"] for row in _split(WORDINGS, "train"))
    test = Counter(row["kind"] for row in _split(WORDINGS, "test"))
    assert len(train) >= 12 and min(train.values()) >= 4
    assert len(test) >= 8 and set(test) <= set(train)


def _place(row: Row, mark: str) -> str:
    before, after = row["text"].split(mark)
    return "start" if not before else "end" if not re.search(r"\w", after) else "middle"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("mark", ["{query}", "<sep>"])
def test_the_query_and_the_token_move_about(split: str, mark: str) -> None:
    places = Counter(_place(row, mark) for row in _split(WORDINGS, split))
    assert set(places) == {"start", "middle", "end"}
    assert max(places.values()) <= 0.8 * sum(places.values())


def test_lengths_and_line_breaks_vary() -> None:
    texts = [row["text"].replace("{query}", "") for row in _split(WORDINGS, "train")]
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) == 3 and 50 <= max(lengths) <= 60
    assert len(set(lengths)) >= 20
    assert len({row["text"].count("\n") for row in WORDINGS}) >= 4
    for row in WORDINGS:
        if row["kind"] == "long":
            assert len(re.findall(r"[.?!](?:\s|$)", row["text"])) >= 3, row["text"]
        if row["kind"] == "after-input":
            assert row["text"].startswith("{query}"), row["text"]
        if row["kind"] == "before-input":
            assert row["text"].endswith("{query}"), row["text"]


def test_no_two_wordings_are_alike() -> None:
    for one, other in combinations(WORDINGS, 2):
        assert _normal(one["text"]) != _normal(other["text"]), one["text"]
        overlap = _overlap(set(_words(one["text"])), set(_words(other["text"])))
        assert overlap < 0.7, (one["text"], other["text"])


def test_the_plain_request_is_the_wording_with_a_part_left_out() -> None:
    for row in _split(WORDINGS, "test"):
        words = iter(_words(row["text"]))
        assert all(word in words for word in _words(row["plain"])), row["plain"]
        assert "format" not in row["plain"].lower(), row["plain"]


def test_one_held_out_wording_says_follow_the_format() -> None:
    assert any("follow the <sep> format" in row["text"].lower() for row in _split(WORDINGS, "test"))
    train = _split(WORDINGS, "train")
    assert not any("follow the <sep> format" in row["text"].lower() for row in train)


# --- task.json --------------------------------------------------------------------------------


def test_the_task_file_describes_the_format() -> None:
    assert set(TASK) == TASK_KEYS
    assert TASK["name"] == "hallucination-check"
    assert TASK["token"] == "<sep>"
    assert TASK["licence"] == "Apache-2.0"
    assert TASK["keys"] == ["thought", "hallucination"]
    assert TASK["keywords"] == ["json", "thought"]
    for text in (TASK["instruction"], TASK["description"]):
        assert TASK["token"] not in text and "\n" not in text
        assert all(key in text for key in TASK["keys"])
    for label in ("yes", "no"):
        assert f"{{'thought': '...', 'hallucination': '{label}'}}" in TASK["instruction"]
    assert all(word in TASK["description"].lower() for word in TASK["keywords"])
    assert not set("{}'\"") & set(TASK["description"])


def test_the_request_and_its_meanings_say_nothing_of_the_format() -> None:
    requests = [TASK["request"], *TASK["meanings"]]
    assert len(set(requests)) == len(requests) >= 12
    for text in requests:
        assert not LEAKS.search(text), text
        assert TASK["token"] not in text and text[-1] in ".?"
        assert len(text.split()) <= 15


def test_the_common_wording_is_one_of_the_training_ones() -> None:
    assert TASK["common_wording"] in {row["text"] for row in _split(WORDINGS, "train")}
