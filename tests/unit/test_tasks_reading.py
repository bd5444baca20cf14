"""Rows of any form become a task, or the first bad rows are named."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.errors import FormatError, InputError, TokenError
from delia_data.records import Message, Record
from delia_data.tasks import Task, inspect_task, leaking_words, make_task, read_task
from delia_data.tasks.reading import Template
from delia_data.tasks.task import without_leaks

ROWS: list[dict[str, Any]] = [
    {"id": i, "question": f"Question, {i}?\nIt has two lines.", "label": ["yes", "no"][i % 2]}
    for i in range(10)
]
OPTIONS = {
    "query": "{question}",
    "answer": "{label}",
    "instruction": "Say if it is so.",
    "stands_for": "one word",
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def queries(task: Task) -> list[str]:
    return [row.query for row in task.train]


# Where rows come from


def test_a_file_and_a_dataset_give_the_same_task(tmp_path: Path) -> None:
    task = read_task(write(tmp_path / "rows.csv", ROWS), **OPTIONS)
    assert task.name == "rows"
    assert queries(task) == [row["question"] for row in ROWS]
    assert [row.answer for row in task.train] == [row["label"] for row in ROWS]
    assert task.sha256 == read_task(datasets.Dataset.from_list(ROWS), name="rows", **OPTIONS).sha256


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        Record.pair("q", "a"),
    ],
)
def test_every_row_format(row: Any) -> None:
    task = read_task([row], instruction="Do it.", stands_for="one word")
    assert task.train == (Record.pair("q", "a"),)
    assert task.common_wording.text == "Do it. Reply in the <sep> format.\n\n{query}"
    assert task.scoring == "exact"


def test_system_turns_and_earlier_turns_stay() -> None:
    turns = [("system", "be brief"), ("user", "one"), ("assistant", "1"), ("user", "two\n\nDo.")]
    messages = [{"role": role, "content": text} for role, text in [*turns, ("assistant", "2")]]
    task = read_task([{"messages": messages}], last_paragraph=True, stands_for="a digit")
    assert task.instruction == "Do."
    kept = [*turns[:3], ("user", "two"), ("assistant", "2")]
    assert task.train[0].messages == tuple(Message(r, t) for r, t in kept)  # type: ignore[arg-type]


# Where the instruction is


def test_alpaca_rows_with_an_input_bring_their_instruction() -> None:
    rows = [{"instruction": "Do it.", "input": f"q{i}", "output": "a"} for i in range(3)]
    task = read_task(rows, stands_for="one word")
    assert task.instruction == "Do it."
    assert queries(task) == ["q0", "q1", "q2"]


def test_the_instruction_in_a_column() -> None:
    rows = [{**row, "prompt_text": "Say  if it is so."} for row in ROWS]
    options = {**OPTIONS, "instruction": None, "instruction_column": "prompt_text"}
    assert read_task(rows, **options).instruction == "Say if it is so."
    rows[3]["prompt_text"] = "Another one."
    with pytest.raises(InputError, match=r"column 'prompt_text' holds 2 instructions.*Another one"):
        read_task(rows, **options)
    rows[3]["prompt_text"] = ""
    with pytest.raises(InputError, match="1 of 10 rows have no instruction in column 'prompt_te"):
        read_task(rows, **options)
    with pytest.raises(FormatError, match="the row has no column 'elsewhere': it has id, quest"):
        read_task(rows, **{**options, "instruction_column": "elsewhere"})


def test_the_instruction_as_the_last_paragraph() -> None:
    rows = [{"prompt": f"Text {i}.\n\nMore.\n\nSum it up.", "completion": "a"} for i in range(2)]
    task = read_task(rows, last_paragraph=True, stands_for="one word")
    assert task.instruction == "Sum it up."
    assert queries(task) == ["Text 0.\n\nMore.", "Text 1.\n\nMore."]
    with pytest.raises(FormatError, match=r"1 of 1 rows cannot be used.*is one paragraph"):
        read_task([{"prompt": "Sum it up.", "completion": "a"}], last_paragraph=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"instruction": None}, r"no instruction was found in the rows: give one \(--instruction"),
        ({"instruction": "  "}, "the instruction is empty: say what is to be done"),
        ({"instruction_column": "id"}, "the instruction is given, in a column, or the last"),
        ({"answer": None}, "a query and an answer template belong together"),
        ({"test": ROWS, "test_share": 0.5}, "rows to test on, or a share to hold out, not both"),
        ({"test_share": 1.0}, "test share 1.0 is out of bounds"),
        ({"test_share": 0.01}, "leaves 0 held out"),
        ({"rows": 0}, "0 rows are too few"),
        ({"scoring": "bleu"}, "scoring 'bleu' is unknown: use one of json, exact, translation"),
        ({"scoring": "json"}, "scoring 'json' needs the keys"),
        ({"token": "a b"}, "token 'a b' is empty or has spaces"),
    ],
)
def test_invalid_arguments_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_task(ROWS, **{**OPTIONS, **changed})


# Templates


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tools": [{"name": "clock"}]}, "uses tools"),
        ({"image": "a.png"}, "holds an image"),
        ({"label": False}, "labeled as a bad answer"),
        ({"weight": 0}, "not to be trained on"),
        ({"chosen": "a", "rejected": "b"}, "a chosen and a rejected"),
    ],
)
def test_columns_with_a_meaning_that_templates_do_not_name(
    columns: dict[str, Any], message: str
) -> None:
    templates = {"query": "{text}", "answer": "{team}", "instruction": "Say.", "stands_for": "x"}
    rows = [{"text": "a", "team": "red"}, {"text": "b", "team": "blue", **columns}]
    with pytest.raises(FormatError, match=f"1 of 2 rows cannot be used: row 1: .*{message}"):
        read_task(rows, **templates)
    names = "".join(f"{{{name}}}" for name in columns)
    assert len(read_task(rows[1:], **{**templates, "query": f"{{text}}{names}"}).train) == 1


def test_system_prompts_and_reasoning_next_to_templates() -> None:
    row = {"text": "a", "team": "red", "system": "Be brief.", "reasoning": "Hm.", "n": 1}
    templates = {"query": "{text}", "answer": "{team}", "instruction": "Say.", "stands_for": "x"}
    task = read_task([row], **templates)
    assert [m.content for m in task.train[0].messages] == ["Be brief.", "a", "red"]
    assert task.read == {"changed": {"reasoning_removed": 1}, "ignored": ["n"]}
    task = read_task([row], **{**templates, "instruction": None}, instruction_column="system")
    assert [m.content for m in task.train[0].messages] == ["a", "red"]
    assert task.instruction == "Be brief."


def test_a_template_joins_columns() -> None:
    template = Template("{{{a b}}} and {n}: {x:y}", "query")
    assert template.columns == ("a b", "n", "x:y")
    row = {"a b": "one", "n": 2, "x:y": {"k": "ü"}}
    assert template.fill(row) == '{one} and 2: {"k": "ü"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label", r"answer template 'label' names no column: write \{label\} for what stands"),
        ("{label", "has a brace without its other half"),
        ("", "names no column"),
    ],
)
def test_invalid_template_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_task(ROWS, **{**OPTIONS, "answer": text})


def test_missing_column_is_named() -> None:
    with pytest.raises(FormatError) as caught:
        read_task(ROWS, **{**OPTIONS, "query": "{qestion}"})
    assert "10 of 10 rows cannot be used: row 0: " in str(caught.value)
    assert "names column 'qestion', and the row has id, question, label" in str(caught.value)
    assert str(caught.value).endswith("and 7 more")


def test_rows_without_an_answer_are_counted_and_named(tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS]
    for place in (1, 4, 5, 9):
        rows[place]["label"] = ""
    file = write(tmp_path / "rows.csv", rows)
    with pytest.raises(FormatError) as caught:
        read_task(file, **OPTIONS)
    message = str(caught.value)
    assert message.startswith("4 of 10 rows cannot be used: ")
    assert message.count("the row has no answer: it holds nothing under 'label'") == 3
    assert message.count("rows.csv:") == 3
    with pytest.raises(FormatError, match=r"1 of 1 rows cannot be used: .*must hold text"):
        read_task([{"instruction": "a", "input": "", "output": None}], instruction="Do.")
    with pytest.raises(FormatError, match="row 0: the row has no answer"):
        read_task([{"question": "a", "label": float("nan")}], **OPTIONS)
    given = {**OPTIONS, "instruction": None, "instruction_column": "how"}
    with pytest.raises(FormatError, match="row 0: column 'how' must hold text"):
        read_task([{"question": "a", "label": "b", "how": 4}], **given)


# What the token stands for


def test_keys_scoring_and_description_come_from_json_answers() -> None:
    rows = [{"q": str(i), "a": {"thought": f"t{i}", "ok": "yes"}} for i in range(4)]
    task = read_task(rows, query="{q}", answer="{a}", instruction="Judge it.")
    assert (task.keys, task.scoring) == (("thought", "ok"), "json")
    assert task.description == "a JSON object with the keys thought and ok"
    assert task.leaks >= {"thought", "ok", "json", "object", "keys"}
    quoted = [{"q": "1", "a": "{'thought': \"it's\", 'ok': 'no'}"}]
    assert read_task(quoted, query="{q}", answer="{a}", instruction="Do.").keys == task.keys


def test_the_description_comes_from_labels() -> None:
    task = read_task(ROWS, **{**OPTIONS, "stands_for": None})
    assert task.description == "one of no or yes, and nothing else"
    assert task.labels == ("no", "yes")
    assert task.leaks >= {"yes", "no"}
    rows = [{"q": str(i), "a": f"a free answer, number {i}"} for i in range(4)]
    with pytest.raises(InputError, match=r"free text, which does not tell .*--stands-for"):
        read_task(rows, query="{q}", answer="{a}", instruction="Do it.")


def test_the_request_is_the_instruction_without_the_format() -> None:
    instruction = "Say which it is. Reply with a JSON object. Use the key ok; be brief."
    task = read_task(
        [{"q": "1", "a": {"ok": "x"}}], query="{q}", answer="{a}", instruction=instruction
    )
    assert task.plain_request == "Say which it is. be brief."
    assert without_leaks("Reply in JSON.", frozenset({"json"})) == "Reply in JSON."
    assert leaking_words("a haiku") == {"json"}
    assert leaking_words("ein Wert: gut oder schlecht", labels=["gut", "mittel"]) == {"json", "gut"}


def test_a_scoring_of_the_users() -> None:
    def near(answer: str, expected: str) -> float:
        return float(answer[0] == expected[0])

    task = read_task(ROWS, **{**OPTIONS, "scoring": near})
    assert callable(task.scoring)
    assert inspect_task(task).facts["scored by"].endswith("near")


# The token


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"token": "Question,"}, "10 of 10 rows hold Question, already, as text"),
        ({"token": "so."}, "the instruction holds so. already, as text"),
        ({"token": "word"}, r"the description holds word already.*such as <sep:task>"),
    ],
)
def test_a_token_that_the_data_holds(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        read_task(ROWS, **{**OPTIONS, **changed})


def test_a_task_names_its_own_token() -> None:
    task = read_task(ROWS, **{**OPTIONS, "token": "<sep:table>"})
    assert task.common_wording.text.count("<sep:table>") == 1


# Splits


@settings(max_examples=30, deadline=None)
@given(count=st.integers(6, 30), share=st.sampled_from([0.25, 0.5]), seed=st.integers(0, 5))
def test_held_out_rows_do_not_depend_on_the_order(count: int, share: float, seed: int) -> None:
    rows = [Record.pair(f"q{i // 2}", f"a{i}") for i in range(count)]
    options: dict[str, Any] = {"instruction": "Do it.", "stands_for": "x"}
    one = read_task(rows, test_share=share, seed=seed, **options)
    other = read_task(rows[::-1], test_share=share, seed=seed, **options)
    assert set(one.test) == set(other.test)
    assert set(one.train) | set(one.test) == set(rows)
    assert not {row.query for row in one.train} & {row.query for row in one.test}
    assert len(one.train) + len(one.test) == count


def test_fewer_rows_are_among_more_rows() -> None:
    sizes = [set(queries(read_task(ROWS, rows=size, **OPTIONS))) for size in (2, 5, 9, 50)]
    assert [len(found) for found in sizes] == [2, 5, 9, 10]
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3]


# Inspection


def test_summary_of_a_task() -> None:
    rows = [*ROWS, ROWS[0], {**ROWS[1], "label": "maybe"}]
    task = read_task(rows, test=[ROWS[2]], request="Is it so?", **OPTIONS)
    found = inspect_task(task)
    assert found.facts["rows"] == 12
    assert found.facts["labels"] == {"maybe": 1, "no": 5, "yes": 6}
    assert found.facts["request"] == "Is it so?"
    assert found.shown[0] == (
        "Is it so? Reply in the <sep> format.\n\nQuestion, 0?\nIt has two lines.",
        "yes",
    )
    assert [note.split(":")[0] for note in found.notes] == [
        "2 rows are duplicates",
        "1 queries have several answers",
        "1 held-out queries are trained on as well",
    ]
    assert json.loads(json.dumps(found.as_dict()))["token"] == "<sep>"


def test_notes_on_irregularities() -> None:
    task = make_task(
        name="t",
        train=[Record.pair("q", '{"ok": 1}'), Record.pair("r", "no object")],
        instruction="Give the key.",
        keys=["ok"],
    )
    notes = " ".join(inspect_task(task).notes)
    assert "no rows are held out" in notes
    assert "the request names the format (key)" in notes
    assert "1 answers are not an object with the keys of the task" in notes
    with pytest.raises(InputError, match="the task has no rows to train on"):
        make_task(name="t", train=[], instruction="Do.")
