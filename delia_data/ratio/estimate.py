"""What a series will cost: rows and tokens to be trained, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from delia_data.outputs import is_finished
from delia_data.ratio.ground import Ground
from delia_data.ratio.settings import RatioSettings
from delia_data.ratio.stage import Stage, stages_of
from delia_data.training import TrainSettings


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage costs.

    Attributes:
        stage: The stage.
        task_rows: Task rows of one pass.
        pairs: Pairs of one pass.
        trained_rows: Rows that are gone through, each as often as it is.
        tokens: Their tokens, about: the means of some hundred rows, times the rows.
        state: Whether it is still to be run.
    """

    stage: Stage
    task_rows: int
    pairs: int
    trained_rows: int
    tokens: int
    state: Literal["finished", "to run"]


def estimate(
    ground: Ground, settings: RatioSettings, training: TrainSettings, tokenizer: Any, stages: Path
) -> list[StageCost]:
    """Tell the cost of every stage, in their order.

    Args:
        ground: What the stages share.
        settings: The series.
        training: The training.
        tokenizer: The model's tokenizer.
        stages: Folder of the stages; it need not be there.
    """
    of_task, of_pair = ground.mean_tokens(tokenizer)
    count = len(ground.task.train)
    costs = []
    for stage in stages_of(settings):
        task_rows = count if stage.after is None else 0
        pairs = round(stage.ratio * count) - round((stage.after or 0.0) * count)
        done = is_finished(stages / stage.name)
        costs.append(
            StageCost(
                stage,
                task_rows,
                pairs,
                round(training.epochs * (task_rows + pairs)),
                round(training.epochs * (task_rows * of_task + pairs * of_pair)),
                "finished" if done else "to run",
            )
        )
    return costs
