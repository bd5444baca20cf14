"""Private names of other libraries are listed in docs/architecture.md, and no others are used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
DOCUMENTED = {"_asdict", "_exit"}
"""Names with an underscore that their library documents."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def trees() -> list[ast.Module]:
    folders = [ROOT / name for name in ("delia_data", "builders", "training")]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return [ast.parse(file.read_text(encoding="utf-8")) for file in files]


def defined(tree: ast.AST) -> Iterator[str]:
    """Return the names of functions, classes, variables and attributes that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) in ("self", "cls")
        ):
            yield node.attr


def used(tree: ast.AST) -> Iterator[str]:
    """Return the private names that a module reads from an object, or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant):
                yield str(name.value)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("delia_data"):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if not alias.name.startswith("delia_data"):
                    yield from alias.name.split(".")


def listed() -> set[str]:
    section = PAGE.read_text(encoding="utf-8").partition("## Private names of other libraries")[2]
    section = section.partition("\n## ")[0]
    return set(re.findall(r"^\| [\w-]+ \| `(\w+)` \|", section, re.MULTILINE))


def test_every_private_name_is_listed() -> None:
    if not PAGE.is_file():
        pytest.skip("the page is part of the repository, not of an installed package")
    sources = trees()
    own = {name for tree in sources for name in defined(tree)}
    private = {name for tree in sources for name in used(tree) if is_private(name)}
    assert private - own - DOCUMENTED <= listed(), "name it in docs/architecture.md, with a reason"


def test_every_listed_name_is_used() -> None:
    if not PAGE.is_file():
        pytest.skip("the page is part of the repository, not of an installed package")
    sources = trees()
    names = {name for tree in sources for name in (*used(tree), *defined(tree))}
    assert listed()
    assert listed() <= names, "remove the row from docs/architecture.md"
