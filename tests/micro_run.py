"""A grid that runs in seconds: a random model with a vocabulary of words, and few rows."""

import json
from pathlib import Path
from typing import Any

import yaml
from conftest import TEMPLATE, tiny_llama

METHODS = ["delia", "common", "original", "random_init", "controlled"]


def micro_model(folder: Path) -> Path:
    """Save a random Llama of two layers and a tokenizer learned from the bundled task."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from delia_data.tasks import bundled_task, bundled_wordings

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    task = bundled_task()
    texts = [wording.plain or wording.text for wording in bundled_wordings()]
    texts += [turn.content for row in task.train for turn in row.messages]
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
    )
    fast.chat_template = TEMPLATE
    tiny_llama(vocabulary=len(fast), positions=2048).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def micro_grid(folder: Path, model: Path, **changes: Any) -> Path:
    """Write a grid of a few cells."""
    experiment = {
        "model": str(model),
        "training": {
            "epochs": 1,
            "batch_size": 4,
            "micro_batch_size": 4,
            "rank": 4,
            "save_every_steps": 2,
        },
        "cache": {"pairs": 24, "max_tokens": 8, "keep_truncated": True},
        "held_out_rows": 4,
        "max_tokens": 6,
        "examples": 2,
        "watch_every_steps": 2,
        "watched_rows": 2,
        "blocks": [
            {"methods": METHODS, "rows": [8], "ratios": [2]},
            {"methods": ["delia"], "rows": [8], "ratios": [2], "seeds": [1]},
        ],
        **changes,
    }
    grid = {"name": "micro", "experiments": {"formatted-text": experiment}}
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump(grid))
    return file


def tables_of(out: Path) -> Any:
    """Return the report and the results of a run, without times."""
    report = json.loads((out / "report.json").read_text())
    results = {
        file.parent.name: json.loads(file.read_text())
        for file in sorted((out / "cells").glob("*/result.json"))
    }
    return report, results
