"""One stage of a series: a ratio trained from one seed, and the losses of its model.

stage/
adapter/        what was trained; it goes when the losses are there, unless it is needed
stage.json      what the stage was begun with
losses.json     the loss of every answer, in the order of the rows
manifest.json, FINISHED
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from delia_data.outputs import (
    Manifest,
    check_same_settings,
    finish,
    is_finished,
    read_manifest,
    write_json,
)
from delia_data.ratio.ground import Ground
from delia_data.ratio.settings import RatioSettings
from delia_data.records import Record
from delia_data.reproduction.task_loss import AnswerLoss, answer_losses
from delia_data.training import TrainSettings, load_adapter, train

ADAPTER: Final = "adapter"
_LOSSES: Final = "losses.json"
_STAGE: Final = "stage.json"

OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """One training of a series.

    Attributes:
        ratio: Pairs for each task row.
        seed: Seed of pick, order and training.
        after: The ratio whose adapter it begins from; None begins from the model.
    """

    ratio: float
    seed: int
    after: float | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"ratio-{self.ratio:.12g}_seed-{self.seed}"

    @property
    def start(self) -> Stage | None:
        """The stage that it begins from; which stage that one began from is not said."""
        return None if self.after is None else Stage(self.after, self.seed)


@dataclass(frozen=True, slots=True)
class StageLosses:
    """Losses of the answers after one stage, in the order of the rows.

    Attributes:
        held_out: Of held-out rows where the prompt names the token.
        plain: Of the same rows where it does not; none where a row has no plain form.
        pairs: Of pairs that are in no mixture.
    """

    held_out: tuple[AnswerLoss, ...]
    plain: tuple[AnswerLoss, ...]
    pairs: tuple[AnswerLoss, ...]


def stages_of(settings: RatioSettings) -> list[Stage]:
    """The stages in the order in which they are run: all seeds of a ratio before the next ratio."""
    before: list[float | None] = [None, *(settings.ratios if settings.warm else ())]
    before += [None] * len(settings.ratios)
    return [
        Stage(float(ratio), seed, after)
        for ratio, after in zip(settings.ratios, before, strict=False)
        for seed in settings.all_seeds
    ]


def check_stage(stage: Stage, folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Give the settings of a stage, if its folder is new or was begun with the same ones.

    Raises:
        SettingsError: It was begun with others.
    """
    begun = {**plan, **asdict(stage)}
    if (folder / _STAGE).is_file():
        check_same_settings(folder, json.loads((folder / _STAGE).read_text("utf-8")), begun)
    return begun


def run_stage(
    stage: Stage,
    ground: Ground,
    training: TrainSettings,
    folder: Path,
    plan: dict[str, Any],
    *,
    keep_adapter: bool = False,
    on_step: OnStep = lambda step, steps, loss: None,
) -> None:
    """Train and measure one stage; a finished one is left as it is, a killed one goes on.

    Args:
        stage: The stage.
        ground: What the stages share.
        training: Settings of the training; its seed is the stage's.
        folder: The stage's folder, beside those of the others.
        plan: What all stages were begun with.
        keep_adapter: Leave the adapter there.
        on_step: Called after each step with its number, the number of steps, and the loss.

    Raises:
        SettingsError: The stage was begun with other settings.
        DeliaError: It cannot be trained; the folder stays for another try.
    """
    begun = check_stage(stage, folder, plan)
    if is_finished(folder):
        return
    settings = replace(training, seed=stage.seed)
    rows = ground.rows(stage.ratio, stage.seed, after=stage.after)
    start = None if stage.start is None else folder.parent / stage.start.name / ADAPTER
    write_json(folder / _STAGE, begun)
    train(settings, rows, folder / ADAPTER, on_step=on_step, start=start)
    trained = read_manifest(folder / ADAPTER)
    model, tokenizer = load_adapter(folder / ADAPTER, device=str(trained.settings["device"]))

    def losses(records: Sequence[Record]) -> list[dict[str, Any]]:
        return (
            [asdict(each) for each in answer_losses(model, tokenizer, records)] if records else []
        )

    found = {
        "held_out": losses(ground.held_out),
        "plain": losses(ground.plain),
        "pairs": losses(ground.kept_out),
    }
    write_json(folder / _LOSSES, found)
    if not keep_adapter:
        shutil.rmtree(folder / ADAPTER)
    finish(
        folder,
        Manifest(
            kind="evaluation",
            settings=begun,
            inputs={**ground.hashes, "rows": trained.inputs["mixture"]},
            rows={**trained.rows, **{name: len(each) for name, each in found.items()}},
            dropped=trained.dropped,
            details={"steps": trained.details["steps"]},
        ),
    )


def read_losses(folder: Path) -> StageLosses:
    """Read the losses of a finished stage.

    Raises:
        UnfinishedError: The stage has no finish marker.
    """
    read_manifest(folder)
    found = json.loads((folder / _LOSSES).read_text(encoding="utf-8"))
    return StageLosses(
        **{name: tuple(AnswerLoss(**each) for each in losses) for name, losses in found.items()}
    )
