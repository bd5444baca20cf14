"""A model with the special token in it, so that any training script takes the folder as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from delia_data._optional import require
from delia_data.errors import InputError
from delia_data.models import identify_files, load_model, load_tokenizer, quiet, resolve_model
from delia_data.outputs import Manifest, is_finished, read_manifest
from delia_data.tokens import DEFAULT_TOKEN, INITS, Init, add_token, marked_template
from delia_data.training.model_folder import earlier_model, model_folder, save_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)


def prepare(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    tokens: Sequence[str] = (DEFAULT_TOKEN,),
    init: Init = "mean",
    description: str | None = None,
    seed: int = 0,
    dtype: Dtype = "auto",
    generation_marks: bool = False,
) -> Manifest:
    """Write a model folder in which the special token is one id, with its embedding initialised.

    The same again changes nothing; a run that was killed is begun anew.

    Args:
        model: The embedded model's name, a folder, or a Hub id.
        folder: Where to; made where it is not there.
        tokens: The special tokens: those that the mixture's task rows name.
        init: How their rows of the embedding, and of an untied head, begin; see `add_token`.
        description: What they stand for, for `init="description"`.
        seed: Seed of `init="normal"`.
        dtype: Type of the weights; `"auto"` is the one that the model's own files have.
        generation_marks: Give the tokenizer a chat template that writes the same and marks what
            the assistant says, as `assistant_only_loss` of TRL needs it.

    Returns:
        The manifest; its details have the tokens' ids.

    Raises:
        InputError: There is no such model, it has no chat template or none with marks is known,
            or a value is unknown.
        TokenError: A token has another role in the model's vocabulary.
        SettingsError: The folder holds another model, or one that was prepared otherwise.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes there.
        OutputError: The folder cannot be written, or the disk is full.
    """
    settings = {
        "tokens": list(tokens),
        "init": init,
        "description": description,
        "seed": seed,
        "dtype": dtype,
        "generation_marks": generation_marks,
    }
    _check(tokens, init, description, dtype)
    with model_folder(folder) as root:
        tokenizer = load_tokenizer(model)
        _check_template(tokenizer, model)
        origin = identify_files(model, tokenizer)
        inputs = {
            "weights": origin["weights_sha256"],
            "chat_template": origin["chat_template_sha256"],
        }
        if is_finished(root):
            return earlier_model(root, settings | inputs)
        loaded = load_model(model, dtype=_torch_dtype(model, dtype))
        ids = {
            token: add_token(
                loaded, tokenizer, token, init=init, description=description, seed=seed + number
            )
            for number, token in enumerate(tokens)
        }
        if generation_marks:
            tokenizer.chat_template = marked_template(tokenizer)
        embedding, head = loaded.get_input_embeddings(), loaded.get_output_embeddings()
        manifest = Manifest(
            kind="model",
            settings=settings,
            inputs=inputs,
            details={
                "model": origin,
                "token_ids": ids,
                "embedding": list(embedding.weight.shape),
                "tied": head is None or head.weight is embedding.weight,
                "dtype": str(loaded.dtype).removeprefix("torch."),
            },
        )
        return save_model(root, loaded, tokenizer, manifest)


def prepared_from(model: str | os.PathLike[str]) -> dict[str, str] | None:
    """What identifies the model that a folder was prepared from; None for any other model.

    With the token alone added it is still that model: the pairs that one wrote are its own words.
    """
    if not os.path.isdir(model) or not is_finished(model):
        return None
    manifest = read_manifest(model)
    if manifest.kind != "model" or "token_ids" not in manifest.details:
        return None
    origin: dict[str, str] = manifest.details["model"]
    return origin


def _check(tokens: Sequence[str], init: str, description: str | None, dtype: str) -> None:
    if not tokens or len(set(tokens)) < len(tokens):
        raise InputError(f"tokens {', '.join(tokens) or '(none)'}: give at least one, each once")
    if init not in INITS:
        raise InputError(f"init {init!r} is unknown: use one of {', '.join(INITS)}")
    if init == "description" and not (description or "").strip():
        raise InputError("init 'description' needs a description: say what the token stands for")
    if init != "description" and description is not None:
        raise InputError(f"a description is for init 'description', and init is {init!r}")
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown: use one of {', '.join(DTYPES)}")


def _check_template(tokenizer: PreTrainedTokenizerBase, model: Any) -> None:
    if not tokenizer.chat_template:
        raise InputError(
            f"model {os.fspath(model)!r} has no chat template, so that no row can be put to it: "
            "prepare an instruction-tuned model, or set tokenizer.chat_template and save it"
        )


def _torch_dtype(model: str | os.PathLike[str], dtype: Dtype) -> torch.dtype:
    torch_ = require("torch", extra="local")
    transformers = require("transformers", extra="local")
    name: Any = dtype
    if dtype == "auto":
        with quiet():
            name = transformers.AutoConfig.from_pretrained(resolve_model(model)).dtype
    found: torch.dtype = getattr(torch_, name) if isinstance(name, str) else name or torch_.float32
    return found
