"""A file for TRL: the YAML of `trl sft`, which leaves the column `prompt` out of the loss."""

from __future__ import annotations

from typing import Any, Final

import yaml

from delia_data.records import Format
from delia_data.training.exchange.plan import ExchangePlan

FORMATS: Final[tuple[Format, ...]] = ("prompt_completion",)


def files(plan: ExchangePlan) -> dict[str, str]:
    """The configuration, by its name."""
    settings = plan.settings
    loader = plan.loader
    columns = ["prompt", "completion"]
    config: dict[str, Any] = {
        "model_name_or_path": str(plan.model),
        "datasets": [{"path": loader, "data_files": str(plan.rows), "columns": columns}],
        "output_dir": str(plan.trained),
        "max_length": settings.max_length,
        "completion_only_loss": True,
        "train_sampling_strategy": "sequential",  # in the mixture's own order
        "packing": False,
        "per_device_train_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "seed": settings.seed,
        "logging_steps": 1,
        "save_steps": settings.save_every_steps,
        "report_to": list(settings.report_to) or "none",
    }
    if settings.gradient_checkpointing is not None:
        config["gradient_checkpointing"] = settings.gradient_checkpointing
    if settings.neftune_alpha is not None:
        config["neftune_noise_alpha"] = settings.neftune_alpha
    if settings.dtype != "auto":
        config |= {"dtype": settings.dtype, "bf16": settings.dtype == "bfloat16"}
    if settings.device == "cpu":
        config |= {"use_cpu": True, "bf16": False}
    if settings.adaptation != "full":
        config |= {
            "use_peft": True,
            "lora_r": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_dropout": settings.dropout,
            "lora_target_modules": [*settings.targets, plan.embedding],
        }
    if settings.adaptation == "qlora":
        config["load_in_4bit"] = True
    return {"trl.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}


def command(plan: ExchangePlan) -> str:
    """What starts the training."""
    return f"trl sft --config {plan.out / 'trl.yaml'}"


def notes(plan: ExchangePlan) -> list[str]:
    """What `trl sft` cannot do of the settings."""
    found = []
    settings = plan.settings
    if settings.adaptation != "full" and settings.token_training == "row":
        found.append("the token's row cannot be trained by itself: LoRA adapts the embedding")
    if settings.token_learning_rate is not None:
        found.append("token_learning_rate is left out: there is one learning rate")
    if not settings.truncate:
        found.append("rows of more than max_length tokens are cut: run delia lint first")
    return found
