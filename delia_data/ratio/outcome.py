"""What the finished stages of a series come to: numbers with intervals, curve, choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from delia_data.ratio.draws import Series, draw_series
from delia_data.ratio.ground import Ground
from delia_data.ratio.recommendation import recommend
from delia_data.ratio.result import RatioPoint, RatioResult, values_of
from delia_data.ratio.settings import Choice, RatioSettings
from delia_data.ratio.stage import StageLosses, read_losses, stages_of
from delia_data.ratio.words import sentences
from delia_data.reproduction.task_loss import AnswerLoss
from delia_data.training import TrainSettings


def read_outcome(
    folder: Path,
    ground: Ground,
    training: TrainSettings,
    settings: RatioSettings,
    choice: Choice,
) -> RatioResult:
    """Read the losses of finished stages, and choose.

    Args:
        folder: Folder of the stages.
        ground: What they share.
        training: How they were trained.
        settings: The series.
        choice: How a ratio is chosen of it.

    Raises:
        UnfinishedError: A stage is not finished.
    """
    found = [read_losses(folder / stage.name) for stage in stages_of(settings)]
    grid = [found[at : at + settings.seeds] for at in range(0, len(found), settings.seeds)]

    def series(nats: Callable[[StageLosses], np.ndarray[Any, Any]], tokens: Any) -> Series:
        table = np.asarray([[nats(each) for each in seeds] for seeds in grid])
        floor = choice.tolerance / 20
        return draw_series(table, tokens, draws=choice.draws, seed=settings.seed, floor=floor)

    first = grid[0][0]
    held_out, pairs = _tokens(first.held_out), _tokens(first.pairs)
    by_loss = series(lambda each: _nats(each.held_out), held_out)
    by_pairs = series(lambda each: _nats(each.pairs), pairs)
    plain = selective = None
    if first.plain:
        plain = series(lambda each: _nats(each.plain), held_out)
        selective = series(lambda each: _nats(each.plain) - _nats(each.held_out), held_out)
    columns = [
        values_of(each, choice.confidence) if each is not None else [None] * len(grid)
        for each in (by_loss, by_pairs, plain, selective)
    ]
    count = len(ground.task.train)
    chosen_by_loss = recommend(settings.ratios, by_loss, replace(choice, by="loss"))
    chosen_by_selectivity = (
        recommend(settings.ratios, selective, replace(choice, by="selectivity"))
        if selective is not None
        else None
    )
    chosen = chosen_by_loss if choice.by == "loss" else chosen_by_selectivity
    assert chosen is not None  # refused before
    result = RatioResult(
        task=ground.name,
        token=ground.task.token,
        settings={
            **settings.as_dict(),
            "choice": choice.as_dict(),
            "training": training.as_dict(),
        },
        task_rows=ground.task_rows,
        trained_task_rows=count,
        held_out_rows=len(ground.held_out),
        points=tuple(
            RatioPoint(ratio, round(ratio * count), *values)
            for ratio, *values in zip(settings.ratios, *columns, strict=True)
        ),
        seed_sd=(selective if choice.by == "selectivity" and selective else by_loss).seed_sd,
        chosen=chosen,
        by_loss=chosen_by_loss,
        by_selectivity=chosen_by_selectivity,
        pairs_needed=round(chosen.ratio * ground.task_rows),
    )
    return replace(result, told=tuple(sentences(result)))


def _nats(losses: Sequence[AnswerLoss]) -> np.ndarray[Any, Any]:
    return np.array([loss.nats for loss in losses])


def _tokens(losses: Sequence[AnswerLoss]) -> np.ndarray[Any, Any]:
    return np.array([loss.tokens for loss in losses], dtype=np.float64)
