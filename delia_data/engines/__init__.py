"""Engines turn prompts into text. They share one protocol, `Engine`."""

from __future__ import annotations

import inspect
from dataclasses import fields
from importlib import import_module
from typing import Any, Final

from delia_data.engines.api import ApiOptions
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
    "ApiOptions",
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
        model: The model's name, folder, or Hub id. The mock engine ignores it.
        options: Options of the engine, such as `device` and `batch_size` of `transformers`, or the
            fields of `ApiOptions` for `openai` and `litellm`.

    Raises:
        InputError: The engine, an option, or the model does not exist.
        MissingExtraError: The engine's library is not installed.
    """
    if name not in _CLASSES:
        raise InputError(f"engine {name!r} is unknown: use one of {', '.join(ENGINES)}")
    engine = getattr(import_module(f"delia_data.engines.{name}"), _CLASSES[name])
    if declared := getattr(engine, "Options", None):
        accepted = [field.name for field in fields(declared)]
    else:
        accepted = [each for each in inspect.signature(engine.load).parameters if each != "model"]
    if unknown := sorted(set(options).difference(accepted)):
        raise InputError(
            f"engine {name!r} has no option {', '.join(unknown)}: "
            f"it has {', '.join(accepted) or 'none'}"
        )
    loaded: Engine = engine.load(model, **options)
    return loaded
