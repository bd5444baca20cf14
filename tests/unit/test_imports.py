"""Imports run one way, and heavy libraries are imported where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import pytest

LAYERS = [
    {"errors", "_version"},
    {"outputs", "_optional", "_batches", "_after_import"},
    {"ranking", "records", "reading", "tokens", "bundled_cache"},
    {"models"},
    {"engines", "mixing"},
    {"tasks"},
    {"sampling", "diversify", "hub"},
    {"builders", "training", "evaluation", "registration"},
    {"experiments"},
    {"report"},
    {"quickstart", "distill"},
    {"cli", "__main__"},
]
"""Rooms from the bottom up: each may import its own layer and those before it."""

HEAVY = {"torch", "transformers", "vllm", "litellm", "ray", "trl", "peft", "matplotlib"}
ABOUT_HEAVY = {
    "training/loss.py": {"torch", "peft"},
    "training/packing.py": {"torch", "transformers"},
    "training/trainer.py": {"torch", "transformers", "peft", "trl"},
}


def room_of(relative: Path) -> str:
    return relative.parts[0].removesuffix(".py")


def sources() -> list[tuple[Path, Path]]:
    """Return all source files with their paths inside the package."""
    package = find_spec("delia_data")
    assert package is not None
    assert package.origin is not None
    roots = {Path("."): Path(package.origin).parent}
    for name in ("builders", "training"):
        spec = find_spec(f"delia_data.{name}")
        assert spec is not None
        assert spec.origin is not None
        roots[Path(name)] = Path(spec.origin).parent
    return [
        (file, prefix / file.relative_to(root))
        for prefix, root in roots.items()
        for file in sorted(root.rglob("*.py"))
    ]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree: ast.Module) -> ast.Module:
    """Return the nodes that run when the module is imported."""
    body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.Module(body, [])


@pytest.mark.parametrize(("file", "relative"), sources(), ids=lambda value: str(value)[-40:])
def test_imports_run_one_way(file: Path, relative: Path) -> None:
    room = room_of(relative)
    if room == "__init__":
        return
    level = next(i for i, layer in enumerate(LAYERS) if room in layer)
    allowed = set().union(*LAYERS[: level + 1])
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used = {n.split(".")[1] for n in imports(tree) if n.startswith("delia_data.")}
    known = set().union(*LAYERS)
    assert (used & known) <= allowed, f"{relative} imports {sorted((used & known) - allowed)}"


@pytest.mark.parametrize(("file", "relative"), sources(), ids=lambda value: str(value)[-40:])
def test_heavy_libraries_are_not_imported_at_module_level(file: Path, relative: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used = {name.split(".")[0] for name in imports(at_import(tree))} & HEAVY
    assert used <= ABOUT_HEAVY.get(relative.as_posix(), set())


def test_the_wheel_has_every_package() -> None:
    config = ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    folders = {path.parent.parts for _, path in sources() if path.name == "__init__.py"}
    names = {".".join(("delia_data", *folder)) for folder in folders}
    assert set(config["options"]["packages"].split()) == names


@pytest.mark.parametrize("module", ["delia_data", "delia_data.cli"])
def test_importing_the_package_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (HEAVY | {"datasets"}) & set(done.stdout.split())
