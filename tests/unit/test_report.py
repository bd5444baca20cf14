"""The report: one page that stands alone, says no more than its numbers, and never varies."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import Page

from delia_data.errors import InputError
from delia_data.evaluation import BlockDistances, QuickstartReport, write_report
from delia_data.evaluation.figures import block_curves, loss_curve, share_bars
from delia_data.evaluation.summary import summarise

pytest.importorskip("matplotlib")

EVIL = "<script>alert('1')</script>&\"$model \x00\ud800"
GAIN = {
    "before_with": (1, 24),
    "before_without": (0, 24),
    "after_with": (22, 24),
    "after_without": (1, 24),
}


def distances(keyword: str, *, factor: float = 1.0, blocks: int = 4) -> BlockDistances:
    l2 = tuple(factor * (100.0 + block) for block in range(blocks))
    return BlockDistances(keyword, l2, tuple(value / 200 for value in l2))


def make_report(**changes: Any) -> QuickstartReport:
    given: dict[str, Any] = {
        "model": "tiny",
        "settings": {"ratio": 5, "lora": {"rank": 16, "targets": ["q", "v"]}, "cut": None},
        "accounting": {"rows": {"task": 100, "cache": 1500}, "dropped": {"cut off": 7}},
        "losses": [{"step": step, "loss": 2.0 / step} for step in range(1, 6)],
        "distances_before": [distances("json"), distances("thought")],
        "distances_after": [distances("json", factor=0.9), distances("thought", factor=1.2)],
        "answers": [
            {
                "question": f"Question {number}?",
                "before_with": "I don't know",
                "before_without": "It is so.",
                "after_with": "{'thought': 'It isn't so', 'answer': 'no'}",
                "after_without": "",
            }
            for number in range(6)
        ],
        "shares": GAIN,
        "timings": {"sample": 61.25, "train": 10.0},
        "versions": {"torch": "2.13.0"},
        "keys": ("thought", "answer"),
    }
    return QuickstartReport(**{**given, **changes})


def write(tmp_path: Path, report: QuickstartReport) -> str:
    path = tmp_path / "folder" / "report.html"
    write_report(path, report)
    return path.read_text(encoding="utf-8")


def test_the_page_is_whole(tmp_path: Path) -> None:
    text = write(tmp_path, make_report())
    page = Page(text)

    assert page.open == []
    assert page.count["svg"] == page.count["figure"] == 4
    assert page.count["article"] == 6
    assert page.count["details"] == 1
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    words = " ".join("".join(page.words).split())
    for said in (
        "lora.rank",
        "q, v",
        "1,500",
        "1,600",
        "61.2 s",
        "71.2 s",
        "Question 5?",
        "2.13.0",
    ):
        assert said in words
    assert "{'thought': 'It isn't so', 'answer': 'no'}" in words
    assert "(empty)" in words
    assert page.words.count("in the format") == 6
    assert page.words.count("not in the format") == 18


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    text = write(tmp_path, make_report())
    page = Page(text)

    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    assert not {"script", "img", "iframe", "object", "embed"} & set(page.count)
    links = [v for name, v in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    defined = {value for name, value in page.attributes if name == "id"}
    used = {link[1:] for link in links if link.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert used <= defined


def test_every_value_is_escaped(tmp_path: Path) -> None:
    answer = dict.fromkeys(
        ("question", "before_with", "before_without", "after_with", "after_without"), EVIL
    )
    report = make_report(
        model=EVIL,
        token=EVIL,
        settings={EVIL: {EVIL: [EVIL, {EVIL: EVIL}]}},
        accounting={"rows": {EVIL: 1}, "dropped": {EVIL: 2}},
        distances_before=[distances(EVIL)],
        distances_after=[distances(EVIL)],
        answers=[answer],
        timings={EVIL: 1.0},
        versions={EVIL: EVIL},
    )

    text = write(tmp_path, report)
    page = Page(text)

    assert page.open == []
    assert page.count["script"] == 0
    assert "\x00" not in text
    assert "$model" in "".join(page.words)
    assert text.count("&lt;script&gt;") > 20


def test_equal_reports_give_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1.html", tmp_path / "2.html"
    write_report(first, make_report())
    write_report(second, make_report())

    assert first.read_bytes() == second.read_bytes()


def test_figures_do_not_depend_on_the_users_style() -> None:
    import matplotlib as mpl

    points = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    plain = loss_curve(points).svg()
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert loss_curve(points).svg() == plain
        assert mpl.rcParams["font.size"] == 30


def test_figures_take_their_colours_from_the_page() -> None:
    drawings = [
        loss_curve([{"step": step, "loss": 1.0} for step in range(100)]).svg(),
        share_bars(GAIN, "<sep>").svg(),
        block_curves([distances("json")], [distances("json")], "l2").svg(),
        block_curves([distances("模型")], [distances("模型")], "cosine").svg(),
    ]

    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b", drawing)
        assert "var(--s1)" in drawing
        assert "var(--ink)" in drawing
    assert "&lt;sep&gt;" in drawings[1]
    assert "22/24" in drawings[1]
    assert "“json” before" in drawings[2]
    assert "“模型” after" in drawings[3]


@pytest.mark.parametrize("losses", [[], [math.nan], [math.inf, 1.0], [1.0, math.nan, 2.0]])
def test_losses_that_are_no_numbers_are_drawn(losses: list[float]) -> None:
    points = [{"step": step, "loss": loss} for step, loss in enumerate(losses)]
    assert loss_curve(points).svg().startswith("<svg")


def test_the_loss_is_drawn_by_source() -> None:
    points = [
        {"step": 1, "loss": 2.0, "loss_task": 3.0, "loss_pairs": 1.0},
        {"step": 2, "loss": 1.5, "loss_pairs": 1.5},
        {"step": 3, "loss": 1.0, "loss_task": 1.0},
    ]
    drawing = loss_curve(points)

    assert (
        drawing.details == "task rows: 3 at step 1, 1 at step 3; pairs: 1 at step 1, 1.5 at step 2"
    )
    assert "all rows" not in drawing.svg()
    assert "all rows: 2 at step 1" in loss_curve([{"step": 1, "loss": 2.0}]).details


def test_one_block_is_drawn_as_a_point() -> None:
    one = [distances("json", blocks=1)]

    both, after = (block_curves(before, one, "l2").svg() for before in (one, []))
    assert both.count("<use") > after.count("<use")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    report = make_report(
        accounting={"rows": {}, "dropped": {"cut off": 0}},
        losses=[],
        distances_before=[],
        distances_after=[],
        answers=[],
        settings={},
        keys=(),
    )

    page = Page(write(tmp_path, report))

    assert page.count["svg"] == 1
    words = "".join(page.words)
    for said in ("not measured", "No answers", "No row was used", "No row was dropped"):
        assert said in words


def test_answers_are_not_judged_without_keys(tmp_path: Path) -> None:
    assert "in the format" not in Page(write(tmp_path, make_report(keys=()))).words


def test_a_gain_is_told_with_its_numbers() -> None:
    on_format, on_token, on_distance, on_loss, caution = summarise(make_report())

    assert on_format == (
        "With <sep> in the request, 22 of 24 answers (92%, 95% interval 74 to 98%) came in the "
        "asked format after training, and 1 of 24 answers (4%, 95% interval 1 to 20%) before it."
    )
    assert "is +88 percentage points; before training it was +4." in on_token
    assert "no longer" not in on_token
    assert on_distance == (
        "In the middle block (3 of 4), by L2 distance, <sep> came nearer to “json” (102.0 before, "
        "91.8 after); it moved away from “thought” (102.0 before, 122.4 after). By cosine "
        "distance, it came nearer to “json” (0.510 before, 0.459 after); it moved away from "
        "“thought” (0.510 before, 0.612 after)."
    )
    assert on_loss == "The training loss went down: 2 at step 1, 0.4 at step 5."
    assert caution.startswith("This is one run.")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((5, 24), (5, 24), "No improvement. .* the same share as before"),
        ((0, 24), (0, 12), "No improvement. .* the same share as before"),
        ((5, 24), (4, 24), "No improvement. .* a smaller share than before.* may be chance"),
        ((20, 24), (1, 24), "No improvement. .* a smaller share than before, when 20 of 24"),
        ((5, 24), (6, 24), "^With .* may be chance"),
    ],
)
def test_no_gain_is_called_so(before: tuple[int, int], after: tuple[int, int], said: str) -> None:
    report = make_report(shares={**GAIN, "before_with": before, "after_with": after})

    assert re.search(said, summarise(report)[0])


def test_no_gain_is_on_the_page(tmp_path: Path) -> None:
    report = make_report(shares={**GAIN, "after_with": (0, 24)})

    assert "No improvement." in write(tmp_path, report)


@pytest.mark.parametrize(
    ("after_with", "after_without", "said"),
    [
        ((22, 24), (1, 24), []),
        ((24, 24), (24, 24), ["do not show that the format depends", "now also comes"]),
        ((6, 24), (5, 24), ["may be chance"]),
        ((0, 24), (0, 24), ["cannot be told"]),
        ((24, 24), (12, 24), ["now also comes"]),
    ],
)
def test_the_tokens_part_is_not_overstated(
    after_with: tuple[int, int], after_without: tuple[int, int], said: list[str]
) -> None:
    shares = {**GAIN, "after_with": after_with, "after_without": after_without}
    sentences = summarise(make_report(shares=shares))[1]

    every = ("do not show that", "now also comes", "may be chance", "cannot be told")
    assert [part for part in every if part in sentences] == [
        part for part in every if any(part in expected for expected in said)
    ]


def test_a_distance_that_hardly_moves_is_called_so() -> None:
    report = make_report(
        distances_before=[distances("json")], distances_after=[distances("json", factor=0.999)]
    )

    assert "stayed about as far from “json” as it was" in summarise(report)[2]


@pytest.mark.parametrize(
    ("losses", "said"),
    [([1.0, 1.0], "did not go down"), ([1.0, 2.0], "did not go down"), ([1.0, math.nan], "failed")],
)
def test_a_bad_loss_is_called_so(losses: list[float], said: str) -> None:
    points = [{"step": step, "loss": loss} for step, loss in enumerate(losses)]

    assert said in summarise(make_report(losses=points))[3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": {"before_with": (0, 1)}}, "give before_with, before_without"),
        ({"shares": {**GAIN, "after_with": (2, 1)}}, "does not add up"),
        ({"shares": {**GAIN, "after_with": (0, 0)}}, "does not add up"),
        ({"distances_after": []}, "the same keywords"),
        ({"distances_after": [distances("thought"), distances("json")]}, "the same keywords"),
        (
            {
                "distances_before": [distances("json"), distances("thought", blocks=2)],
                "distances_after": [distances("json"), distances("thought", blocks=2)],
            },
            "the same blocks",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_report(**changes)


def test_the_room_imports_nothing_heavy() -> None:
    code = "import sys, delia_data.evaluation; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"torch", "matplotlib", "transformers", "peft"} & set(done.stdout.split())
