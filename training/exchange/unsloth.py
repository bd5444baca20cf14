"""A notebook cell for Unsloth. Rows are labelled in the cell, by the model's own chat template."""

from __future__ import annotations

from typing import Any, Final

from delia_data.records import Format
from delia_data.training.exchange.plan import ExchangePlan

FORMATS: Final[tuple[Format, ...]] = ("messages",)
_CELL: Final = '''\
# %% DELIA with Unsloth: paste into a notebook, or run as a script
from unsloth import FastLanguageModel, UnslothTrainer, UnslothTrainingArguments  # before all others
from datasets import load_dataset
from transformers import DataCollatorForSeq2Seq

model, tokenizer = FastLanguageModel.from_pretrained(
    {loading}
)
{adapter}

def encode(row):
    """The loss is on the answer alone: everything before it is labelled -100."""
    turns = row["messages"]
    prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=True)
    whole = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    begin = len(prompt["input_ids"])
    if len(whole) > {max_length}{refuse}
    return {{"input_ids": whole, "labels": [-100] * begin + whole[begin:]}}


rows = load_dataset({loader!r}, data_files={rows!r}, split="train")
trainer = UnslothTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=rows.map(encode, remove_columns=rows.column_names),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
    args=UnslothTrainingArguments(
        {arguments}
    ),
)
trainer.train()
model.save_pretrained({trained!r})
tokenizer.save_pretrained({trained!r})
'''
_ADAPTER: Final = """\
model = FastLanguageModel.get_peft_model(
    model,
    {lora}
)
"""


def files(plan: ExchangePlan) -> dict[str, str]:
    """The cell, by its name."""
    settings = plan.settings
    full = settings.adaptation == "full"
    loading = {
        "model_name": str(plan.model),
        "max_seq_length": settings.max_length,
        "load_in_4bit": settings.adaptation == "qlora",
        "full_finetuning": full,
    }
    lora = {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        # Unsloth trains the embedding that is named here as a whole, with a rate of its own.
        "target_modules": [*settings.targets, plan.embedding],
        "random_state": settings.seed,
    }
    arguments: dict[str, Any] = {
        "output_dir": str(plan.trained),
        "max_length": settings.max_length,
        "per_device_train_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "embedding_learning_rate": settings.token_learning_rate or settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "train_sampling_strategy": "sequential",
        "packing": False,
        "seed": settings.seed,
        "logging_steps": 1,
        "save_steps": settings.save_every_steps,
        "report_to": list(settings.report_to) or "none",
    }
    if settings.neftune_alpha is not None:
        arguments["neftune_noise_alpha"] = settings.neftune_alpha
    cut = f":\n        whole = whole[:{settings.max_length}]"
    refuse = ':\n        raise ValueError(f"a row has {len(whole)} tokens: raise max_length")'
    cell = _CELL.format(
        loading=_keywords(loading, 4),
        adapter="" if full else _ADAPTER.format(lora=_keywords(lora, 4)),
        max_length=settings.max_length,
        refuse=cut if settings.truncate else refuse,
        loader=plan.loader,
        rows=str(plan.rows),
        arguments=_keywords(arguments, 8),
        trained=str(plan.trained),
    )
    return {"unsloth_cell.py": cell}


def _keywords(values: dict[str, Any], indent: int) -> str:
    """Keyword arguments, one a line."""
    given = [f"{name}={value!r}," for name, value in values.items()]
    return ("\n" + " " * indent).join(given)


def command(plan: ExchangePlan) -> str:
    """What starts the training."""
    return f"python {plan.out / 'unsloth_cell.py'}"


def notes(plan: ExchangePlan) -> list[str]:
    """What Unsloth cannot do of the settings."""
    if plan.settings.adaptation == "full" or plan.settings.token_training == "lora":
        return []
    return ["the token's row cannot be trained by itself: the whole embedding is trained"]
