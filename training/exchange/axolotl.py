"""Files for axolotl: one YAML. Its `chat_template` rows take the loss on the assistant alone."""

from __future__ import annotations

from typing import Any, Final

import yaml

from delia_data.records import Format
from delia_data.training.exchange.plan import ExchangePlan

FORMATS: Final[tuple[Format, ...]] = ("messages", "sharegpt")
_COLUMNS: Final[dict[Format, tuple[str, str, str]]] = {
    "messages": ("messages", "role", "content"),
    "sharegpt": ("conversations", "from", "value"),
}


def files(plan: ExchangePlan) -> dict[str, str]:
    """The configuration, by its name."""
    settings = plan.settings
    column, role, content = _COLUMNS[plan.format]
    config: dict[str, Any] = {
        "base_model": str(plan.model),
        "datasets": [
            {
                "path": str(plan.rows),
                "ds_type": plan.loader,
                "split": "train",
                "type": "chat_template",
                "field_messages": column,
                "message_property_mappings": {"role": role, "content": content},
                "roles_to_train": ["assistant"],
                "train_on_eos": "turn",
            }
        ],
        "chat_template": "tokenizer_default",
        "dataset_prepared_path": str(plan.out / "prepared"),
        "output_dir": str(plan.trained),
        "sequence_len": settings.max_length,
        "excess_length_strategy": "truncate" if settings.truncate else "raise",
        # In the mixture's own order.
        "shuffle_merged_datasets": False,
        "curriculum_sampling": True,
        "sample_packing": False,
        "micro_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "num_epochs": settings.epochs,
        "optimizer": "adamw_torch",
        "learning_rate": settings.learning_rate,
        "lr_scheduler": settings.schedule,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "gradient_checkpointing": settings.gradient_checkpointing is not False,
        "bf16": "auto",
        "seed": settings.seed,
        "logging_steps": 1,
        "save_steps": settings.save_every_steps,
    }
    if plan.end_of_turn != plan.eos:
        config |= {"eot_tokens": [plan.end_of_turn]}
        config["datasets"][0] |= {"train_on_eot": "turn"}
    if settings.neftune_alpha is not None:
        config["neftune_noise_alpha"] = settings.neftune_alpha
    if settings.adaptation != "full":
        config |= _lora(plan)
    if settings.token_learning_rate is not None:
        config["embedding_lr"] = settings.token_learning_rate
    return {"axolotl.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}


def _lora(plan: ExchangePlan) -> dict[str, Any]:
    settings = plan.settings
    lora: dict[str, Any] = {
        "adapter": "qlora" if settings.adaptation == "qlora" else "lora",
        "load_in_4bit": settings.adaptation == "qlora",
        "lora_r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "lora_target_modules": list(settings.targets),
    }
    if settings.token_training == "row":
        ids = sorted(plan.token_ids.values())
        return {**lora, "peft_trainable_token_indices": {plan.embedding: ids}}
    lora["lora_target_modules"].append(plan.embedding)
    return lora


def command(plan: ExchangePlan) -> str:
    """What starts the training."""
    return f"axolotl train {plan.out / 'axolotl.yaml'}"


def notes(plan: ExchangePlan) -> list[str]:
    """What axolotl cannot do of the settings: all but one, for paths of some names."""
    if "mpt" in str(plan.model).lower() and plan.settings.gradient_checkpointing is not False:
        return [
            "axolotl takes a model whose path has 'mpt' in it for an MPT, and refuses "
            "gradient_checkpointing: move the model, or set that to false"
        ]
    return []
