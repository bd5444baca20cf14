"""Settings of trainings that take a second: a random tiny model, saved in the test's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_llama

from delia_data.training import TrainSettings

MakeSettings = Callable[..., TrainSettings]


@pytest.fixture
def make_settings(tmp_path: Path, tiny_tokenizer: Any) -> MakeSettings:
    """Return a function that saves a model and returns settings to train it."""

    def make(*, tied: bool = True, **over: Any) -> TrainSettings:
        from trained import tiny_settings

        folder = tmp_path / f"model-{tied}"
        return tiny_settings(folder, tiny_llama(tied=tied), tiny_tokenizer, **over)

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> TrainSettings:
    """Return settings of a training of six steps."""
    return make_settings()
