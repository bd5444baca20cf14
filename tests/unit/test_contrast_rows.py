"""Contrast rows: exact numbers, the answers of the untrained model, resume, and what is dropped."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia, refused
from killing import lines_in, stop_when
from recording_engine import RecordingEngine
from wordings import TEST, TRAIN, contrast_task, verdicts

from delia_data.diversify import contrast_phrasings, fill_phrasing, make_task_folder
from delia_data.engines import MockEngine, Prices, Request, Sampling
from delia_data.errors import InputError, SettingsError
from delia_data.mixing import read_task_rows
from delia_data.mixing.task_rows import ContrastRow
from delia_data.outputs import read_manifest
from delia_data.sampling import Limits
from delia_data.tasks import Wording

# The plain forms of the wordings of tests/wordings.py: one by rule, one given.
PLAINS = ("You are a strict teacher; mark the paper below.\n{query}", "Does it hold? {query}")


def kinds_of(rows: tuple[ContrastRow, ...]) -> Counter[str]:
    return Counter(row.kind for row in rows)


@pytest.mark.parametrize(
    ("share", "kinds", "counts"),
    [
        (0.5, ("plain", "forbid", "mention"), {"plain": 2, "forbid": 2, "mention": 2}),
        (1, ("plain", "forbid", "mention"), {"plain": 4, "forbid": 4, "mention": 4}),
        (0.3, ("plain", "forbid", "mention"), {"plain": 2, "forbid": 1, "mention": 1}),
        (0.45, ("forbid",), {"forbid": 5}),
        (2.5, ("mention", "plain"), {"mention": 15, "plain": 15}),
        (1, ("forbid", "plain", "forbid"), {"forbid": 8, "plain": 4}),
    ],
)
def test_the_share_is_exact(
    tmp_path: Path, share: float, kinds: tuple[str, ...], counts: dict[str, int]
) -> None:
    made = contrast_task(tmp_path, contrast=share, contrast_kinds=kinds)
    assert kinds_of(made.rows.contrast) == counts
    assert made.manifest.rows == {"train": 12, "test": 5, "contrast": sum(counts.values())}
    assert made.manifest.details["contrast"]["kinds"] == counts


def test_each_row_has_the_answer_to_the_plain_request(tmp_path: Path) -> None:
    made = contrast_task(tmp_path, contrast=2)
    queries = {row.record.id: f"train query {i}" for i, row in enumerate(made.rows.train)}
    for row in made.rows.contrast:
        (turn,) = row.teacher_messages
        assert turn.content in {p.format(query=queries[row.task_row]) for p in PLAINS}
        assert "<sep>" not in turn.content
        assert row.record.answer == f"An answer to {turn.content!r}"
        asked = row.record.query
        if row.kind == "plain":
            assert (asked, row.phrasing) == (turn.content, None)
        else:
            assert row.phrasing in contrast_phrasings(row.kind, "train")  # type: ignore[arg-type]
            assert asked == fill_phrasing(row.phrasing, turn.content, "<sep>")
            assert asked.count("<sep>") == 1
    # 24 rows of 12 task rows: each task row twice, in both plain forms.
    used = [(row.task_row, row.wording_id) for row in made.rows.contrast]
    assert len(set(used)) == 24 and set(Counter(row for row, _ in used).values()) == {2}


def test_a_kind_with_two_turns_uses_each_phrasing_before_it_repeats_one(tmp_path: Path) -> None:
    made = contrast_task(tmp_path, contrast=2.5, contrast_kinds=("forbid", "plain", "forbid"))
    used = [row.phrasing for row in made.rows.contrast if row.kind == "forbid"]
    assert len(used) == len({*used}) == 20


def test_questions_about_the_token_are_answered_without_its_brackets(tmp_path: Path) -> None:
    made = contrast_task(tmp_path, contrast=1, contrast_kinds=("about",))
    for row in made.rows.contrast:
        (turn,) = row.teacher_messages
        assert row.phrasing in contrast_phrasings("about", "train")
        assert row.record.query == row.phrasing.replace("{token}", "<sep>")
        assert turn.content == row.phrasing.replace("{token}", "sep")


def test_rows_of_a_smaller_share_are_among_those_of_a_larger_one(tmp_path: Path) -> None:
    small, large = (contrast_task(tmp_path / f"{n}", contrast=n) for n in (0.5, 2))
    assert small.rows.contrast == large.rows.contrast[:6]
    task = verdicts()
    turned = replace(task, train=task.train[::-1])
    again = contrast_task(tmp_path / "turned", task=turned, contrast=0.5)
    assert again.rows.contrast == small.rows.contrast
    other = contrast_task(tmp_path / "other", contrast=0.5, seed=1)
    assert other.rows.contrast != small.rows.contrast


def test_the_folder_gives_the_rows_back(tmp_path: Path) -> None:
    made = contrast_task(tmp_path, contrast=0.5)
    read = read_task_rows(tmp_path)
    assert read.contrast == made.rows.contrast
    assert read.sha256 == made.rows.sha256 != replace(read, contrast=()).sha256
    assert read.contrast_by == {"name": "mock"}
    assert "contrast.jsonl" in read_manifest(tmp_path, verify=True).files
    line = json.loads((tmp_path / "contrast.jsonl").read_text().splitlines()[0])
    assert list(line) == [
        "messages",
        "kind",
        "phrasing",
        "wording_id",
        "task_row",
        "teacher_messages",
    ]
    again = contrast_task(tmp_path)  # without contrast rows, into the same folder
    assert again.rows.contrast == read_task_rows(tmp_path).contrast == ()
    assert "contrast.jsonl" not in read_manifest(tmp_path, verify=True).files


def test_cut_and_empty_answers_are_dropped_counted_and_replaced(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        """Answer rows 0 to 3 in 100 words, rows 4 and 5 with nothing, and name the token in 6."""
        number = int(request.messages[-1].content.split()[-1])
        if number == 6:
            return "As <sep> says."
        return "word " * 99 + "word" if number < 4 else "" if number < 6 else f"Answer {number}."

    made = contrast_task(
        tmp_path, MockEngine(answer), contrast=0.5, contrast_sampling=Sampling(max_tokens=20)
    )
    assert kinds_of(made.rows.contrast) == {"plain": 2, "forbid": 2, "mention": 2}
    numbers = [int(row.teacher_messages[0].content.split()[-1]) for row in made.rows.contrast]
    assert all(number > 6 for number in numbers)
    dropped = made.manifest.details["contrast"]["dropped"]
    lines = (tmp_path / "answers" / "written.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    assert sum(dropped.values()) == len(log) - 6 > 0
    assert dropped["truncated"] == sum(line["finish"] == "length" for line in log)
    assert set(dropped) <= {"truncated", "empty", "names_token"}


def test_too_few_usable_answers_are_an_error(tmp_path: Path) -> None:
    engine = RecordingEngine(lambda _: "never ending " * 50)
    with pytest.raises(InputError) as error:
        contrast_task(
            tmp_path, engine.engine, contrast=0.5, contrast_sampling=Sampling(max_tokens=10)
        )
    # 4 tries a row and 32 more.
    assert str(error.value) == (
        "0 of 6 answers for contrast rows can be used (56 truncated): allow longer ones "
        "(--contrast-max-tokens) in a new folder, or use another model"
    )
    assert len(engine.requests) == 56
    assert not (tmp_path / "FINISHED").exists()


def test_a_rerun_asks_nothing_and_more_rows_only_what_is_missing(tmp_path: Path) -> None:
    first, again, more = RecordingEngine(), RecordingEngine(), RecordingEngine()
    made = contrast_task(tmp_path, first.engine, contrast=0.5)
    assert contrast_task(tmp_path, again.engine, contrast=0.5).rows == made.rows
    assert (len(first.requests), len(again.requests)) == (6, 0)
    grown = contrast_task(tmp_path, more.engine, contrast=1)
    assert grown.rows.contrast[:6] == made.rows.contrast
    assert len(more.requests) == 6
    with pytest.raises(SettingsError, match=r"sampling.max_tokens was 512 and is now 9"):
        contrast_task(tmp_path, contrast=1, contrast_sampling=Sampling(max_tokens=9))
    assert contrast_task(tmp_path, again.engine, contrast=0.5).rows == made.rows
    assert not again.requests


SCRIPT = """
import sys
from pathlib import Path
from wordings import contrast_task
from recording_engine import RecordingEngine
engine = RecordingEngine()
engine.engine.stall_s = 0.05
contrast_task(Path(sys.argv[1]), engine.engine, contrast=2)
"""


def test_a_kill_takes_nothing_that_was_answered(tmp_path: Path) -> None:
    log = tmp_path / "task" / "answers" / "written.jsonl"
    stop_when(lines_in(log, 5), "-c", SCRIPT, tmp_path / "task")
    done = sum(line.endswith(b"}") for line in log.read_bytes().splitlines())
    assert 5 <= done < 24
    engine = RecordingEngine()
    made = contrast_task(tmp_path / "task", engine.engine, contrast=2)
    assert len(engine.requests) == 24 - done
    assert made.rows == contrast_task(tmp_path / "unbroken", contrast=2).rows
    files = ["contrast.jsonl", "train.jsonl", "wordings.jsonl"]
    for file in files:
        whole = (tmp_path / "unbroken" / file).read_bytes()
        assert (tmp_path / "task" / file).read_bytes() == whole


def test_the_budget_counts_every_run(tmp_path: Path) -> None:
    """An answer of the mock engine costs 1 dollar a word here, and prompts nothing."""
    engine = RecordingEngine(lambda _: "two words", prices=Prices(0.0, 1.0))
    sampling = Sampling(max_tokens=2)
    given: dict[str, Any] = {"contrast": 0.5, "contrast_sampling": sampling}
    for dollars, answers in ((5.0, 2), (9.0, 4)):
        with pytest.raises(InputError, match=rf"budget is spent after {answers} answers .* raise"):
            contrast_task(tmp_path, engine.engine, limits=Limits(dollars), **given)
        assert len(engine.requests) == answers
    made = contrast_task(tmp_path, engine.engine, limits=Limits(12.0), **given)
    assert len(made.rows.contrast) == len(engine.requests) == 6
    assert made.manifest.details["contrast"]["cost_usd"] == 12.0
    unknown = RecordingEngine(prices=None).engine
    with pytest.raises(InputError, match="a budget in dollars needs prices"):
        contrast_task(tmp_path / "b", unknown, limits=Limits(12.0), **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"contrast": -1}, "contrast -1 is out of range: give 0 or more"),
        ({"contrast": float("nan")}, "contrast nan is out of range"),
        ({"contrast": 0.01}, "contrast 0.01 of 12 training rows is no row: give more"),
        ({"contrast": 1, "contrast_kinds": ("plain", "deny")}, "kinds plain, deny: give some of"),
        ({"contrast": 1, "contrast_kinds": ()}, "kinds none: give some of plain, forbid"),
        ({"contrast": 1, "contrast_kinds": ()}, "contrast kinds none"),
        ({"contrast": 1, "engine": None}, "contrast rows need an engine: give engine="),
        ({"held_out_share": 2}, "held-out share 2 is out of bounds: give above 0, below 1"),
        (
            {"contrast": 1, "wordings": [Wording("<sep> {query} is it so?"), *TEST]},
            "none of 3 wordings is for training and has a form without <sep>",
        ),
    ],
)
def test_what_cannot_be_made(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    options = {"wordings": [*TRAIN, *TEST], "engine": MockEngine(), "embed": False, **given}
    with pytest.raises(InputError, match=message):
        make_task_folder(verdicts(), tmp_path / "task", **options)
    assert not (tmp_path / "task" / "FINISHED").exists()


def test_the_command(delia: Delia, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "question,label\n" + "".join(f"q {i},l{i}\n" for i in range(8))
    )
    (tmp_path / "wordings.txt").write_text("Judge this: {query} Reply in <sep>.\nDecide, as <sep>.")
    options = ["--task", tmp_path / "rows.csv", "--query", "{question}", "--answer", "{label}"]
    options += ["--instruction", "Judge it.", "--stands-for", "one word"]
    options += ["--wordings-from", tmp_path / "wordings.txt"]
    options += ["--no-embeddings", "--engine", "mock", "--contrast", 0.5]
    out = tmp_path / "task"
    refused(delia("diversify", out, *options, "--contrast-kinds", "plain,no"), "give some of plain")
    result = delia("diversify", out, *options, "--contrast-kinds", "plain, forbid")
    assert result.code == 0, result.err
    assert "4 contrast rows (2 forbid, 2 plain); answers dropped: none; 48 tokens" in result.out
    assert kinds_of(read_task_rows(out).contrast) == {"plain": 2, "forbid": 2}
    refused(delia("diversify", tmp_path / "b", *options, "--budget-tokens", 10), "budget is spent")
