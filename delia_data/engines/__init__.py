"""Engines: whatever turns prompts into text, behind one Protocol."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, Final

from delia_data.engines.base import (
    FREE,
    Completion,
    Engine,
    Prices,
    Request,
    RequestStream,
    Sampling,
)
from delia_data.engines.mock import MockEngine
from delia_data.errors import InputError

__all__ = [
    "ENGINES",
    "FREE",
    "Completion",
    "Engine",
    "MockEngine",
    "Prices",
    "Request",
    "RequestStream",
    "Sampling",
    "load_engine",
]

_CLASSES: Final = {
    "transformers": "TransformersEngine",
    "vllm": "VllmEngine",
    "openai": "OpenAIEngine",
    "litellm": "LitellmEngine",
    "ray": "RayEngine",
    "mock": "MockEngine",
}
ENGINES: Final = tuple(_CLASSES)


def load_engine(name: str, *, model: str, **options: Any) -> Engine:
    """Load an engine by name.

    Args:
        name: One of `ENGINES`.
        model: The model's name, folder or Hub id; the mock engine needs none.
        options: What the engine's own `load` takes beside the model, such as `device` and
            `batch_size` of `transformers`.

    Raises:
        InputError: There is no such engine, option or model.
        MissingExtraError: The engine's library is not installed.
    """
    if name not in _CLASSES:
        raise InputError(f"engine {name!r} is unknown: use one of {', '.join(ENGINES)}")
    loader = getattr(import_module(f"delia_data.engines.{name}"), _CLASSES[name]).load
    known = [
        parameter for parameter in inspect.signature(loader).parameters if parameter != "model"
    ]
    if unknown := sorted(set(options).difference(known)):
        raise InputError(
            f"engine {name!r} has no option {', '.join(unknown)}: "
            f"it has {', '.join(known) or 'none'}"
        )
    engine: Engine = loader(model, **options)
    return engine
