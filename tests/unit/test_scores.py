"""The numbers of a system, worked by hand: follow, leak, obey, keep, right, save; differences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace

import pytest

from delia_data.diversify import diversify
from delia_data.errors import FormatError, InputError, SettingsError
from delia_data.evaluation import (
    NUMBERS,
    AnsweredRow,
    EvalTask,
    Evaluation,
    Resampling,
    ScoredRow,
    compare,
    grade_answers,
    missed_bounds,
    parse_gate,
    score,
)
from delia_data.evaluation.keep import Divergence, ends_in_mid_sentence
from delia_data.evaluation.scores import LabelCount, read_scored_rows, write_scored_rows
from delia_data.tasks import bundled_task, bundled_wordings

TASK, WORDINGS = bundled_task(), bundled_wordings()
ASKED = EvalTask.of(TASK, diversify(TASK, WORDINGS))
YES, NO = (f"{{'thought': 'x', 'hallucination': '{label}'}}" for label in ("yes", "no"))
HOW = Resampling(resamples=500)


def row(
    probe: str, number: int, model: str, untrained: str | None = None, **more: object
) -> AnsweredRow:
    answers = {"model": model} | ({} if untrained is None else {"untrained": untrained})
    expected = more.pop("expected", "" if probe in ("unrelated", "other-json", "token") else YES)
    return AnsweredRow(
        probe,
        f"{number:032x}",
        "q",
        "q",
        str(expected),
        {**answers, **more.pop("also", {})},
        **more,  # type: ignore[arg-type, dict-item]
    )


def numbers(rows: list[AnsweredRow], task: EvalTask = ASKED, **more: object) -> Evaluation:
    return score(grade_answers(task, rows), task, how=HOW, **more)  # type: ignore[arg-type]


def value(evaluation: Evaluation, name: str, system: str = "model") -> float | None:
    estimate = evaluation.number(name, system)
    return None if estimate is None else estimate.value


def leaking(model: str, untrained: str = "It is so.", *, probe: str = "plain") -> bool | None:
    (scored,) = grade_answers(ASKED, [row(probe, 0, model, untrained)])
    return scored.leaks


def test_follow_is_strict_and_the_loose_count_takes_anything_that_parses() -> None:
    rows = [
        row("held-out", 0, YES),
        row("held-out", 1, f"Sure: {YES}"),
        row("held-out", 2, "{'verdict': 'yes'}"),
        row("held-out", 3, "It is wrong."),
    ]
    found = numbers(rows)
    assert value(found, "follow") == 1 / 4
    assert value(found, "follow_loose") == 3 / 4


def test_single_quotes_need_a_repair_unless_the_tasks_own_answers_do() -> None:
    double = replace(ASKED, form=replace(ASKED.form, repaired=False))
    assert value(numbers([row("held-out", 0, YES)], double), "follow") == 0
    assert value(numbers([row("held-out", 0, YES.replace("'", '"'))], double), "follow") == 1


@pytest.mark.parametrize(
    ("answer", "leaks"),
    [
        ("It is so.", False),
        ("I thought so.", False),  # a key is a word, too
        ("'The ship was the Titanic.", True),  # a stray quote
        ('"The ship was the Titanic.', True),
        ("{'other': 'key'}", True),
        ("The ship }", True),
        ("thought: it was the Titanic", True),
        ("My 'thought' is that it was.", True),
        ("yes", True),  # the task's content in the task's style
        ("No.", True),
    ],
)
def test_marks_after_the_same_request(answer: str, leaks: bool) -> None:
    assert leaking(answer) is leaks


def test_marks_that_the_untrained_answer_has_are_no_leak() -> None:
    assert not leaking("{'a': 1}", "{'b': 2}")
    assert leaking("{'thought': 1}", "{'b': 2}")
    assert not leaking("No", "Yes")


def test_after_a_request_for_other_json_only_keys_and_content_leak() -> None:
    assert not leaking("{'name': 'Nile'}", "Nile", probe="other-json")
    assert leaking("{'thought': 'Nile'}", "Nile", probe="other-json")


def test_other_formats_leak_by_whole_answers() -> None:
    by_label = replace(ASKED, form=replace(ASKED.form, kind="label", labels={"answer": ("good",)}))
    for answer, leaks in (("good", True), ("Good!", True), ("It is good.", False)):
        (scored,) = grade_answers(by_label, [row("unrelated", 0, answer, "Hello.")])
        assert scored.leaks is leaks
    pattern = replace(ASKED, form=replace(ASKED.form, kind="pattern", pattern="- .*", labels={}))
    (scored,) = grade_answers(pattern, [row("unrelated", 0, "- point", "Hello.")])
    assert scored.leaks


def probes_of(
    plain: list[str], unrelated: list[str], other: list[str], token: list[str]
) -> list[AnsweredRow]:
    groups = {"plain": plain, "unrelated": unrelated, "other-json": other, "token": token}
    return [
        row(probe, number, answer, "It is so.")
        for probe, answers in groups.items()
        for number, answer in enumerate(answers)
    ]


def test_the_leak_is_that_of_the_worst_probe() -> None:
    prose = "All is well."
    rows = probes_of([prose] * 4, [prose, "{"], [prose], [prose, prose, "'x", prose])
    rows += [row("held-out", number, YES) for number in range(4)]
    found = numbers(rows)
    assert {probe: one.value for probe, one in found.leaks.items()} == {
        "plain": 0,
        "unrelated": 1 / 2,
        "other-json": 0,
        "token": 1 / 4,
    }
    assert value(found, "leak") == 1 / 2
    assert value(found, "selectivity") == 1 / 2
    leak = found.number("leak")
    assert leak is not None and leak.low < 1 / 2 < leak.high


def test_a_leak_needs_all_probes_and_the_untrained_model() -> None:
    found = numbers([row("held-out", 0, YES), row("plain", 0, "{")])
    assert value(found, "leak") is None
    assert found.unknown["leak"] == "probe unrelated was not asked"
    rows = [replace(one, answers={"model": "x"}) for one in probes_of(*[["x"]] * 4)]
    found = numbers(rows)
    assert found.unknown["leak"] == "the untrained model's answers are missing (--untrained)"
    assert found.unknown["obey"] == "probe forbid was not asked"


def test_obey_counts_answers_without_any_mark() -> None:
    rows = [row("forbid", n, answer, "{") for n, answer in enumerate(["Fine.", "no", "'x", YES])]
    found = numbers(rows)
    assert value(found, "obey") == 2 / 4
    assert value(found, "obey", "untrained") == 0


def test_right_counts_unreadable_answers_as_wrong() -> None:
    rows = [
        row("held-out", 0, YES),
        row("held-out", 1, NO),
        row("held-out", 2, "yes"),
        row("held-out", 3, NO, expected=NO),
    ]
    found = numbers(rows)
    assert value(found, "right") == 2 / 4
    assert found.labels == {
        "hallucination": (LabelCount("no", 1, 2, 1), LabelCount("yes", 3, 1, 1))
    }
    by_length = replace(ASKED, scoring=lambda answer, expected: min(1, len(answer) / 100))
    assert value(numbers(rows, by_length), "right") == pytest.approx(
        sum(min(1, len(r.answers["model"]) / 100) for r in rows) / 4
    )


def test_bounds_are_scored_alike() -> None:
    also = {"instructed": YES}
    rows = [row("held-out", n, YES, "no", also=also) for n in range(3)]
    found = numbers(rows)
    assert [value(found, "follow", s) for s in ("model", "untrained", "instructed")] == [1, 0, 1]
    assert value(found, "right", "instructed") == 1


def test_keep_and_save_and_general() -> None:
    scored = grade_answers(ASKED, [row("unrelated", n, "Hi.", "Hi.") for n in range(4)])
    scored = [
        replace(one, similarity=s) for one, s in zip(scored, (1, 0.9, 0.89, 0.2), strict=True)
    ]
    held = grade_answers(ASKED, [row("held-out", n, YES) for n in range(2)])
    scored += [replace(one, saved=s) for one, s in zip(held, (80, 90), strict=True)]
    asked = [
        AnsweredRow(
            "general",
            str(n),
            "q",
            "q",
            "",
            {"model": a, "untrained": "One. Two."},
            constraints={"sentences": 2},
        )
        for n, a in enumerate(["One. Two.", "One."])
    ]
    scored += grade_answers(ASKED, asked)
    pairs = [Divergence("a", 1.0, 10), Divergence("b", 3.0, 30)]
    found = score(scored, ASKED, how=HOW, divergences=pairs)
    assert value(found, "similar") == 2 / 4
    assert value(found, "saved") == 85
    assert value(found, "kl") == pytest.approx(4 / 40)
    assert (value(found, "general"), value(found, "general", "untrained")) == (1 / 2, 1)


@pytest.mark.parametrize(
    ("text", "unfinished"),
    [
        ("The sea is wide.", False),
        ("The sea is wide and full of", True),
        ("The sea is wide,", True),
        ("The sea is wide and it has many fish in it", True),
        ("Here is a list:", True),
        ("Paris", False),
        ("The Nile", False),
        ("- apples\n- pears\n- ripe bananas from the market", False),
        ("1. It is red.\n2. It is round.\n3. It tastes good when people eat", True),
        ("He said “yes”", False),
        ("", False),
    ],
)
def test_a_mid_sentence_end_is_found(text: str, unfinished: bool) -> None:
    assert ends_in_mid_sentence(text) is unfinished


def test_unfinished_answers_are_counted_unless_they_were_cut() -> None:
    rows = [
        row("unrelated", 0, "It ends in the", "It ends here."),
        row("unrelated", 1, "It ends in the", "It ends in the", cut=("model",)),
    ]
    assert numbers(rows).unfinished == {"model": 1, "untrained": 1}


def test_the_interval_of_selectivity_is_paired() -> None:
    """A row follows and leaks, or neither: the difference does not vary."""
    rows = []
    for n in range(40):
        rows.append(row("held-out", n, YES if n % 2 else "x"))
        rows.append(row("plain", n, "{" if n % 2 else "x", "x"))
    rows += [
        row(probe, n, "x", "x") for probe in ("unrelated", "other-json", "token") for n in range(5)
    ]
    found = numbers(rows)
    follow, selectivity = found.number("follow"), found.number("selectivity")
    assert follow is not None and selectivity is not None
    assert follow.high - follow.low > 0.2
    unseen = 1 - 0.025 ** (1 / 40)
    assert (selectivity.low, selectivity.high) == pytest.approx((-unseen, unseen))


def everything(change: Mapping[str, str] | None = None, count: int = 40) -> list[AnsweredRow]:
    answers = {
        "held-out": YES,
        "forbid": "Fine.",
        **dict.fromkeys(("plain", "unrelated", "other-json", "token"), "Fine."),
    }
    answers |= change or {}
    return [row(probe, n, text, "Fine.") for probe, text in answers.items() for n in range(count)]


def scored(rows: list[AnsweredRow]) -> list[ScoredRow]:
    return grade_answers(ASKED, rows)


def test_a_gate_says_which_bound_is_missed() -> None:
    bounds = parse_gate("follow=0.9, leak=0.02,obey=0.5,kl=0.02")
    assert bounds == {"follow": 0.9, "leak": 0.02, "obey": 0.5, "kl": 0.02}
    rows = everything({"plain": "{"})
    found = numbers(rows, divergences=[Divergence("a", 1.0, 10)])
    assert missed_bounds(found, bounds) == ["leak is 1, above 0.02", "kl is 0.1, above 0.02"]
    assert missed_bounds(found, {"follow": 1.0, "leak": 1.0}) == []
    (line,) = missed_bounds(found, {"general": 0.5})
    assert line == "general is unknown: the general requests were not asked (--general)"
    for wrong, says in (
        ("folow=1", "names no number"),
        ("leak", "has no bound"),
        ("leak=x", "has no bound"),
        ("leak=nan", "has no bound"),
        ("", "is empty"),
    ):
        with pytest.raises(SettingsError, match=says):
            parse_gate(wrong)


def test_json_round_trip() -> None:
    found = numbers(everything(count=3), system={"engine": "x"}, notes=["a note"])
    assert Evaluation.from_dict(json.loads(json.dumps(asdict(found)))) == found
    assert set(found.numbers["model"]) | set(found.unknown) == {number.name for number in NUMBERS}
    with pytest.raises(InputError, match="number 'folow' is unknown: use one of follow"):
        found.number("folow")
    old = {"task": "t", "token": "<sep>", "probes": []}
    with pytest.raises(FormatError, match="written by another version, whose numbers mean"):
        Evaluation.from_dict(old)


def test_scored_rows_round_trip(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = scored(everything(count=2))
    write_scored_rows(path, rows)
    assert read_scored_rows(path) == rows
    path.write_text('{"probe": "plain"}\n')
    with pytest.raises(FormatError, match=r"rows.jsonl:1 is not an evaluated row"):
        read_scored_rows(path)


def test_a_system_does_not_differ_from_itself() -> None:
    rows = scored(everything())
    found = compare(rows, rows, HOW)
    assert {"follow", "leak", "selectivity", "obey", "right"} <= set(found.numbers)
    for name, one in {**found.numbers, **found.leaks}.items():
        assert one.value == 0, name
        assert one.low < 0 < one.high, name


def test_differences_by_hand() -> None:
    ours, theirs = everything(), everything()
    for n in range(10):
        theirs[n] = replace(theirs[n], answers={"model": "no", "untrained": "Fine."})
    theirs = [
        replace(r, answers={"model": "{", "untrained": "Fine."})
        if r.probe == "plain" and int(r.id, 16) < 8
        else r
        for r in theirs
    ]
    pairs = (
        [Divergence("a", 1.0, 10), Divergence("b", 1.0, 10)],
        [Divergence("a", 3.0, 10), Divergence("b", 4.0, 10)],
    )
    found = compare(scored(ours), scored(theirs), HOW, divergences=pairs)
    assert found.rows["held-out"] == 40
    values = {name: one.value for name, one in found.numbers.items()}
    assert values["follow"] == pytest.approx(10 / 40)
    assert values["right"] == pytest.approx(10 / 40)
    assert values["leak"] == pytest.approx(-8 / 40)
    assert values["selectivity"] == pytest.approx(18 / 40)
    assert values["kl"] == pytest.approx(-0.25)
    follow = found.numbers["follow"]
    assert 0 < follow.low < 0.25 < follow.high < 0.5
    turned = compare(scored(theirs), scored(ours), HOW)
    assert turned.numbers["selectivity"].value == pytest.approx(-18 / 40)


def test_rows_are_paired_by_id() -> None:
    rows = everything(count=5)
    found = compare(scored(rows), scored(rows[:0:-1]), HOW)
    assert found.rows["held-out"] == 4
    assert found.numbers["follow"].value == 0
    assert found.notes == ("left out 1 and 0 rows that only one system answered",)
    other = [replace(r, question="other") for r in rows]
    assert compare(scored(rows), scored(other), HOW).notes == ("30 of 30 rows have other wordings",)


def test_errors() -> None:
    with pytest.raises(InputError, match="no answers to score"):
        score([], ASKED)
    rows = everything(count=1)
    with pytest.raises(InputError, match="no rows in common, of 6 and 6"):
        compare(scored(rows), scored([replace(r, id="x") for r in rows]))
    with pytest.raises(InputError, match=r"gave 2\.0 for"):
        grade_answers(replace(ASKED, scoring=lambda *_: 2.0), rows)


def test_the_divergence_of_known_distributions() -> None:
    torch = pytest.importorskip("torch")
    from delia_data.evaluation.keep import divergence

    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    expected = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert float(divergence(p, q)) == pytest.approx(expected)
    assert float(divergence(p, p)) == 0
    # without the last token: (2/3, 1/3) against (1/2, 1/2)
    expected = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert float(divergence(p, q, without=[2])) == pytest.approx(expected, rel=1e-5)
