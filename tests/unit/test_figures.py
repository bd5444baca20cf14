"""Figures: SVG in the page's colors, reproducible PNG files, and labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from report_inputs import made_alignment, made_buffering

from delia_data.evaluation.figures import (
    STAND_INS,
    Drawing,
    alignment_by_block,
    cancellation_by_rows,
    cosines_with_held_out,
    loss_curve,
    norms_by_similarity,
    state_space_sizes,
    watched_state_space,
)
from delia_data.evaluation.representation import FirstToken, StateSpace

pytest.importorskip("matplotlib")


def space(*sizes: int) -> StateSpace:
    return StateSpace(0.95, tuple(FirstToken(size, 1.0, 1, 0.5, 0.5) for size in sizes))


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "alignment": lambda: alignment_by_block(made_alignment(), made_alignment(2.0), "json"),
    "state space": lambda: state_space_sizes({"before, with": space(90, 3), "after": space(1, 1)}),
    "watched": lambda: watched_state_space(
        {"delia": [{"step": s, "state_space/size": 100.0 / s} for s in (1, 2, 4)]}
    ),
    "losses": lambda: loss_curve([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]),
    "norms": lambda: norms_by_similarity(made_buffering()),
    "canceling": lambda: cancellation_by_rows(made_buffering(), "after"),
    "cosines": lambda: cosines_with_held_out(made_buffering()),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_svg_has_the_colors_of_the_page_and_png_is_reproducible(name: str, tmp_path: Path) -> None:
    svg = DRAWINGS[name]().svg()
    ET.fromstring(svg.replace("xlink:href", "href"))
    assert "var(--" in svg
    stand_ins = [STAND_INS.ink, STAND_INS.muted, STAND_INS.rule, *STAND_INS.series]
    assert not any(color in svg for color in stand_ins)
    assert "mathdefault" not in svg
    assert svg == DRAWINGS[name]().svg()

    for file in ("a.png", "b.png"):
        DRAWINGS[name]().png(tmp_path / file)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"Software" not in content


def test_a_legend_names_every_line() -> None:
    drawing = DRAWINGS["alignment"]()
    svg = drawing.svg()
    for part in ("“json”", "2 ordinary words", "untrained token (mean)", "before", "after"):
        assert part in svg
    assert "L2 / ordinary median" in svg
    assert "json" in drawing.description


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ((2, 5), {"1", "2", "3", "5"}),
        ((1, 20), {"1", "3", "10", "30"}),
        ((1, 900), {"1", "10", "100", "1,000"}),
    ],
)
def test_labels_of_a_logarithmic_axis_fit(sizes: tuple[int, int], shown: set[str]) -> None:
    svg = state_space_sizes({"before": space(*sizes)}).svg()
    labels = {text for text in re.findall(r">([\d,.]+)</text>", svg) if text}
    assert labels <= shown
    assert len(labels) > 2
