"""Fuzz target: manifests, mix recipes and grids. Each is read, or refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from command_line import check_line
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from delia_data.errors import DeliaError
from delia_data.experiments.grid import read_grid
from delia_data.mixing import mix, read_task_rows, save_mixture
from delia_data.mixing.options import read_mix_recipe
from delia_data.outputs import FINISHED, MANIFEST, Manifest, read_manifest
from delia_data.reading import open_source
from delia_data.records import Record, write_record

ROWS = [write_record(Record.pair(f"{n} <sep>?", "Yes.")) for n in range(3)]
PAIRS = [write_record(Record.pair(f"{n}?", "No.")) for n in range(9)]
MANIFESTS = [
    Manifest(kind=kind, settings={"token": "<sep>"}, files={"train.jsonl": "0" * 64})  # type: ignore[arg-type]
    for kind in ("cache", "task", "mixture", "adapter")
]
RECIPE = {
    "tasks": {"a": {"path": "t.jsonl", "weight": 2.0}, "b": {"path": "t.jsonl", "token": "<sep>"}},
    "caches": {"own": {"path": "c.jsonl", "weight": 3}, "other": "c.jsonl"},
    "ratio": 1,
    "seed": 4,
    "order": "interleaved",
    "on_short": "all",
    "format": "sharegpt",
    "decontaminate": True,
    "strict": True,
}
SCALES = files("delia_data.experiments") / "scales"
GRIDS = [yaml.safe_load(each.read_text("utf-8")) for each in SCALES.iterdir()]
SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=20)

names = st.sampled_from(
    [
        "",
        "\x00",
        "a" * 300,
        *["../t.jsonl", "/", ".", "t.jsonl", "c.jsonl", "*", "~", "memory://x", "c.jsonl#x", "é"],
    ]
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), names, st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(names, inner, max_size=2)),
    max_leaves=5,
)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """Return a value of which some parts are other ones."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(0, 3))):
        inner = value
        while isinstance(inner, dict) and inner:
            key = draw(st.sampled_from(sorted(inner)))
            if not isinstance(inner[key], dict) or draw(st.booleans()):
                change = draw(st.sampled_from(["value", "value", "remove", "add"]))
                if change == "remove":
                    del inner[key]
                else:
                    inner[key if change == "value" else draw(st.text(max_size=5))] = draw(values)
                break
            inner = inner[key]
    return draw(values) if draw(st.integers(0, 30)) == 0 else value


@st.composite
def texts(draw: st.DrawFn, value: Any, *, is_yaml: bool) -> bytes:
    """Return the bytes of a settings file, sometimes damaged."""
    found = draw(changed(value))
    text = yaml.safe_dump(found, allow_unicode=True) if is_yaml else json.dumps(found)
    data = text.encode("utf-8", "surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(data)))
        piece = draw(
            st.sampled_from([b"", b"\xff", b"\x00", b"[", b"{", b"&a", b"*a", b"!!python/x"])
        )
        data = data[:place] + piece + data[place + draw(st.integers(0, 2)) :]
    return data


def listed(folder: str) -> set[str]:
    """Return the files under a folder."""
    return {os.path.join(root, name) for root, _, names in os.walk(folder) for name in names}


def write_rows(folder: Path) -> None:
    for name, rows in (("t.jsonl", ROWS), ("c.jsonl", PAIRS), ("train.jsonl", ROWS)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@SLOW
@given(st.sampled_from(MANIFESTS).flatmap(lambda m: texts(m.model_dump(), is_yaml=False)))
@example(b"[" * 50_000)
def test_any_manifest_is_read_or_refused(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        inner = Path(folder, "inner")
        inner.mkdir()
        write_rows(inner)
        (inner / MANIFEST).write_bytes(data)
        (inner / FINISHED).write_text(hashlib.sha256(data).hexdigest())
        before = listed(folder)
        for read in (
            lambda: read_manifest(inner, verify=True),
            lambda: read_task_rows(inner),
            lambda: open_source(inner),
        ):
            try:
                read()
            except DeliaError as error:
                check_line(error)
        assert listed(folder) == before


@SLOW
@given(texts(RECIPE, is_yaml=True))
@example(b"a: &a [1]\nb: [*a, *a]\n")
@example(b"[" * 5_000)
@example(b"tasks: &t {t: *t}\n")
def test_any_recipe_is_mixed_or_refused(data: bytes) -> None:
    here = os.getcwd()
    with TemporaryDirectory() as folder:
        inner = Path(folder, "inner")
        inner.mkdir()
        write_rows(inner)
        recipe = inner / "recipe.yaml"
        recipe.write_bytes(data)
        before = listed(folder)
        os.chdir(inner)
        try:
            arguments = {"ratio": 1, **read_mix_recipe(recipe).arguments()}
            save_mixture(mix(**arguments), inner / "out")
        except DeliaError as error:
            check_line(error)
        finally:
            os.chdir(here)
        new = listed(folder) - before
        assert all(name.startswith(str(inner / "out")) for name in new)


@SLOW
@given(st.sampled_from(GRIDS).flatmap(lambda grid: texts(grid, is_yaml=True)))
@example(b"[" * 5_000)
def test_any_grid_is_read_or_refused(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "grid.yaml")
        path.write_bytes(data)
        try:
            read_grid(path)
        except DeliaError as error:
            check_line(error)
        assert listed(folder) == {str(path)}
