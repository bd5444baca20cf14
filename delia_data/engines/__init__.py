"""Engines: whatever turns prompts into text, behind one Protocol."""

from __future__ import annotations

from typing import Final

from delia_data.engines.base import Completion, Engine, Request, Sampling
from delia_data.engines.mock import MockEngine
from delia_data.errors import InputError

__all__ = ["ENGINES", "Completion", "Engine", "MockEngine", "Request", "Sampling", "load_engine"]

ENGINES: Final = ("transformers", "mock")


def load_engine(name: str, *, model: str, device: str = "cpu", batch_size: int = 32) -> Engine:
    """Load an engine by name.

    Args:
        name: One of `ENGINES`.
        model: The model's name, folder or Hub id; the mock engine needs none.
        device: Where the model computes, where the engine computes here.
        batch_size: Prompts generated together.

    Raises:
        InputError: There is no such engine or model.
        MissingExtraError: The engine's library is not installed.
    """
    if name == "mock":
        return MockEngine()
    if name == "transformers":
        from delia_data.engines.transformers import TransformersEngine

        return TransformersEngine.load(model, device=device, batch_size=batch_size)
    raise InputError(f"engine {name!r} is unknown: use one of {', '.join(ENGINES)}")
