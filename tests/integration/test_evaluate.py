"""`delia evaluate` with models: the embedded one, and an adapter that was trained here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from wordings import save_task

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
    return save_task(tmp_path_factory.mktemp("tasks") / "task", few, wordings)


def evaluated(delia: Delia, *arguments: object) -> dict[str, Any]:
    """Evaluate two held-out rows, with answers of six tokens."""
    asked = ("--rows", 2, "--max-tokens", 6, "--json")
    result = delia("evaluate", *arguments, *asked)
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_the_embedded_model(tmp_path: Path, task: Path, delia: Delia) -> None:
    one = ("--probe", "held-out")
    plain = evaluated(delia, DEFAULT_MODEL, task, tmp_path / "plain", *one)
    assert plain["system"]["system"]["model"]["name"] == DEFAULT_MODEL
    assert plain["notes"] == ["<sep> is not a token of this model, which reads it as 3 tokens"]
    numbers = plain["numbers"]["model"]
    assert numbers["follow"]["value"] == 0  # no object ends within six tokens
    assert numbers["saved"]["value"] > 50
    assert plain["cut"] == {"held-out": 2}
    assert "--untrained" in plain["unknown"]["kl"]
    rows = [
        json.loads(line) for line in (tmp_path / "plain" / "rows.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 2
    assert all(row["answered"]["answers"]["model"] for row in rows)
    assert delia("prepare", DEFAULT_MODEL, tmp_path / "prepared").code == 0
    added = evaluated(delia, tmp_path / "prepared", task, tmp_path / "added", *one)
    assert added["notes"] == []
    mine, its = (each["system"]["system"]["model"]["weights_sha256"] for each in (added, plain))
    assert mine != its


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_an_adapter(
    adaptation: Any,
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
        model=str(model), adaptation=adaptation, rank=4, batch_size=4, warmup_steps=0
    )
    if adaptation == "lora":  # as the file's weights are, also where "auto" is float32
        settings = replace(settings, dtype="bfloat16")
    rows = [{**row.as_row(), "source": "task"} for row in read_task_rows(task).train]
    train(settings, rows, tmp_path / "adapter")
    pairs = tmp_path / "pairs.jsonl"
    texts = [f'{{"instruction": "Say {n}.", "output": "I say {n}."}}\n' for n in range(5)]
    pairs.write_text("".join(texts))
    given = (task, tmp_path / "out", "--pairs", pairs)
    found = evaluated(delia, tmp_path / "adapter", *given)
    assert found["notes"] == []
    assert found["rows"]["held-out"] == 2
    assert set(found["numbers"]) == {"model", "untrained", "instructed"}
    assert found["numbers"]["model"]["kl"]["rows"] == 5
    assert found["numbers"]["model"]["kl"]["value"] > 0
    again = evaluated(delia, tmp_path / "adapter", *given)
    assert again == found
    # With the adapter off, the model answers as its base with the untrained token does.
    assert delia("prepare", model, tmp_path / "prepared", "--dtype", "bfloat16").code == 0
    base = evaluated(delia, tmp_path / "prepared", task, tmp_path / "base", "--pairs", pairs)
    ours, theirs = (
        texts_of(tmp_path / name, system)
        for name, system in (("out", "untrained"), ("base", "model"))
    )
    assert ours == theirs
    off, plain = found["system"]["untrained"], base["system"]["system"]
    if adaptation == "lora":  # a model that is trained whole is loaded in float32
        assert off["model"]["weights_sha256"] == plain["model"]["weights_sha256"]
    assert found["system"]["system"]["model"] != off["model"]
    assert base["numbers"]["model"]["follow"] == found["numbers"]["untrained"]["follow"]
    by_model = ("--untrained", model, "--pairs", pairs)
    same = evaluated(delia, model, task, tmp_path / "same", *by_model)
    assert same["numbers"]["model"]["kl"]["value"] == 0
    assert same["numbers"]["model"]["leak"]["value"] == 0
    assert same["numbers"]["model"]["similar"]["value"] == 1


def texts_of(folder: Path, system: str) -> dict[str, str]:
    """Return the answers of a system by the ids of prompts, without those to the instruction."""
    rows = [
        json.loads(line)["answered"] for line in (folder / "rows.jsonl").read_text().splitlines()
    ]
    return {f"{row['probe']} {row['id']}": row["answers"][system] for row in rows}
