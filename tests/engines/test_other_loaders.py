"""Files for axolotl and LLaMA-Factory, read by the packages' own code (`make test-trainers`).

The packages come without their dependencies, which are for GPUs: what reads a configuration, a
chat format and rows needs few of them. Ids and labels are compared with those of delia_data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from chat_models import FAMILIES, family

from delia_data.mixing import mix, save_mixture
from delia_data.models import quiet
from delia_data.records import Format, Record
from delia_data.tasks import TaskRow
from delia_data.tokens import encode
from delia_data.training import TrainSettings
from delia_data.training.data import open_training_rows
from delia_data.training.exporters import TrainerName, write_trainer_files
from delia_data.training.prepare import prepare

pytestmark = pytest.mark.engines
MARKED = [name for name in FAMILIES if name != "llama-2-without-system"]

AXOLOTL = """
import json, sys, yaml
from axolotl.prompt_strategies.chat_template import load
from axolotl.utils.dict import DictDefault
from axolotl.utils.schemas.config import AxolotlInputConfig
from datasets import load_dataset
from transformers import AutoTokenizer

given = yaml.safe_load(open(sys.argv[1]))
assert set(given) <= set(AxolotlInputConfig.model_fields)
config = DictDefault(AxolotlInputConfig(**given).model_dump(exclude_none=True))
dataset = config.datasets[0]
strategy = load(AutoTokenizer.from_pretrained(config.base_model), config, DictDefault(dataset))
rows = load_dataset(dataset.ds_type, data_files=dataset.path, split=dataset.split)
for row in rows:
    seen = strategy.tokenize_prompt(dict(row))
    print(json.dumps([list(seen["input_ids"]), list(seen["labels"])]))
"""
LLAMA_FACTORY = """
import json, sys, types, yaml
import accelerate, datasets, peft, transformers, trl
sys.modules["torchaudio"] = types.ModuleType("torchaudio")  # for sounds; there are none
from llamafactory.data.loader import _get_dataset_processor, _load_single_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.template import get_template_and_fix_tokenizer
from llamafactory.hparams.parser import get_train_args

model, data, training, _, _ = get_train_args(yaml.safe_load(open(sys.argv[1])))
tokenizer = transformers.AutoTokenizer.from_pretrained(model.model_name_or_path)
template = get_template_and_fix_tokenizer(tokenizer, data)
(described,) = get_dataset_list(data.dataset, data.dataset_dir)
rows = _load_single_dataset(described, model, data, training)
columns = {name: list(rows[name]) for name in rows.column_names}
seen = _get_dataset_processor(data, "sft", template, tokenizer, None).preprocess_dataset(columns)
for ids, labels in zip(seen["input_ids"], seen["labels"], strict=True):
    print(json.dumps([list(ids), list(labels)]))
"""
Seen = list[tuple[list[int], list[int]]]


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without `mpt` in its path, which axolotl takes for the name of a model."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture
def ask(place: Path, make_tiny_model: Callable[..., Any]) -> Callable[..., tuple[Any, Seen]]:
    """Return a package's encoding of the rows."""

    def ask(trainer: TrainerName, script: str, name: str, format: Format) -> tuple[Any, Seen]:
        tokenizer = family(name)
        with quiet():
            make_tiny_model(vocabulary=len(tokenizer)).save_pretrained(place / "base")
        tokenizer.save_pretrained(place / "base")
        prepare(place / "base", place / "model")
        task = [TaskRow(Record.pair(f"Is {i} even? Follow <sep>.", "{'a': 'b'}")) for i in (1, 2)]
        pairs = [Record.pair(f"Question {i}?", f"Answer {i}.") for i in range(6)]
        save_mixture(mix(task, pairs, ratio=3, format=format), place / "mix")
        settings = TrainSettings(batch_size=4, max_length=256, device="cpu")
        folders = (place / "mix", place / "model", place / "out")
        written = write_trainer_files(trainer, *folders, settings=settings)
        done = subprocess.run(
            [sys.executable, "-c", script, str(written.files[-1])],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "DISABLE_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        lines = [line for line in done.stdout.splitlines() if line.startswith("[[")]
        return family_of(place / "model"), [tuple(json.loads(line)) for line in lines]  # type: ignore[misc]

    return ask


def family_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def wanted(tokenizer: Any, folder: Path) -> Seen:
    """Return the ids and labels of delia_data, in the mixture's order."""
    found = [encode(tokenizer, record) for record, _ in open_training_rows(folder).records([])]
    return [
        (list(one.ids), [i if kept else -100 for i, kept in zip(one.ids, one.mask, strict=True)])
        for one in found
    ]


@pytest.mark.skipif(find_spec("axolotl") is None, reason="axolotl is not installed")
@pytest.mark.parametrize("format", ["messages", "prompt_completion", "sharegpt"])
@pytest.mark.parametrize("name", MARKED)
def test_axolotl(ask: Callable[..., Any], place: Path, name: str, format: Format) -> None:
    """The same ids; the same labels but for blanks around the end-of-turn token."""
    tokenizer, seen = ask("axolotl", AXOLOTL, name, format)
    ours = wanted(tokenizer, place / "mix")
    assert [ids for ids, _ in seen] == [ids for ids, _ in ours]
    for (ids, theirs), (_, mine) in zip(seen, ours, strict=True):
        differing = [i for i, a, b in zip(ids, theirs, mine, strict=True) if a != b]
        assert all(not tokenizer.decode([i]).strip() for i in differing)
        assert all(a in (b, -100) for a, b in zip(theirs, mine, strict=True))


@pytest.mark.skipif(find_spec("llamafactory") is None, reason="LLaMA-Factory is not installed")
@pytest.mark.parametrize("format", ["messages", "prompt_completion", "sharegpt", "alpaca"])
@pytest.mark.parametrize("name", MARKED)
def test_llama_factory(ask: Callable[..., Any], place: Path, name: str, format: Format) -> None:
    """The same ids and labels; its own Llama-2 format has no blank before the end."""
    tokenizer, seen = ask("llama-factory", LLAMA_FACTORY, name, format)
    ours = wanted(tokenizer, place / "mix")
    assert len(seen) == len(ours) == 8
    for (ids, theirs), (own_ids, mine) in zip(seen, ours, strict=True):
        if name == "llama-2":
            texts = [tokenizer.decode([i for i in t if i != -100]) for t in (theirs, mine)]
            assert texts[0].replace(" ", "") == texts[1].replace(" ", "")
            assert theirs[-1] == tokenizer.eos_token_id
        else:
            assert (ids, theirs) == (own_ids, mine)
