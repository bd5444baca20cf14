"""`delia evaluate` with real models: the embedded one, and an adapter that was trained here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from delia_data.diversify import diversify, gate_task_wordings, save_task_rows
from delia_data.models import DEFAULT_MODEL
from delia_data.tasks import bundled_task, bundled_wordings, read_task_rows
from delia_data.training import TrainSettings, train

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole, wordings = bundled_task(), bundled_wordings()
    few = replace(whole, train=whole.train[:4], test=whole.test[:4])
    folder = tmp_path_factory.mktemp("tasks") / "task"
    gates = gate_task_wordings(few, wordings)
    save_task_rows(folder, diversify(few, wordings), few, seed=0, gates=gates)
    return folder


def evaluated(delia: Delia, *arguments: object) -> dict[str, Any]:
    asked = ("--probe", "held-out", "--rows", 2, "--max-tokens", 6, "--json")
    told = delia("evaluate", *arguments, *asked)
    assert told.code == 0, told.err
    found: dict[str, Any] = json.loads(told.out)
    return found


def test_the_embedded_model(tmp_path: Path, task: Path, delia: Delia) -> None:
    plain = evaluated(delia, DEFAULT_MODEL, task, tmp_path / "plain")
    assert plain["system"]["system"]["model"]["name"] == DEFAULT_MODEL
    assert plain["notes"] == ["<sep> is not a token of this model, which reads it as 3 tokens"]
    (probe,) = plain["probes"]
    assert probe["in_format"]["value"] == 0  # no object ends within six tokens
    assert probe["cut"] == [2, 2]
    rows = [json.loads(line) for line in (tmp_path / "plain" / "rows.jsonl").open()]
    assert len(rows) == 2
    assert all(row["with_token"] and row["without_token"] for row in rows)
    added = evaluated(delia, DEFAULT_MODEL, task, tmp_path / "added", "--add-token", "mean")
    assert added["notes"] == ["<sep> was added to the model with embedding mean, and not trained"]
    mine, its = (each["system"]["system"]["model"]["weights_sha256"] for each in (added, plain))
    assert mine != its


def test_an_adapter(
    tmp_path: Path,
    task: Path,
    delia: Delia,
    make_tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    model = tmp_path / "model"
    make_tiny_model().save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    settings = TrainSettings(
        model=str(model), rank=4, targets=("all-linear",), batch_size=4, warmup_steps=0
    )
    rows = [{**row.as_row(), "source": "task"} for row in read_task_rows(task).train]
    train(settings, rows, tmp_path / "adapter")
    found = evaluated(delia, tmp_path / "adapter", task, tmp_path / "out")
    assert found["notes"] == []
    assert found["probes"][0]["rows"] == 2
    base = evaluated(delia, model, task, tmp_path / "base", "--add-token", "mean")
    trained, plain = (each["system"]["system"]["model"] for each in (found, base))
    assert trained["weights_sha256"] != plain["weights_sha256"]
    again = evaluated(delia, tmp_path / "adapter", task, tmp_path / "out")
    assert again == found
