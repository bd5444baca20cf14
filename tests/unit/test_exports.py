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
def test_every_module_says_what_it_exports(name: str) -> None:
    """Each has an `__all__` of names that are there; public definitions are in it."""
    module = importlib.import_module(name)
    exported = set(module.__all__)
    assert all(hasattr(module, public) for public in exported)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    if module.__file__ and not module.__file__.endswith("__init__.py"):
        assert defined <= exported


@pytest.mark.parametrize("name", ["delia_data", *MODULES])
def test_every_public_name_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for public in module.__all__:
        value = getattr(module, public)
        if callable(value) and getattr(value, "__module__", None) == name:
            assert value.__doc__, f"{name}.{public} has no docstring"
