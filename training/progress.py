"""A callback that tells a caller of every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

__all__ = ["StepCallback"]


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
