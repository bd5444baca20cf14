"""LoRA fine-tuning on a mixture: load, add the token, lint, train, save (paper, section 4)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.errors import EngineError, InputError, TokenError
from delia_data.files import canonical_json, folder_lock, write_json
from delia_data.manifest import (
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    finish,
    is_finished,
    read_manifest,
)
from delia_data.models import load_model, load_tokenizer, quiet
from delia_data.records import Record, read_record
from delia_data.tokens import add_token, lint
from delia_data.training.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LOSSES", "load_adapter", "train"]

LOSSES: Final = "losses.json"
_CHECKPOINTS: Final = ".checkpoints"
_PLAN: Final = "training.json"
_SAVE_EVERY_STEPS: Final = 10


def train(
    settings: TrainSettings,
    rows: Iterable[dict[str, Any]],
    folder: str | os.PathLike[str],
    *,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Manifest:
    """Train a LoRA adapter and the token's embedding row on a mixture, in the mixture's order.

    A killed run goes on from its last checkpoint when it is called again.

    Args:
        settings: The settings.
        rows: Rows of a mixture: a row format's columns, and `source` (`"task"` or `"cache"`).
        folder: Where the adapter, the tokenizer, the losses and the manifest go.
        on_step: Called after each step with its number, the number of steps, and the loss.

    Returns:
        The manifest of the finished adapter.

    Raises:
        InputError: There are no rows.
        SettingsError: The folder was begun with other rows or settings.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process trains there.
        TokenError: The lint found rows in which the token is not whole.
        MissingExtraError: TRL or PEFT is not installed.
    """
    require("trl", extra="train")
    require("peft", extra="train")
    root = Path(folder)
    records = [(read_record(row), row.get("source") != "cache") for row in rows]
    if not records:
        raise InputError("the mixture has no training rows: make it again")
    plan = {**settings.as_dict(), "rows_sha256": _rows_hash(records)}
    check_folder_is_ours(root, _adapter_names(root), sign=_PLAN)
    with folder_lock(root):
        if (root / _PLAN).is_file():
            check_same_settings(root, json.loads((root / _PLAN).read_text()), plan)
        if is_finished(root):
            return read_manifest(root)
        write_json(root / _PLAN, plan)
        return _train(settings, records, root, plan["rows_sha256"], on_step)


def _train(
    settings: TrainSettings,
    records: list[tuple[Record, bool]],
    root: Path,
    rows_sha256: str,
    on_step: Callable[[int, int, float], None],
) -> Manifest:
    model, tokenizer = _prepare(settings)
    _refuse_unsound(records, tokenizer, settings)
    losses = _run(settings, model, tokenizer, [record for record, _ in records], root, on_step)
    write_json(root / LOSSES, losses)
    manifest = Manifest(
        kind="adapter",
        settings=settings.as_dict(),
        inputs={"mixture": rows_sha256},
        rows={
            "task": sum(1 for _, is_task in records if is_task),
            "cache": sum(1 for _, is_task in records if not is_task),
        },
        details={"steps": len(losses), "last_loss": losses[-1]["loss"]},
    )
    done = finish(root, manifest)
    shutil.rmtree(root / _CHECKPOINTS)
    return done


def load_adapter(
    folder: str | os.PathLike[str], *, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a trained adapter, merged into its model, with the tokenizer that has the token.

    Raises:
        UnfinishedError: The training has not come to its end.
    """
    peft = require("peft", extra="train")
    settings = TrainSettings.from_dict(read_manifest(folder).settings)
    model, tokenizer = _prepare(settings, device=device)
    with quiet():
        trained = peft.PeftModel.from_pretrained(model, os.fspath(folder))
    merged: PreTrainedModel = trained.merge_and_unload()
    # Trainable again, as a model that was just loaded is: with a frozen head torch.matmul copies
    # the head for every row of a batch (3 GB for 50 rows of the embedded model).
    return merged.requires_grad_(True).eval(), tokenizer


def _prepare(
    settings: TrainSettings, *, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = load_model(settings.model, device=device or settings.device)
    tokenizer = load_tokenizer(settings.model)
    add_token(
        model,
        tokenizer,
        settings.token,
        init=settings.init,
        description=settings.description,
        seed=settings.seed,
    )
    return model, tokenizer


def _rows_hash(records: list[tuple[Record, bool]]) -> str:
    """Hash of the rows in their order."""
    rows = [[record.id, is_task] for record, is_task in records]
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def _refuse_unsound(
    records: list[tuple[Record, bool]],
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
) -> None:
    problems = lint(records, tokenizer, token=settings.token, max_length=settings.max_length)
    if problems:
        first = problems[0]
        raise TokenError(
            f"{len(problems)} problems in {len(records)} rows, the first in row {first.row}: "
            f"{first.reason}; mend the mixture, or raise max_length"
        )


def _run(
    settings: TrainSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Record],
    root: Path,
    on_step: Callable[[int, int, float], None],
) -> list[dict[str, float]]:
    """Train, and give the loss of every step."""
    import peft
    import transformers
    import trl
    from datasets import Dataset

    from delia_data.training.progress import StepCallback
    from delia_data.training.trainer import MixtureTrainer

    rows = [
        {
            "prompt": [message.as_dict() for message in record.prompt],
            "completion": [record.messages[-1].as_dict()],
        }
        for record in records
    ]
    micro = settings.micro_batch_size or settings.batch_size
    config = trl.SFTConfig(
        output_dir=str(root / _CHECKPOINTS),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_length=settings.max_length,
        completion_only_loss=True,
        train_sampling_strategy="sequential",
        gradient_checkpointing=settings.device != "cpu",
        bf16=False,
        use_cpu=settings.device == "cpu",
        seed=settings.seed,
        logging_steps=1,
        save_steps=_SAVE_EVERY_STEPS,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
    )
    targets = "all-linear" if settings.targets == ("all-linear",) else list(settings.targets)
    lora = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        trainable_token_indices={
            _embedding_name(model): [int(tokenizer.convert_tokens_to_ids(settings.token))]
        },
        task_type="CAUSAL_LM",
    )
    with quiet():
        trainer = MixtureTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[StepCallback(on_step)],
            token_learning_rate=settings.token_learning_rate,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=_last_checkpoint(root))
        except (RuntimeError, MemoryError) as error:
            if "memory" not in str(error).lower():
                raise
            raise EngineError(
                f"the device ran out of memory at {micro} rows of up to {settings.max_length} "
                "tokens at once: lower micro_batch_size or max_length"
            ) from error
        trainer.model.save_pretrained(root)
        tokenizer.save_pretrained(root)
    logged = trainer.state.log_history
    return [{"step": e["step"], "loss": float(e["loss"])} for e in logged if "loss" in e]


def _embedding_name(model: PreTrainedModel) -> str:
    """Last part of the name of the input embedding, as PEFT asks for it."""
    embedding = model.get_input_embeddings()
    name: str = next(name for name, module in model.named_modules() if module is embedding)
    return name.rsplit(".", 1)[-1]


def _last_checkpoint(root: Path) -> str | None:
    """The newest whole checkpoint; one that a kill cut short has no trainer state yet."""
    whole = [
        state.parent
        for state in (root / _CHECKPOINTS).glob("checkpoint-*/trainer_state.json")
        if _is_json(state)
    ]
    newest = max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
    return None if newest is None else str(newest)


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _adapter_names(root: Path) -> frozenset[str]:
    """Names that an adapter's folder may hold: those that saving one writes."""
    if not root.is_dir():
        return frozenset()
    patterns = (
        "adapter_*",
        "tokenizer*",
        "special_tokens*",
        "chat_template*",
        "README.md",
        LOSSES,
        _PLAN,
    )
    return frozenset(path.name for pattern in patterns for path in root.glob(pattern))
