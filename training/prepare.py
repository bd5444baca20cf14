"""A model folder that any script takes: weights, tokenizer with the token, manifest, marker.

The files are written into a hidden folder inside, moved to their names when all are complete, and
the finish marker comes last. After a kill the next run starts over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from delia_data._optional import require
from delia_data.errors import InputError, OutputError
from delia_data.models import identify_files, load_model, load_tokenizer, quiet, resolve_model
from delia_data.outputs import (
    FINISHED,
    LOCK,
    MANIFEST,
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    finish,
    folder_lock,
    is_finished,
    read_manifest,
)
from delia_data.tokens import (
    DEFAULT_TOKEN,
    INITS,
    Init,
    add_token,
    marked_template,
    with_defaults,
)
from delia_data.tokens import template_options as options_of
from delia_data.training.loading import embedding_rms

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)

_PART: Final = ".part"
_NAMES: Final = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    "chat_template.jinja",
)
"""Names that saving a model and its tokenizer writes."""


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
    template_options: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a model folder in which the special token is one id with an initialized embedding.

    Writing the same again changes nothing; a run that was killed starts over.

    Args:
        model: The embedded model's name, a folder, a `.gguf` file, or a Hub id.
        folder: Folder to write; created if needed.
        tokens: The special tokens that the mixture's task rows name.
        init: How their rows of the embedding, and of an untied head, begin; see `add_token`.
        description: Their meaning in words, for `init="description"`.
        seed: Seed of `init="normal"`.
        dtype: Type of the weights; `"auto"` is the type in the model's own files.
        generation_marks: Give the tokenizer a chat template that writes the same and marks the
            assistant's turns, as `assistant_only_loss` of TRL needs it.
        template_options: Options of the chat template, such as `{"enable_thinking": False}`. They
            become the defaults of the saved template, so that any program uses them.

    Returns:
        The manifest; its details have the tokens' ids.

    Raises:
        InputError: There is no such model, it has no chat template or no equivalent with marks is
            known, or a value is unknown.
        TokenError: A token has another role in the model's vocabulary.
        SettingsError: The folder holds another model, or one prepared with other settings.
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
        **({"template_options": dict(template_options)} if template_options else {}),
    }
    _check(tokens, init, description, dtype)
    with model_folder(folder) as root:
        tokenizer = load_tokenizer(model, template_options)
        if not tokenizer.chat_template:
            raise InputError(
                f"model {os.fspath(model)!r} has no chat template, so its rows cannot be encoded: "
                "prepare an instruction-tuned model, or set tokenizer.chat_template and save it"
            )
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
                "embedding_rms": embedding_rms(loaded),
                "tied": head is None or head.weight is embedding.weight,
                "dtype": str(loaded.dtype).removeprefix("torch."),
            },
        )
        return save_model(root, loaded, tokenizer, manifest)


def prepared_from(model: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the identity of the model that a folder was prepared from; None for other models.

    With only the token added it is still the same model: pairs that one wrote are the other's own
    words.
    """
    if not os.path.isdir(model) or not is_finished(model):
        return None
    manifest = read_manifest(model)
    if manifest.kind != "model" or "token_ids" not in manifest.details:
        return None
    origin: dict[str, Any] = manifest.details["model"]
    return origin


@contextmanager
def model_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Lock the folder of a model for writing."""
    root = Path(folder)
    names = {path.name for pattern in _NAMES for path in root.glob(pattern)}
    check_folder_is_ours(root, frozenset(names), sign=LOCK)
    with folder_lock(root):
        yield root


def earlier_model(root: Path, wanted: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a finished model, if its settings and inputs are the wanted ones.

    Raises:
        SettingsError: They differ.
    """
    earlier = read_manifest(root, verify=True)
    check_same_settings(root, {**earlier.settings, **earlier.inputs}, wanted)
    return earlier


def save_model(
    root: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest
) -> Manifest:
    """Write a model into the folder of `model_folder`, in place of an earlier one.

    The tokenizer's template options become defaults of the saved chat template.

    Returns:
        The manifest with the hashes of the files.
    """
    from safetensors import SafetensorError

    part = root / _PART
    shutil.rmtree(part, ignore_errors=True)
    template = tokenizer.chat_template
    tokenizer.chat_template = with_defaults(template, options_of(tokenizer))
    try:
        with quiet():
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
        for name in (FINISHED, MANIFEST):
            (root / name).unlink(missing_ok=True)
        for old in [path for pattern in _NAMES for path in root.glob(pattern)]:
            old.unlink(missing_ok=True)
        for file in sorted(part.iterdir()):
            with file.open("rb") as written:
                os.fsync(written.fileno())
            file.replace(root / file.name)
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(f"{root} cannot be written: {reason}; free some space") from error
    finally:
        tokenizer.chat_template = template
        shutil.rmtree(part, ignore_errors=True)
    return finish(root, manifest)


def _check(tokens: Sequence[str], init: str, description: str | None, dtype: str) -> None:
    if not tokens or len(set(tokens)) < len(tokens):
        raise InputError(f"tokens {', '.join(tokens) or '(none)'}: give at least one, each once")
    if init not in INITS:
        raise InputError(f"init {init!r} is unknown: use one of {', '.join(INITS)}")
    if init == "description" and not (description or "").strip():
        raise InputError("init 'description' needs a description: give the token's meaning")
    if init != "description" and description is not None:
        raise InputError(f"a description is for init 'description', and init is {init!r}")
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown: use one of {', '.join(DTYPES)}")


def _torch_dtype(model: str | os.PathLike[str], dtype: Dtype) -> torch.dtype:
    torch_ = require("torch", extra="local")
    transformers = require("transformers", extra="local")
    name: Any = dtype
    if dtype == "auto":
        with quiet():
            name = transformers.AutoConfig.from_pretrained(resolve_model(model)).dtype
    resolved: torch.dtype = (
        getattr(torch_, name) if isinstance(name, str) else name or torch_.float32
    )
    return resolved
