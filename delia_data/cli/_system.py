"""What is evaluated: an adapter that was trained here, a model, or a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.engines import Engine, load_engine
from delia_data.errors import InputError, TokenError
from delia_data.models import load_model, load_tokenizer
from delia_data.outputs import MANIFEST, read_manifest
from delia_data.tokens import INITS, add_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SERVERS: Final = ("openai", "litellm")
_ADAPTER: Final = ("adapter_config.json", "training.json")


def open_system(
    model: str,
    engine: str,
    options: Mapping[str, Any],
    *,
    token: str,
    add: str | None = None,
    seed: int = 0,
) -> tuple[Engine, list[str]]:
    """Open what is to be evaluated.

    Args:
        model: An adapter's folder, or a model as the engine takes it.
        engine: Name of the engine.
        options: Its options.
        token: The task's token.
        add: How the token's embedding begins, where it is to be added to a model without it.
        seed: Seed of that.

    Returns:
        The engine, and what a reader should know of it.

    Raises:
        InputError: The model, the engine or an option cannot be used.
        TokenError: The adapter was trained for another token, or the model has the token already.
        UnfinishedError: The adapter's training has not come to its end.
    """
    if add is not None and add not in INITS:
        raise InputError(f"init {add!r} is unknown: use one of {', '.join(INITS[:2])}")
    if add == "description":
        raise InputError(
            "--add-token takes mean or normal: for init description, write a model with delia "
            "prepare, and evaluate that"
        )
    trained = _is_adapter(Path(model))
    if engine != "transformers":
        if trained:
            raise InputError(
                f"{model} is an adapter, and engine {engine} does not take one: merge it with "
                "delia export, and give that, or use --engine transformers"
            )
        if add is not None:
            raise InputError(
                f"--add-token is for --engine transformers: for {engine}, write a model with "
                "delia prepare, and give that"
            )
        return load_engine(engine, model=model, **options), _notes_of(engine, model, token)
    return _open_here(model, options, trained=trained, token=token, add=add, seed=seed)


def _open_here(
    model: str,
    options: Mapping[str, Any],
    *,
    trained: bool,
    token: str,
    add: str | None,
    seed: int,
) -> tuple[Engine, list[str]]:
    from delia_data.engines.transformers import TransformersEngine

    given = dict(options)
    device, batch_size = given.pop("device", "cpu"), given.pop("batch_size", 32)
    if given:
        raise InputError(f"engine 'transformers' has no option {', '.join(sorted(given))}")
    if trained:
        if add is not None:
            raise InputError(f"{model} is an adapter, which has its token: leave --add-token out")
        loaded, tokenizer = _load_adapter(model, device, token)
        return TransformersEngine(loaded, tokenizer, batch_size=batch_size), []
    loaded, tokenizer = load_model(model, device=device), load_tokenizer(model)
    notes = _notes_on(tokenizer, token)
    if add is not None:
        if not notes:
            raise TokenError(f"{model} has {token} already: leave --add-token out")
        init: Any = add
        add_token(loaded, tokenizer, token, init=init, seed=seed)
        notes = [f"{token} was added to the model, its embedding begun as {add}, and not trained"]
    return TransformersEngine(loaded, tokenizer, batch_size=batch_size), notes


def _is_adapter(folder: Path) -> bool:
    if (folder / MANIFEST).is_file():
        return read_manifest(folder).kind == "adapter"
    return any((folder / name).is_file() for name in _ADAPTER)


def _load_adapter(
    folder: str, device: str, token: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from delia_data.training import load_adapter

    own = read_manifest(folder).settings.get("token")
    if own != token:
        raise TokenError(
            f"{folder} was trained for {own}, and the task's token is {token}: give the task that "
            "it was trained on"
        )
    return load_adapter(folder, device=device)


def _notes_of(engine: str, model: str, token: str) -> list[str]:
    """What is to be said of a token that an engine of its own loads."""
    if engine in _SERVERS:
        return [f"whether {token} is one token of the served model cannot be told from here"]
    return [] if engine == "mock" else _notes_on(load_tokenizer(model), token)


def _notes_on(tokenizer: PreTrainedTokenizerBase, token: str) -> list[str]:
    pieces = len(tokenizer.encode(token, add_special_tokens=False))
    if pieces == 1:
        return []
    return [f"{token} is no token of this model, which reads it as text of {pieces} tokens"]
