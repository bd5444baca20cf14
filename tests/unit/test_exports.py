"""The public names, written out: a change here is a change for the user."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import delia_data
import delia_data.builders
import delia_data.training

PUBLIC = [
    "DEFAULT_TOKEN",
    "DeliaError",
    "Message",
    "Mixture",
    "Record",
    "__version__",
    "add_token",
    "lint",
    "mix",
    "rank",
    "read_record",
    "read_records",
    "register",
    "row_seed",
    "save_mixture",
    "write_record",
]
ROOMS = [delia_data, delia_data.builders, delia_data.training]
MODULES = sorted(
    {delia_data.builders.__name__, delia_data.training.__name__}
    | {
        module.name
        for room in ROOMS
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
        if not module.name.endswith("__main__")
    }
)


def test_the_public_names_are_these() -> None:
    assert sorted(delia_data.__all__) == PUBLIC


def test_the_walk_finds_every_room() -> None:
    rooms = {name.split(".")[1] for name in MODULES}
    assert rooms >= {"builders", "cli", "diversify", "engines", "evaluation", "sampling", "tasks"}
    assert "training" in rooms


@pytest.mark.parametrize("name", MODULES)
def test_only_packages_declare_exports(name: str) -> None:
    """A package lists its public names, each of which exists; a module has no list."""
    module = importlib.import_module(name)
    if str(module.__file__).endswith("__init__.py"):
        assert all(hasattr(module, public) for public in getattr(module, "__all__", []))
    else:
        assert not hasattr(module, "__all__")


@pytest.mark.parametrize("name", ["delia_data", *MODULES])
def test_every_public_definition_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    undocumented = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert undocumented == []
