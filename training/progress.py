"""Callbacks of a training: one tells of every step, one measures the model now and then."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from delia_data.errors import SettingsError
from delia_data.training.watching import Watch, drop_after


class StepCallback(TrainerCallback):  # type: ignore[misc]
    """Calls a function after each step with its number, the number of steps, and the loss."""

    def __init__(self, on_step: Callable[[int, int, float], None]) -> None:
        """Keep the function to call."""
        self.on_step = on_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Pass the loss on."""
        if logs and "loss" in logs:
            self.on_step(state.global_step, state.max_steps, float(logs["loss"]))


class WatchCallback(TrainerCallback):  # type: ignore[misc]
    """Measures the model before the first step, every so many steps, and after the last one.

    Each measurement is one line of `file`, and goes to the trainer's own logs. A run that goes
    on from a checkpoint first drops the lines of the steps that it does again.
    """

    def __init__(
        self,
        watches: Sequence[Watch],
        every_steps: int,
        *,
        file: Path,
        log: Callable[[dict[str, float]], None] = lambda values: None,
    ) -> None:
        """Keep what to measure and where to.

        Args:
            watches: What is measured; their names must differ.
            every_steps: Steps from one measurement to the next.
            file: Where the lines go; the main process alone writes it.
            log: Called with each measurement, such as the trainer's `log`.

        Raises:
            SettingsError: `every_steps` is less than 1.
        """
        if every_steps < 1:
            raise SettingsError(f"every_steps {every_steps} must be at least 1")
        self.watches = tuple(watches)
        self.every_steps = every_steps
        self.file = file
        self.log = log

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure a model that has seen nothing yet, or go on after a checkpoint's lines."""
        if state.is_world_process_zero:
            drop_after(self.file, state.global_step if state.global_step else -1)
        if not state.global_step:
            self._measure(state, **given)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure where it is time to, and after the last step."""
        step = state.global_step
        if step % self.every_steps == 0 or step == state.max_steps:
            # To log the values makes the trainer believe that the step's loss was logged too.
            wanted = control.should_log
            self._measure(state, **given)
            control.should_log = wanted

    def _measure(self, state: Any, *, model: Any, processing_class: Any, **_: Any) -> None:
        values: dict[str, float] = {}
        for watch in self.watches:
            measured = watch.measure(model, processing_class, state.global_step)
            if twice := sorted(values.keys() & measured.keys()):
                raise SettingsError(f"two watches give {', '.join(twice)}: rename one")
            values |= measured
        if not values:
            return
        if state.is_world_process_zero:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **values}) + "\n")
        self.log(values)
