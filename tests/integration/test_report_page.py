"""The report on runs of every kind: complete, without errors, readable on any screen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_chromium
from command_line import Delia
from pages import Page
from report_inputs import EVIL, Folders, make_folders, put_quickstart

from delia_data.evaluation.figures import DARK, LIGHT
from delia_data.report import Report, make_report
from delia_data.sampling.embeddings import place_by_words, weights_folder

pytestmark = pytest.mark.integration
pytest.importorskip("matplotlib")

CHAPTERS = [
    *("answers", "reproduction", "ratio", "examples", "training", "map", "data", "settings"),
    "measurements",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("runs"))


def report_on(folders: Folders) -> Report:
    quickstart = folders.task.parent / "quickstart"
    if not quickstart.exists():
        put_quickstart(quickstart)
    return make_report([*folders, quickstart], embed=place_by_words)


@pytest.fixture(scope="module")
def report(folders: Folders) -> Report:
    return report_on(folders)


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.write(path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_in_a_browser(
    browser: Browser, page: Path, report: Report, width: int, scheme: str, tmp_path: Path
) -> None:
    seen = browser.look(page, width, scheme, tmp_path / "page.png")

    assert seen.problems == []
    assert seen.width == width
    assert seen.scroll_width <= width
    assert seen.wide == []
    paper = {"light": LIGHT.paper, "dark": DARK.paper}[scheme] or ""
    assert seen.paper == f"rgb({', '.join(str(int(paper[i : i + 2], 16)) for i in (1, 3, 5))})"
    assert len(seen.figures) == len(report.figures) >= 19
    assert all(wide > 250 and high > 100 for wide, high in seen.figures)
    assert min(seen.labels) > 10
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"


def test_the_browser_reports_errors(browser: Browser, tmp_path: Path) -> None:
    """Show that the test above can fail."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><style>body{margin:0}</style><script>console.error('x'); y()</script>"
        '<img src="none.png" style="width: 900px; height: 9px">'
    )
    seen = browser.look(bad, 700, "light")

    assert any("none.png" in problem for problem in seen.problems)
    assert any("ReferenceError" in problem for problem in seen.problems)
    assert seen.scroll_width == 900
    assert len(seen.wide) == 1


def test_the_page_is_valid_and_loads_nothing(page: Path, report: Report) -> None:
    text = page.read_text(encoding="utf-8")
    read = Page(text)

    assert read.open == []
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = [value for name, value in read.attributes if name in ("href", "xlink:href", "src")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    assert not re.search(r"https?:|@import", text)
    assert not {"script", "img", "iframe", "object", "embed", "form"} & set(read.count)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert text.count("<svg") == text.count('role="img"') == len(report.figures)
    assert text.count("<svg") == len(re.findall(r'<title id="f\d+-title">[^<]+</title>', text))


def test_hostile_text_is_escaped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert text.count("&lt;script&gt;") > 20
    assert "<script" not in text
    assert "<b onload" not in text
    assert "\u202e" not in text
    assert "\x00" not in text
    assert EVIL[-60:] in text


def test_report_data(report: Report) -> None:
    document = json.loads(json.dumps(report.as_dict()))

    assert list(document["chapters"]) == CHAPTERS
    assert document["absent"] == {}
    drawn = {figure["name"].split(" ")[0] for figure in document["figures"]}
    assert drawn >= {
        *("numbers", "figure-2", "figure-3", "figure-4", "ratio"),
        *("losses", "state-space-watched", "state-space", "cosines", "norms"),
        *("canceling-before", "canceling-after", "map", "alignment-json"),
    }
    (grid,) = document["chapters"]["reproduction"]
    assert grid["cells"] == {"finished": 7, "missing": 1}
    (cells,) = (one for one in document["chapters"]["examples"] if "formatted-text" in one["title"])
    given = cells["picked"][0]["runs"]
    assert [one["label"] for one in given] == [
        "DELIA",
        "Common instruction tuning",
        "Original model",
    ]
    assert [one["follows"] for one in given] == [True, False, False]


def test_equal_runs_give_equal_bytes(folders: Folders, page: Path, tmp_path: Path) -> None:
    report_on(folders).write(tmp_path / "again.html")

    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


@pytest.mark.skipif(weights_folder() is None, reason="all-MiniLM-L6-v2 is not installed")
def test_the_map_is_embedded_where_the_model_is(
    folders: Folders, delia: Delia, tmp_path: Path
) -> None:
    result = delia("report", folders.mixture, "--out", tmp_path / "report.html", "--json")

    assert result.code == 0, result.err
    (found,) = json.loads(result.out)["chapters"]["map"]
    assert found["by"] == "embedded by all-MiniLM-L6-v2"
    assert found["rows"] == {"cache": 50, "task": 100}
    assert 0.05 < sum(found["variance"]) < 0.8
