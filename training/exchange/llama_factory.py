"""Files for LLaMA-Factory: `dataset_info.json` and a YAML; it leaves prompts out of the loss."""

from __future__ import annotations

import json
from typing import Any, Final

import yaml

from delia_data.errors import InputError
from delia_data.records import Format
from delia_data.training.exchange.plan import ExchangePlan

FORMATS: Final[tuple[Format, ...]] = ("messages", "sharegpt", "alpaca")
_DATASET: Final = "delia_mix"


def files(plan: ExchangePlan) -> dict[str, str]:
    """The description of the rows and the configuration, by their names.

    Raises:
        InputError: The chat format is one that LLaMA-Factory cannot tell.
    """
    settings = plan.settings
    config: dict[str, Any] = {
        "model_name_or_path": str(plan.model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full" if settings.adaptation == "full" else "lora",
        "dataset_dir": str(plan.out),
        "dataset": _DATASET,
        "cutoff_len": settings.max_length,
        "disable_shuffling": True,  # in the mixture's own order
        "packing": False,
        "output_dir": str(plan.trained),
        "per_device_train_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "num_train_epochs": settings.epochs,
        "optim": "adamw_torch",
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "disable_gradient_checkpointing": settings.gradient_checkpointing is False,
        "bf16": settings.dtype != "float32",
        "seed": settings.seed,
        "logging_steps": 1,
        "save_steps": settings.save_every_steps,
        "report_to": "none",
    }
    if settings.device == "cpu":
        config |= {"use_cpu": True, "bf16": False}
    # Without a name the chat format is read off the tokenizer's own template, by putting a system
    # turn to it.
    if plan.family is not None:
        config["template"] = plan.family
    elif not plan.system_turns:
        raise InputError(
            f"{plan.model}: LLaMA-Factory reads a chat format off the tokenizer only where it has "
            "system turns, and this one has none: give it a name of its own there, or use another "
            "trainer"
        )
    if settings.neftune_alpha is not None:
        config["neftune_noise_alpha"] = settings.neftune_alpha
    if settings.adaptation != "full":
        config |= {
            "lora_rank": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_dropout": settings.dropout,
            "lora_target": ",".join([*settings.targets, plan.embedding]),
        }
    if settings.adaptation == "qlora":
        config |= {"quantization_bit": 4, "quantization_method": "bnb"}
    return {
        "dataset_info.json": json.dumps({_DATASET: _rows(plan)}, indent=2) + "\n",
        "llama_factory.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }


def _rows(plan: ExchangePlan) -> dict[str, Any]:
    """What the columns of the rows are."""
    file = {"file_name": str(plan.rows)}
    if plan.format == "alpaca":
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        return {**file, "formatting": "alpaca", "columns": columns}
    if plan.format == "sharegpt":
        tags = ("from", "value", "human", "gpt", "system")
        column = "conversations"
    else:
        tags = ("role", "content", "user", "assistant", "system")
        column = "messages"
    names = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag")
    return {
        **file,
        "formatting": "sharegpt",
        "columns": {"messages": column},
        "tags": dict(zip(names, tags, strict=True)),
    }


def command(plan: ExchangePlan) -> str:
    """What starts the training."""
    return f"llamafactory-cli train {plan.out / 'llama_factory.yaml'}"


def notes(plan: ExchangePlan) -> list[str]:
    """What LLaMA-Factory cannot do of the settings."""
    found = ["rows of more than cutoff_len tokens are cut without a word: run delia lint first"]
    settings = plan.settings
    if settings.adaptation != "full" and settings.token_training == "row":
        found.append("the token's row cannot be trained by itself: LoRA adapts the embedding")
    if settings.token_learning_rate is not None:
        found.append("token_learning_rate is left out: there is one learning rate")
    return found
