"""A function runs once after an import by anyone, and leaves no trace."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from delia_data._after_import import after_import


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a library that is not imported."""
    folder = tmp_path / "a_library"
    folder.mkdir()
    (folder / "__init__.py").write_text("VALUE = 1\n")
    (folder / "part.py").write_text("from a_library import VALUE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    for name in ("a_library", "a_library.part"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "a_library"


def test_it_waits_for_the_import(library: str) -> None:
    seen: list[int] = []
    after_import(library, lambda: seen.append(sys.modules[library].VALUE))
    assert seen == []
    assert library not in sys.modules
    importlib.import_module(f"{library}.part")
    assert seen == [1]


def test_it_happens_once_and_leaves_no_trace(library: str) -> None:
    before = [*sys.meta_path]
    seen: list[int] = []
    after_import(library, lambda: seen.append(1))
    module = importlib.import_module(library)
    importlib.reload(module)
    assert seen == [1]
    assert sys.meta_path == before
    plain = type(find_spec("json").loader)  # type: ignore[union-attr]
    assert module.__spec__ is not None
    assert type(module.__loader__) is type(module.__spec__.loader) is plain


def test_several_wait_for_one_library(library: str) -> None:
    before, seen = [*sys.meta_path], list[int]()
    for number in range(3):
        after_import(library, lambda number=number: seen.append(number))  # type: ignore[misc]
    module = importlib.import_module(library)
    assert sorted(seen) == [0, 1, 2]
    assert sys.meta_path == before
    assert "exec_module" not in vars(module.__loader__)


def test_looking_for_the_library_is_not_importing_it(library: str) -> None:
    seen: list[int] = []
    after_import(library, lambda: seen.append(1))
    found = find_spec(library)
    assert found is not None
    assert found.loader is not None
    assert found.loader.is_package(library)  # type: ignore[attr-defined]
    assert seen == []
    importlib.import_module(library)
    assert seen == [1]


def test_a_library_that_is_there_already(library: str) -> None:
    importlib.import_module(library)
    seen: list[int] = []
    after_import(library, lambda: seen.append(1))
    assert seen == [1]


def test_a_library_that_fails_fails_as_before(library: str, tmp_path: Path) -> None:
    seen: list[int] = []
    after_import(library, lambda: seen.append(1))
    file = tmp_path / library / "__init__.py"
    file.write_text("raise ImportError('something is missing')\n")
    with pytest.raises(ImportError, match="something is missing"):
        importlib.import_module(library)
    assert seen == []
    file.write_text("VALUE = 1  # mended\n")
    importlib.import_module(library)
    assert seen == [1]


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    after_import("no_such_library", lambda: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_library")
