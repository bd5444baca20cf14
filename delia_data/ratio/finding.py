"""From a task and a cache to the ratio that is enough: train a series, draw its curve, choose.

folder/
series.json          what the series was begun with; a rerun with other settings is refused
stages/              a folder for each ratio and seed
ratio.json           points, curve, recommendation
ratio.png            the curve
ratio-losses.png     the losses with the token, without it, and of pairs in no mixture
manifest.json, FINISHED

Further ratios and seeds go into the same folder, and another tolerance trains nothing.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from delia_data.errors import InputError, SettingsError, TokenError
from delia_data.outputs import (
    FINISHED,
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    finish,
    folder_lock,
    is_finished,
    write_json,
)
from delia_data.ratio.drawing import ratio_curve, ratio_losses
from delia_data.ratio.estimate import StageCost, estimate
from delia_data.ratio.ground import Ground, read_ground
from delia_data.ratio.outcome import read_outcome
from delia_data.ratio.result import RESULT, RatioResult
from delia_data.ratio.settings import Choice, RatioSettings
from delia_data.ratio.stage import Stage, check_stage, run_stage, stages_of
from delia_data.training import TrainSettings
from delia_data.training.data import ProvenanceWarning, mismatched_sources
from delia_data.training.loading import load_prepared_tokenizer

_SERIES: Final = "series.json"
_STAGES: Final = "stages"
_CURVE: Final = "ratio.png"
_LOSSES: Final = "ratio-losses.png"
_OWN: Final = frozenset({_SERIES, _STAGES, RESULT, _CURVE, _LOSSES})

OnStage = Callable[[Stage, int, int, int, int, float], None]
"""Called with a stage, its number and how many there are, its step and how many, and the loss."""


def find_ratio(
    task: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    training: TrainSettings,
    *,
    settings: RatioSettings | None = None,
    choice: Choice | None = None,
    keep_adapters: bool = False,
    on_step: OnStage = lambda stage, number, stages, step, steps, loss: None,
) -> RatioResult:
    """Train a series of ratios, and recommend the smallest that is about as good as the best.

    The paper says that "there must exist an optimal scale of diverse data", and gives no way to it
    (arXiv 2408.10841). A killed run goes on where it stopped when it is called again.

    Args:
        task: The task's folder, as `delia diversify` writes it, with held-out rows.
        cache: A cache folder, or a file of pairs.
        folder: Where stages and result go.
        training: How each stage is trained; its seed is replaced by those of the series.
        settings: The series.
        choice: How a ratio is chosen of it.
        keep_adapters: Leave the adapter of every stage in its folder; a warm series does anyway.
        on_step: Called after each training step.

    Returns:
        The result, as it stands in `ratio.json`.

    Raises:
        InputError: It is no task folder, has no held-out rows, or there is no such cache; or
            selectivity is asked for, and a held-out row has no plain form.
        RatioError: The cache is too small for the series.
        TokenError: The training is for another token than the task's.
        SettingsError: The folder was begun with other settings.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process works there.
        UnfinishedError: The task or the cache is not finished.
        EngineError: Memory ran out.
        MissingExtraError: TRL, PEFT or matplotlib is not installed.

    Warns:
        ProvenanceWarning: The pairs were written by another model.
    """
    settings, choice, root = settings or RatioSettings(), choice or Choice(), Path(folder)
    ground, plan = _checked(task, cache, root, training, settings)
    if choice.by == "selectivity" and not ground.plain:
        raise InputError(
            "a held-out row has no plain form, so that there is no selectivity to choose by: "
            "choose by loss, or diversify the task again"
        )
    tokenizer = load_prepared_tokenizer(training)
    for line in mismatched_sources(ground.written_by, training.model, tokenizer):
        warnings.warn(line, ProvenanceWarning, stacklevel=2)
    stages = stages_of(settings)
    with folder_lock(root):
        for stage in stages:  # all of them before any is trained
            check_stage(stage, root / _STAGES / stage.name, plan)
        write_json(root / _SERIES, plan)
        if not all(is_finished(root / _STAGES / stage.name) for stage in stages):
            (root / FINISHED).unlink(missing_ok=True)
        for number, stage in enumerate(stages, start=1):
            run_stage(
                stage,
                ground,
                training,
                root / _STAGES / stage.name,
                plan,
                keep_adapter=keep_adapters or settings.warm,
                on_step=_told(on_step, stage, number, len(stages)),
            )
        found = read_outcome(root / _STAGES, ground, training, settings, choice)
        (root / FINISHED).unlink(missing_ok=True)
        write_json(root / RESULT, found.as_dict())
        ratio_curve(found).png(root / _CURVE)
        ratio_losses(found).png(root / _LOSSES)
        rows = {
            "task": found.trained_task_rows,
            "held_out": found.held_out_rows,
            "kept_out": len(ground.kept_out),
        }
        inputs = ground.hashes
        finish(root, Manifest(kind="evaluation", settings=found.settings, inputs=inputs, rows=rows))
    return found


def estimate_ratio(
    task: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    training: TrainSettings,
    *,
    settings: RatioSettings | None = None,
) -> list[StageCost]:
    """Tell what a series will cost, stage by stage; nothing is written. As `find_ratio`."""
    settings, root = settings or RatioSettings(), Path(folder)
    ground, _ = _checked(task, cache, root, training, settings)
    tokenizer = load_prepared_tokenizer(training)
    return estimate(ground, settings, training, tokenizer, root / _STAGES)


def _checked(
    task: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    root: Path,
    training: TrainSettings,
    settings: RatioSettings,
) -> tuple[Ground, dict[str, Any]]:
    """Read what is given; all that can be wrong with it is found before anything is written."""
    check_folder_is_ours(root, _OWN, sign=_SERIES)
    if settings.warm and training.adaptation == "full":
        raise SettingsError(
            "a warm series goes on from adapters, and adaptation 'full' trains none: leave "
            "--warm out, or train with LoRA"
        )
    ground = read_ground(task, cache, settings)
    if training.token != ground.task.token:
        raise TokenError(
            f"{os.fspath(task)} is for the token {ground.task.token}, and {training.token} is to "
            f"be trained: set token to {ground.task.token} (--token '{ground.task.token}')"
        )
    shared = settings.as_dict()
    for name in ("ratios", "seeds"):  # more of them can be added
        del shared[name]
    trained = {name: value for name, value in training.as_dict().items() if name != "seed"}
    plan = {"series": shared, "training": trained, **ground.hashes}
    if (root / _SERIES).is_file():
        check_same_settings(root, json.loads((root / _SERIES).read_text("utf-8")), plan)
    return ground, plan


def _told(
    on_step: OnStage, stage: Stage, number: int, stages: int
) -> Callable[[int, int, float], None]:
    return lambda step, steps, loss: on_step(stage, number, stages, step, steps, loss)
