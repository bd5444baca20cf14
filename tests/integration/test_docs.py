"""The pages are built without a warning, are complete, and load nothing from other hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from delia_data.cli.app import COMMANDS, EXIT_CODES, load_command

ROOT = Path(__file__).parents[2]
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
NOT_LOADED = {"next", "prev", "index", "search", "canonical", "author"}

pytestmark = pytest.mark.integration


class Page(HTMLParser):
    """Content, loaded files and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.ids.add(named.get("id", ""))
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        elif named.get(LOADED.get(tag, "")) and not NOT_LOADED & set(named.get("rel", "").split()):
            self.loads.append(named[LOADED[tag]])

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages that `make docs` builds."""
    out = tmp_path_factory.mktemp("site")
    arguments = ["-b", "dirhtml", "-W", "--keep-going", "-q", "-d", str(out / ".trees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments, str(ROOT / "docs"), str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """All pages by file."""
    return {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}


def options() -> Iterator[tuple[str, str]]:
    """The options in the help of every command."""
    commands = {name: load_command(name) for name in COMMANDS}
    for name, command in commands.items():
        for inner in getattr(command, "commands", {name: command}).values():
            shown = (param for param in inner.params if not getattr(param, "hidden", False))
            yield from ((name, opt) for param in shown for opt in param.opts if "-" in opt)


def test_the_same_target_is_what_a_person_runs() -> None:
    line = next(t for t in (ROOT / "Makefile").read_text().splitlines() if "-m sphinx" in t)
    assert " -W " in line
    assert line.split()[-2:] == ["docs", "build/docs"]


def test_nothing_comes_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 20
    for file, page in pages.items():
        for address in page.loads:
            assert not urlsplit(address).netloc, f"{file} loads {address}"
    for style in (site / "_static").rglob("*.css"):
        for address in re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", style.read_text()):
            assert not any(re.match(r"""["']?(https?:)?//""", part) for part in address), style


def test_every_link_inside_leads_somewhere(pages: dict[Path, Page]) -> None:
    seen = 0
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / parts.path).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{file}: {link}"
            if parts.fragment and target in pages:
                assert parts.fragment in pages[target].ids, f"{file}: {link}"
            seen += 1
    assert seen > 200


def test_every_command_option_and_exit_code_is_there(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "reference" / "commands" / "index.html"]
    for name in COMMANDS:
        assert any(f"delia {name}" in heading for heading in page.words), name
    missing = {(name, opt) for name, opt in options() if opt not in page.words}
    assert missing == set()
    for code, says in EXIT_CODES.items():
        assert f"{code} {says}" in re.sub(r"(?<=\d)\s+", " ", page.text), code


@pytest.mark.parametrize(
    "room",
    [
        "tasks",
        "diversify",
        "engines",
        "sampling",
        "mixing",
        "hub",
        "training",
        "evaluation",
        "report",
    ],
)
def test_public_names_are_in_the_reference(pages: dict[Path, Page], room: str) -> None:
    module = import_module(f"delia_data.{room}")
    shown = {name.rsplit(".", 1)[-1] for page in pages.values() for name in page.ids}
    public = {name for name in module.__all__ if isinstance(getattr(module, name), type)}
    public |= {name for name in module.__all__ if isfunction(getattr(module, name))}
    assert public
    assert public - shown == set()


def test_the_picture_is_on_its_page(site: Path, pages: dict[Path, Page]) -> None:
    text = (site / "concepts" / "index.html").read_text(encoding="utf-8")
    assert "<svg" in text
    assert "path-text" in pages[site / "concepts" / "index.html"].ids
