"""The page of every report: complete, without requests, escaped, in distinguishable colors."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from markupsafe import Markup

from delia_data.evaluation.bootstrap import Cell, Estimate, cell, decimal
from delia_data.evaluation.figures import DARK, LIGHT, Palette, style_variables
from delia_data.evaluation.tables import Table
from delia_data.report.page import Metric, Section, blocks, render, show_table

EVIL = "</style><script>alert('1')</script>&\" onload=\"x\u202e"

# What the three kinds of dichromats see of linear RGB (Machado, Oliveira and Fernandes 2009).
EYES = {
    "all cones": "1 0 0 0 1 0 0 0 1",
    "protanopia": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216"
    " -0.003882 -0.048116 1.051998",
    "deuteranopia": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413"
    " -0.011820 0.042940 0.968881",
    "tritanopia": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602"
    " 0.004733 0.691367 0.303900",
}


def matrix(numbers: str) -> np.ndarray:
    """Return a matrix of shape (3, 3)."""
    return np.array(numbers.split(), dtype=float).reshape(3, 3)


def linear(colour: str) -> np.ndarray:
    """Return the linear RGB of #rrggbb."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Convert to Oklab (Ottosson 2020), whose distances are perceptual."""
    to_cones = matrix(
        "0.4122214708 0.5363325363 0.0514459929 0.2119034982 0.6806995451 0.1073969566"
        " 0.0883024619 0.2817188376 0.6299787005"
    )
    to_lab = matrix(
        "0.2104542553 0.7936177850 -0.0040720468 1.9779984951 -2.4285922050 0.4505937099"
        " 0.0259040371 0.7827717662 -0.8086757660"
    )
    return np.cbrt(np.clip(rgb, 0, 1) @ to_cones.T) @ to_lab.T


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2."""
    bright, dark = sorted(
        (float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True
    )
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("eyes", EYES)
def test_series_are_told_apart(palette: Palette, eyes: str) -> None:
    seen = [oklab(linear(colour) @ matrix(EYES[eyes]).T) for colour in palette.series]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(distances) > 0.075


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_stand_out(palette: Palette) -> None:
    assert palette.paper and palette.panel and palette.good
    for colour in palette.series:
        assert contrast(colour, palette.paper) > 3
    for words in (palette.ink, palette.muted, palette.good, palette.series[0]):
        assert contrast(words, palette.paper) > 4.5, words
        assert contrast(words, palette.panel) > 4.5, words


SECTIONS = {name: Section(Markup(f"<p>{name}</p>"), {}) for name in ("First", "2", "3", "Empty")}
SECTIONS["Empty"] = Section(Markup(), {})


def test_a_page_has_both_palettes_and_loads_nothing() -> None:
    text = render("tiny", SECTIONS)

    assert style_variables(LIGHT) in text
    assert text.index(style_variables(LIGHT)) < text.index("prefers-color-scheme: dark")
    assert style_variables(DARK) in text
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|@import|<script|url\(", text)
    assert '<a href="#first">First</a>' in text
    assert '<section id="first">' in text
    assert "Empty" not in text
    assert "<nav" not in render("tiny", {"First": SECTIONS["First"]})


def test_text_is_escaped_and_markup_is_not() -> None:
    metric = Metric(EVIL, EVIL, EVIL)
    text = render(EVIL, SECTIONS, metrics=[metric], summary=[EVIL], note=EVIL, foot=EVIL)

    assert "<script" not in text
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;") == 8
    assert "<p>First</p>" in text
    assert blocks.verbatim(EVIL).count("&lt;script&gt;") == 1
    assert blocks.verbatim("  ") == '<pre dir="auto">(empty)</pre>'


def test_a_table() -> None:
    rows = [("<1>", "2", cell(Estimate(-0.5, -1.0, 0.001, 9), decimal)), ("a", "b", Cell("–"))]
    table = Table('">', ("A", "B", "bound"), rows, note="N", heads=2, bounds=frozenset({"bound"}))
    text = show_table(table)

    assert text.count('<th scope="row">') == 4
    assert '<td><b>−0.50</b><span class="ci">[−1.00, 0.00]</span></td>' in text
    assert "<td>–</td>" in text
    assert "&lt;1&gt;" in text
    assert "<em>bound</em>" in text
    assert 'tabindex="0" role="region" aria-label="&#34;&gt;"' in text
    assert '<p class="note">N</p>' in text
