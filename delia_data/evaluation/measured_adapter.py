"""An adapter that is measured twice: as its training began, and as it ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from delia_data._optional import require
from delia_data.evaluation.aligning import measure_alignment
from delia_data.evaluation.alignment import Alignment
from delia_data.evaluation.bootstrap import Resampling
from delia_data.evaluation.buffering import Buffering
from delia_data.evaluation.first_token import measure_state_space
from delia_data.evaluation.gradient_groups import WHENS, Groups, buffering_of
from delia_data.evaluation.gradients import (
    RowGradients,
    at_start,
    read_gradients,
    row_gradients,
)
from delia_data.evaluation.measured_rows import MeasuredTask, picked_pairs
from delia_data.evaluation.measurements import MeasureSettings, When, Which
from delia_data.evaluation.projection import Projection
from delia_data.evaluation.similarity import task_similarity
from delia_data.evaluation.state_space import StateSpace
from delia_data.outputs import read_manifest
from delia_data.records import Record
from delia_data.sampling.coverage import Embed

Tell = Callable[[int, int], None]


class MeasuredAdapter:
    """An adapter with the rows that it is measured on; it is loaded at the first measure."""

    def __init__(
        self,
        folder: Path,
        task: MeasuredTask,
        settings: MeasureSettings,
        parts: Path,
        *,
        device: str = "cpu",
    ) -> None:
        """Keep what is measured; nothing is loaded yet.

        Args:
            folder: What `delia train` wrote.
            task: Rows of the task.
            settings: The settings.
            parts: Folder for the gradients of groups that are done.
            device: Where to compute.
        """
        self.folder = folder
        self.task = task
        self.settings = settings
        self.parts = parts
        self.device = device

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from delia_data.training.adapter import open_adapter

        torch = require("torch", extra="local")
        model, tokenizer = open_adapter(self.folder, device=self.device)
        return model.to(getattr(torch, self.settings.dtype)), tokenizer

    @contextmanager
    def _model(self, when: When) -> Iterator[tuple[Any, Any]]:
        model, tokenizer = self._loaded
        with at_start(model) if when == "before" else nullcontext():
            yield model, tokenizer

    def representation(self, keywords: Sequence[str], tell: Tell) -> Mapping[When, Alignment]:
        """Measure where the token stands."""
        found: dict[When, Alignment] = {}
        for when in WHENS:
            tell(len(found), len(WHENS))
            with self._model(when) as (model, tokenizer):
                found[when] = measure_alignment(
                    model,
                    tokenizer,
                    self.task.token,
                    keywords,
                    words=self.settings.words,
                    seed=self.settings.seed,
                )
        tell(len(found), len(WHENS))
        return found

    def state_space(self, tell: Tell) -> Mapping[When, Mapping[Which, StateSpace]]:
        """Measure the first answer token of held-out rows, with the token and without it."""
        groups: dict[Which, tuple[Record, ...]] = {"with": self.task.held_out}
        if self.task.plain:
            groups["without"] = self.task.plain
        found: dict[When, dict[Which, StateSpace]] = {}
        done, total = 0, len(WHENS) * len(groups)
        for when in WHENS:
            found[when] = {}
            with self._model(when) as (model, tokenizer):
                for which, rows in groups.items():
                    tell(done, total)
                    found[when][which] = measure_state_space(
                        model, tokenizer, rows, mass=self.settings.mass
                    )
                    done += 1
        tell(done, total)
        return found

    def buffering(self, cache: str | os.PathLike[str], embed: Embed, tell: Tell) -> Buffering:
        """Measure the gradients of pairs, task rows and held-out rows."""
        settings, trained = self.settings, read_manifest(self.folder)
        pairs, of = picked_pairs(
            cache, pairs=settings.pairs, token=self.task.token, seed=settings.seed
        )
        ratio = settings.ratio
        if ratio is None and trained.rows.get("cache"):
            ratio = trained.rows["cache"] / trained.rows["task"]
        similarity = task_similarity(pairs, self.task.train, embed)
        rows = {"pairs": pairs, "task": self.task.train, "held_out": self.task.held_out}
        if self.task.common:
            rows["common"] = self.task.common
        total, done = len(WHENS) * sum(map(len, rows.values())), 0
        found: dict[When, Groups] = {}
        for when in WHENS:
            groups = {}
            for name, records in rows.items():
                so_far = partial(_tell_after, done, total, tell)
                groups[name] = self._gradients(when, name, records, so_far)
                done += len(records)
                tell(done, total)
            found[when] = groups
        return buffering_of(
            found,
            similarity,
            ratio=of / self.task.train_rows if ratio is None else ratio,
            how=Resampling(seed=settings.seed),
        )

    def _gradients(
        self,
        when: When,
        name: str,
        rows: Sequence[Record],
        on_row: Callable[[int], None],
    ) -> RowGradients:
        """Gradients of a group; taken from the folder of parts where they are there."""
        from delia_data.training.adapter import adapter_settings

        file = self.parts / f"gradients-{when}-{name}.npz"
        if file.is_file():
            return read_gradients(file)
        with self._model(when) as (model, tokenizer):
            made = row_gradients(
                model,
                tokenizer,
                rows,
                Projection(self.settings.dimensions, self.settings.seed),
                max_length=adapter_settings(self.folder).max_length,
                on_row=on_row,
            )
        made.save(file)
        return made


def _tell_after(before: int, total: int, tell: Tell, row: int) -> None:
    tell(before + row, total)
