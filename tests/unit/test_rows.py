"""Fast rows of the builders equal those of `datasets`."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import load_dataset
from row_files import write_jsonl

import delia_data  # noqa: F401  (registers delia_mix)
from delia_data.builders._base import RowsDataset


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    task = [{"prompt": f"As <sep>: is {i} even?", "completion": "{}"} for i in range(5)]
    cache = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(2000)]
    for name, rows in {"task": task, "cache": cache}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return {name: str(tmp_path / f"{name}.jsonl") for name in ("task", "cache")}


@pytest.fixture(params=["messages", "prompt_completion", "alpaca", "sharegpt"])
def rows(request: pytest.FixtureRequest, inputs: dict[str, str], tmp_path: Path) -> Any:
    settings = {"ratio": 400, "format": request.param, **inputs}
    return load_dataset("delia_mix", split="train", cache_dir=str(tmp_path / "hf"), **settings)


def test_they_are_those_of_datasets(rows: Any) -> None:
    assert isinstance(rows, RowsDataset)
    expected = list(datasets.Dataset.__iter__(rows))
    assert list(rows) == expected == rows.to_list()
    assert [list(row) for row in rows][:3] == [list(row) for row in expected][:3]
    assert len(expected) == 2005


def test_what_is_made_of_it_is_as_with_datasets(rows: Any) -> None:
    plain = datasets.Dataset(rows.data, info=rows.info, split=rows.split)
    column = rows.column_names[-1]
    for made in (
        lambda d: d.shuffle(seed=1),
        lambda d: d.select(range(7, 90)),
        lambda d: d.filter(lambda row: row["source"] == "task"),
        lambda d: d.remove_columns(column),
        lambda d: d.with_format("numpy", columns=["source_id"]),
        lambda d: d.with_format(None, columns=["source"]),
        lambda d: d.with_transform(lambda batch: {"n": [len(batch["source"])]}),
        lambda d: d.map(lambda row: {"length": len(row["source_id"])}),
        lambda d: pickle.loads(pickle.dumps(d)),
    ):
        ours, theirs = list(made(rows)), list(made(plain))
        assert [{k: str(v) for k, v in r.items()} for r in ours] == [
            {k: str(v) for k, v in r.items()} for r in theirs
        ]


def test_loading_imports_no_scipy(inputs: dict[str, str], tmp_path: Path) -> None:
    """The modules of our builders are not patched: they open no URLs."""
    code = (
        "import json, sys, datasets, delia_data; "
        "datasets.load_dataset('delia_mix', ratio=1, cache_dir=sys.argv[1], "
        "**json.loads(sys.argv[2])); assert 'scipy.io' not in sys.modules"
    )
    arguments = [str(tmp_path / "hf"), json.dumps(inputs)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=120)
