"""Fine-tuning on a mixture: open, encode and lint, load, train, save (paper, section 4)."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.errors import InputError, TokenError
from delia_data.models import quiet
from delia_data.outputs import (
    Manifest,
    canonical_json,
    check_folder_is_ours,
    check_same_settings,
    finish,
    folder_lock,
    is_finished,
    read_manifest,
    write_json,
    write_text,
)
from delia_data.tokens import split_tokens
from delia_data.training.adapter import (
    LOSSES,
    PLAN,
    RECIPE,
    TENSORBOARD,
    adapter_names,
    check_start,
    load_start,
)
from delia_data.training.data import (
    EncodedRows,
    ProvenanceWarning,
    TrainingRows,
    count_rows,
    encode_rows,
    mismatched_sources,
    open_held_out,
    open_training_rows,
)
from delia_data.training.loading import (
    context_of,
    is_main_process,
    load_prepared,
    load_prepared_tokenizer,
    lora_config,
    resolve,
    training_errors,
    wait_for_all,
)
from delia_data.training.settings import TrainSettings, as_recipe
from delia_data.training.watching import BEST_BY, WATCHED, AlignmentWatch, LeakWatch, Watch

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from delia_data.evaluation.probes import EvalTask

CHECKPOINTS: Final = ".checkpoints"
"""Folder in the adapter's folder that holds checkpoints while the model trains."""


OnStep = Callable[[int, int, float], None]


def train(
    settings: TrainSettings,
    mixture: Any,
    folder: str | os.PathLike[str],
    *,
    on_step: OnStep = lambda step, steps, loss: None,
    on_resolved: Callable[[TrainSettings], None] = lambda settings: None,
    watches: Sequence[Watch] | None = None,
    start: str | os.PathLike[str] | None = None,
) -> Manifest:
    """Train a model and the token's embedding row on a mixture, in the mixture's order.

    Calling it again after a kill resumes from the last checkpoint.

    Args:
        settings: The settings.
        mixture: The folder that `delia mix` wrote, the mixture that `mix` returned, or anything
            else that `reading.open_source` takes. A column `source` (`"task"` or `"cache"`) names
            the kind of each row; without it, rows whose prompt contains the token are task rows.
        folder: Folder for the adapter, the tokenizer, the losses and the manifest.
        on_step: Called after each step with its number, the number of steps, and the loss.
        on_resolved: Called with the resolved settings when the rows are read, before a model is
            loaded.
        watches: Measurements to take every `watch_every_steps` in addition to those on held-out
            rows; None measures the token's distances to its keywords.
        start: A finished adapter to begin from instead of a new one, trained with the same model,
            token and LoRA settings. Optimizer and schedule start from step 0.

    Returns:
        The manifest of the finished adapter.

    Raises:
        InputError: There are no rows, rows are longer than the context, the model has no chat
            template, there is nothing to measure, or the device is not available.
        SettingsError: A training with other rows or settings was started in the folder.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process trains there.
        UnfinishedError: The mixture is not finished.
        TokenError: The mixture is for another token, or the lint found problems.
        EngineError: Out of memory.
        OutputError: The disk is full.
        MissingExtraError: TRL or PEFT is not installed.

    Warns:
        ProvenanceWarning: The pairs were written by another model.
    """
    require("trl", extra="train")
    require("peft", extra="train")
    root = Path(folder)
    given = open_training_rows(mixture)
    _check_tokens(given, settings.tokens)
    counts, rows_sha256 = count_rows(given, settings.tokens)
    settings = resolve(settings, rows=sum(counts.values()))
    inputs = {"mixture": rows_sha256}
    if start is not None:
        inputs["start"] = check_start(start, settings)
    held_out = None
    if settings.watch_every_steps is not None:
        held_out = open_held_out(given, settings)
        if not (held_out.rows or held_out.task or settings.watch_keywords or watches):
            raise InputError(
                f"watch_every_steps has nothing to measure, because {given.name} has no held-out "
                "rows: set watch_pairs, watch_task or watch_keywords, or leave it out"
            )
        if settings.best_by:  # they decide which checkpoint is kept
            inputs["held_out"] = held_out.sha256
    hashes = {f"{name}_sha256": sha256 for name, sha256 in inputs.items() if name != "mixture"}
    plan = {**settings.as_dict(), "rows_sha256": rows_sha256, **hashes}
    done = _is_done(root, plan)
    on_resolved(settings)
    if done:
        return read_manifest(root)
    # Every error of the inputs is raised before anything is written.
    tokenizer = load_prepared_tokenizer(settings)
    context = context_of(settings.model)
    rows = encode_rows(given, tokenizer, settings, context=context)
    measured = {
        name: encode_rows(some, tokenizer, settings, context=context).dataset
        for name, some in (held_out.rows if held_out else {}).items()
    }
    mismatches = mismatched_sources(
        given.written_by, settings.model, tokenizer, pairs_loss=settings.pairs_loss
    )
    for line in mismatches:
        warnings.warn(line, ProvenanceWarning, stacklevel=2)
    with training_errors(root, lower="micro_batch_tokens, micro_batch_size or max_length"):
        model = load_prepared(settings, tokenizer)
    token_ids = tokenizer.convert_tokens_to_ids(list(split_tokens(*settings.tokens)))
    lora = None if settings.adaptation == "full" else lora_config(settings, model, token_ids)
    # The main process holds the folder for all.
    with folder_lock(root) if is_main_process() else nullcontext():
        if _is_done(root, plan):
            return read_manifest(root)
        with training_errors(root, lower="micro_batch_tokens, micro_batch_size or max_length"):
            if is_main_process():
                write_json(root / PLAN, plan)
            losses, more = _run(
                settings,
                model,
                tokenizer,
                lora,
                rows,
                root,
                on_step,
                watches=watches,
                start=start,
                held_out=measured,
                task=held_out.task if held_out else None,
            )
            if is_main_process():
                write_json(root / LOSSES, losses)
                write_text(root / RECIPE, as_recipe(settings))
        manifest = Manifest(
            kind="adapter",
            settings=settings.as_dict(),
            inputs=inputs,
            rows=counts,
            dropped=rows.dropped,
            details={
                "steps": len(losses),
                "last_loss": losses[-1]["loss"],
                **more,
                **({"cut": rows.cut} if rows.cut else {}),
                **({"read": read} if (read := given.source.report.details()) else {}),
                **({"foreign_words": mismatches} if mismatches else {}),
                **({"mixture": mixed} if (mixed := given.provenance) else {}),
            },
        )
        if is_main_process():
            manifest = finish(root, manifest)
            shutil.rmtree(root / CHECKPOINTS, ignore_errors=True)
        wait_for_all()
        return manifest


def _is_done(root: Path, plan: dict[str, Any]) -> bool:
    """Return whether a folder is finished; refuse one that holds something else."""
    check_folder_is_ours(root, adapter_names(root), sign=PLAN)
    if (root / PLAN).is_file():
        check_same_settings(root, json.loads((root / PLAN).read_text()), plan)
    return is_finished(root)


def _check_tokens(rows: TrainingRows, tokens: Sequence[str]) -> None:
    """Refuse a mixture whose task rows name other tokens, or none."""
    if rows.tokens is None or sorted(rows.tokens) == sorted(tokens):
        return
    given = ", ".join(tokens)
    if not rows.tokens:
        raise TokenError(
            f"{rows.name} was mixed without a token, but token is {given}: mix it with --token"
        )
    wanted = ",".join(rows.tokens)
    number = "token" if len(rows.tokens) == 1 else f"{len(rows.tokens)} tokens"
    raise TokenError(
        f"{rows.name} is for the {number} {', '.join(rows.tokens)}, but token is {given}: "
        f"set token to {wanted} (--token '{wanted}')"
    )


def _run(
    settings: TrainSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lora: LoraConfig | None,
    rows: EncodedRows,
    root: Path,
    on_step: OnStep,
    *,
    watches: Sequence[Watch] | None,
    start: str | os.PathLike[str] | None,
    held_out: Mapping[str, Any],
    task: EvalTask | None,
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Train, save, and return the losses of every step, and details of the best checkpoint."""
    import transformers
    import trl
    from transformers.integrations import TensorBoardCallback

    from delia_data.training.trainer import MixtureTrainer, StepCallback

    assert settings.batch_size is not None  # resolved
    micro = settings.micro_batch_size or settings.batch_size
    config = trl.SFTConfig(
        output_dir=str(root / CHECKPOINTS),
        per_device_train_batch_size=micro,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        lr_scheduler_type=settings.schedule,
        **({"optim": settings.optimizer} if settings.optimizer else {}),
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_length=None,  # rows are already cut, or short enough
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=bool(settings.gradient_checkpointing),
        neftune_noise_alpha=settings.neftune_alpha,
        bf16=False,
        use_cpu=settings.device == "cpu",
        seed=settings.seed,
        logging_steps=1,
        save_steps=settings.checkpoint_steps,
        save_total_limit=1,
        eval_strategy="steps" if settings.watch_every_steps else "no",
        eval_steps=settings.watch_every_steps,
        load_best_model_at_end=settings.best_by is not None,
        metric_for_best_model=BEST_BY.get(settings.best_by or ""),
        greater_is_better=False,
        report_to=list(settings.report_to) or "none",
        run_name=_run_name(root, settings),
        disable_tqdm=True,
    )
    if config.n_gpu > 1:
        config._n_gpu = 1  # one process computes on one GPU; several are for accelerate launch
    with quiet():
        trainer = MixtureTrainer(
            model=model,
            args=config,
            train_dataset=rows.dataset,
            eval_dataset=dict(held_out),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[StepCallback(on_step)],
            batch_size=settings.batch_size,
            micro_batch_tokens=settings.micro_batch_tokens if settings.packing else None,
            token_ids=tokenizer.convert_tokens_to_ids(list(split_tokens(*settings.tokens))),
            token_rate=settings.token_rate,
            pairs_loss=settings.pairs_loss,
        )
        if start is not None:
            load_start(trainer.model, start)
        trainer.remove_callback(transformers.PrinterCallback)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(root / TENSORBOARD)
        checkpoint, stalled = _last_checkpoint(root), False
        if settings.watch_every_steps is not None:
            watches = _alignment_watches(settings) if watches is None else list(watches)
            if task is not None:
                watches.append(LeakWatch(task, trainer.untrained, rows=settings.watch_rows))
            stalled = trainer.watch(
                watches,
                settings.watch_every_steps,
                root / WATCHED,
                patience=settings.patience,
                checkpoint=checkpoint,
            )
        if not stalled:
            trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_whole(root)
    state = trainer.state
    names = ("step", "loss", "loss_task", "loss_pairs")
    losses = [
        {name: entry[name] for name in names if name in entry}
        for entry in state.log_history
        if "loss" in entry
    ]
    details = {"best_step": state.best_global_step} if state.best_global_step else {}
    if len(losses) < state.max_steps:
        details["planned_steps"] = state.max_steps
    return losses, details


def _alignment_watches(settings: TrainSettings) -> list[Watch]:
    tokens = split_tokens(*settings.tokens)
    return [
        AlignmentWatch(
            token,
            settings.watch_keywords,
            init=settings.init,
            prefix=f"{token}/" if len(tokens) > 1 else "",
        )
        for token in tokens
        if settings.watch_keywords
    ]


def _last_checkpoint(root: Path) -> str | None:
    """Return the newest whole checkpoint; one that a kill cut short has no trainer state yet."""
    whole = []
    for state in (root / CHECKPOINTS).glob("checkpoint-*/trainer_state.json"):
        try:
            json.loads(state.read_text(encoding="utf-8"))
        except ValueError:
            continue
        whole.append(state.parent)
    newest = max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
    return None if newest is None else str(newest)


def _run_name(root: Path, settings: TrainSettings) -> str:
    """Return the name of this run for trackers; a resumed run has the same name."""
    identity = canonical_json({"folder": str(root.resolve()), **settings.as_dict()})
    return f"{root.resolve().name}-{hashlib.sha256(identity).hexdigest()[:8]}"


if __name__ == "__main__":  # the earlier name of `python -m delia_data train`, for one release
    sys.argv.insert(1, "train")
    runpy.run_module("delia_data", run_name="__main__", alter_sys=False)
