"""Figures of measurements: both forms, equal for equal numbers, with every number in its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from alignments import made_alignment

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Resampling
from delia_data.evaluation.buffering import buffering_of
from delia_data.evaluation.figures import (
    STAND_INS,
    Drawing,
    alignment_by_block,
    cancelling_by_rows,
    cosines_with_held_out,
    norms_by_similarity,
    state_space_sizes,
    watched_state_space,
)
from delia_data.evaluation.gradients import RowGradients
from delia_data.evaluation.state_space import FirstToken, StateSpace

pytest.importorskip("matplotlib")


def space(*sizes: int) -> StateSpace:
    return StateSpace(0.95, 1000, tuple(FirstToken(size, 1.0, 1, 0.5, 0.5) for size in sizes))


def gradients(seed: int, rows: int = 8) -> RowGradients:
    vectors = np.random.default_rng(seed).normal(size=(rows, 32))
    norms = np.linalg.norm(vectors, axis=1)
    return RowGradients(vectors, norms, np.ones(rows), np.arange(1.0, rows + 1))


def buffering() -> Any:
    names = ("pairs", "task", "common", "held_out")
    return buffering_of(
        {
            when: {name: gradients(10 * number + place) for place, name in enumerate(names)}
            for number, when in enumerate(("before", "after"))
        },
        np.linspace(0, 1, 8),
        ratio=2,
        how=Resampling(resamples=100),
    )


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "alignment": lambda: alignment_by_block(made_alignment(), before=made_alignment(2.0)),
    "cosine": lambda: alignment_by_block(made_alignment(), measure="cosine", keyword="thought"),
    "state space": lambda: state_space_sizes({"before, with": space(90, 3), "after": space(1, 1)}),
    "watched": lambda: watched_state_space(
        {"delia": [{"step": s, "state_space/size": 100.0 / s} for s in (1, 2, 4)]}
    ),
    "norms": lambda: norms_by_similarity(buffering()),
    "cancelling": lambda: cancelling_by_rows(buffering(), when="after"),
    "cosines": lambda: cosines_with_held_out(buffering()),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_takes_its_colours_from_the_page(name: str) -> None:
    svg = DRAWINGS[name]().svg()
    ET.fromstring(svg.replace("xlink:href", "href"))
    assert "var(--" in svg
    stand_ins = [STAND_INS.ink, STAND_INS.muted, STAND_INS.rule, *STAND_INS.series]
    assert not any(colour in svg for colour in stand_ins)
    assert "mathdefault" not in svg
    assert svg == DRAWINGS[name]().svg()


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_file_is_the_same_for_the_same_numbers(name: str, tmp_path: Path) -> None:
    for file in ("a.png", "b.png"):
        DRAWINGS[name]().png(tmp_path / file)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"Software" not in content


def test_a_figure_names_all_that_it_shows() -> None:
    drawing = alignment_by_block(made_alignment(1.0), before=made_alignment(2.0), measure="l2")
    svg = drawing.svg()
    for part in ("“json”", "2 ordinary words", "untrained token (mean)", "before", "after"):
        assert part in svg
    assert "L2 distance" in svg
    assert "json" in drawing.told


def test_what_was_not_measured_cannot_be_drawn() -> None:
    with pytest.raises(InputError, match="use one of json, thought"):
        alignment_by_block(made_alignment(), keyword="apple")
    with pytest.raises(InputError, match="no state space"):
        state_space_sizes({})
    with pytest.raises(InputError, match="common has watched state_space/size"):
        watched_state_space(
            {"delia": [{"step": 1, "state_space/size": 4.0}], "common": [{"step": 1, "l2": 4.0}]}
        )
    with pytest.raises(InputError, match="no run has watched"):
        watched_state_space({})


def test_groups_that_do_not_fit_together_are_refused() -> None:
    groups = {"pairs": gradients(1), "task": gradients(2), "held_out": gradients(3)}
    fewer = {**groups, "task": gradients(2, rows=5)}
    how = Resampling(resamples=100)
    with pytest.raises(InputError, match="measure the same rows"):
        buffering_of({"before": groups, "after": fewer}, [0.1] * 8, ratio=1, how=how)
    with pytest.raises(InputError, match="7 pairs have a similarity"):
        buffering_of({"before": groups, "after": groups}, [0.1] * 7, ratio=1, how=how)


def test_gradients_that_shrink_with_similarity_are_found() -> None:
    """What claim 2 says, planted: the more like the task, the smaller after training."""
    similarity = np.linspace(0, 1, 40)
    old = gradients(0, rows=40)
    factor = np.exp(1 - 2 * similarity)
    new = RowGradients(old.sketches * factor[:, None], old.norms * factor, old.losses, old.tokens)
    others = {"task": gradients(2), "held_out": gradients(3)}
    found = buffering_of(
        {"before": {"pairs": old, **others}, "after": {"pairs": new, **others}},
        similarity,
        ratio=1,
        how=Resampling(resamples=200),
    )
    change = found.norms["change"]
    assert change.plain is not None
    assert change.plain.value == pytest.approx(-1)
    assert found.pairs[0].after == pytest.approx(found.pairs[0].before * np.e)
    assert found.projection_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ((2, 5), {"1", "2", "3", "5"}),
        ((1, 20), {"1", "3", "10", "30"}),
        ((1, 900), {"1", "10", "100", "1,000"}),
    ],
)
def test_labels_of_a_logarithmic_axis_find_room(sizes: tuple[int, int], shown: set[str]) -> None:
    svg = state_space_sizes({"before": space(*sizes)}).svg()
    labels = {text for text in re.findall(r">([\d,.]+)</text>", svg) if text}
    assert labels <= shown
    assert len(labels) > 2
