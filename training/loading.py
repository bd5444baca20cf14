"""One training in several processes, as `accelerate launch` starts them.

All of them read, encode and compute; the main one alone writes, holds the folder's lock, and
leaves the manifest.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.errors import (
    DeliaError,
    EngineError,
    InputError,
    MissingExtraError,
    OutputError,
    SettingsError,
)
from delia_data.models import load_model, load_tokenizer, loading, quiet, resolve_model
from delia_data.outputs import folder_lock
from delia_data.tokens import add_token, add_token_to_tokenizer
from delia_data.training.settings import TrainSettings, rows_a_step

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def process_count() -> int:
    """Processes of this training; 1 where nothing launched several."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_main_process() -> bool:
    """Whether this is the process that writes."""
    return process_count() == 1 or int(os.environ.get("RANK") or 0) == 0


def own_device(device: str) -> str:
    """Where this process puts its model, of those that were launched together.

    Each has a GPU of its own. One whose model is to be sharded leaves it on the CPU, from where
    each GPU takes its part: it need not hold the whole one.

    Args:
        device: The device of the settings, `"cpu"` or `"cuda"`.
    """
    if process_count() == 1 or device != "cuda":
        return device
    return "cpu" if sharding_is_asked_for() else f"cuda:{int(os.environ.get('LOCAL_RANK') or 0)}"


def sharding_is_asked_for() -> bool:
    """Whether `accelerate launch` was given an FSDP configuration."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def wait_for_all() -> None:
    """Go on when every process has come here; needs a trainer to have been made before."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


@contextmanager
def held_by_main(folder: Path) -> Iterator[None]:
    """Hold a folder in the main process; the others go by its lock.

    Raises:
        LockedError: Another training holds it.
    """
    if not is_main_process():
        yield
        return
    with folder_lock(folder):
        yield


_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_SAID: Final = ("no space left", "quota exceeded", "file too large")
_CUT_SAID: Final = ("pytorchstreamwriter", "inline_container")
"""What torch says of a file that it could not write whole."""
_MEMORY_SAID: Final = ("out of memory", "can't allocate memory", "cannot allocate memory")


@contextmanager
def in_one_line(where: object, *, lower: str) -> Iterator[None]:
    """Turn what torch, transformers and peft raise for a full memory or disk into one line.

    Args:
        where: What is being written.
        lower: What to lower so that less memory is needed.

    Raises:
        EngineError: Memory ran out.
        OutputError: The disk is full.
        InputError: A service of `report_to` is unknown.
        MissingExtraError: A service of `report_to` is not installed.
    """
    try:
        yield
    except DeliaError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}".lower()
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, MemoryError) or any(text in said for text in _MEMORY_SAID):
            raise EngineError(
                f"memory ran out: lower {lower}; the same command with that goes into a new folder"
            ) from error
        full = isinstance(error, OSError) and error.errno in _FULL
        if full or any(text in said for text in _FULL_SAID + _CUT_SAID):
            raise OutputError(
                f"{where} cannot be written ({first}): free some space; the same command goes on"
            ) from error
        if isinstance(error, ValueError) and "is not supported, only" in said:
            raise InputError(f"report_to: {first}") from error
        if (
            isinstance(error, RuntimeError | ImportError)
            and "requires" in said
            and "install" in said
        ):
            raise MissingExtraError(f"report_to: {first}") from error
        raise


_TOKENS_ON_CPU: Final = 1_024
_TOKENS_ON_CUDA: Final = 16_384


def resolve(settings: TrainSettings, *, rows: int) -> TrainSettings:
    """Replace every `auto` and None by what it comes to on this machine, for so many rows.

    Raises:
        InputError: The device is not there, or cannot do what is asked.
        MissingExtraError: bitsandbytes is needed and not installed.
    """
    torch = require("torch", extra="train")
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda:"):
        number = device.removeprefix("cuda:")
        raise InputError(
            f"device {device!r} names one GPU of several: set CUDA_VISIBLE_DEVICES={number}, and "
            "device to cuda"
        )
    cuda = device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise InputError(f"device {device!r} cannot be used: torch finds no CUDA; try --device cpu")
    if settings.adaptation == "qlora":
        require("bitsandbytes", extra="qlora")
        if sharding_is_asked_for():
            raise InputError(
                "adaptation 'qlora' keeps a whole model in every process, and FSDP shards it: "
                "launch with ddp.yaml, or use adaptation 'lora'"
            )
    dtype = settings.dtype
    if dtype == "auto":
        # Steps of a whole model's weights are smaller than bfloat16 can tell.
        low = settings.adaptation != "full" and (not cuda or torch.cuda.is_bf16_supported())
        dtype = "bfloat16" if low else "float32"
    checkpointing = settings.gradient_checkpointing
    return replace(
        settings,
        device=device,
        dtype=dtype,
        batch_size=rows_a_step(rows, settings),
        micro_batch_tokens=_micro_batch_tokens(settings, cuda=cuda),
        gradient_checkpointing=cuda if checkpointing is None else checkpointing,
    )


def _micro_batch_tokens(settings: TrainSettings, *, cuda: bool) -> int | None:
    if not settings.packing:
        return None
    return settings.micro_batch_tokens or (_TOKENS_ON_CUDA if cuda else _TOKENS_ON_CPU)


def context_of(model: str) -> int | None:
    """Positions that a model has, from its configuration; None where it does not say."""
    transformers = require("transformers", extra="train")
    config = transformers.AutoConfig.from_pretrained(resolve_model(model))
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(positions) if positions else None


def load_prepared_tokenizer(settings: TrainSettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer and add the token.

    Raises:
        InputError: There is no such model, or it has no chat template.
        TokenError: The token has another role in the vocabulary.
    """
    tokenizer = load_tokenizer(settings.model)
    if not tokenizer.chat_template:
        raise InputError(
            f"model {settings.model!r} has no chat template, so that no row can be put to it: "
            "train an instruction-tuned model, or set tokenizer.chat_template and save it"
        )
    add_token_to_tokenizer(tokenizer, settings.token)
    return tokenizer


def load_prepared(
    settings: TrainSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    device: str | None = None,
    whole: bool = False,
) -> PreTrainedModel:
    """Load the model as training begins with it: the token's row is there, and initialised.

    The row is initialised on the CPU wherever the model goes, so that an adapter finds the same
    one again.

    Args:
        settings: Resolved settings.
        tokenizer: The tokenizer with the token.
        device: Where to put it; where this process trains when not given.
        whole: Give weights of QLoRA as plain ones, with the values that 4 bits hold.

    Raises:
        InputError: There is no such model or device.
        MissingExtraError: bitsandbytes is needed and not installed.
    """
    torch = require("torch", extra="train")
    place = device or own_device(settings.device)
    in_4_bits = settings.adaptation == "qlora"
    if in_4_bits:
        model = _load_in_4_bits(settings, place)
    else:
        model = load_model(settings.model, dtype=getattr(torch, settings.dtype))
    add_token(
        model,
        tokenizer,
        settings.token,
        init=settings.init,
        description=settings.description,
        seed=settings.seed,
    )
    if settings.token_training == "lora":
        _untie(model)
    if in_4_bits:
        return _whole(model) if whole else model
    try:
        moved: PreTrainedModel = model.to(place)
    except (RuntimeError, AssertionError) as error:
        if "memory" in str(error).lower():
            raise
        line = str(error).splitlines()[0]
        raise InputError(f"device {place!r} cannot be used: {line}; try --device cpu") from error
    return moved


def _load_in_4_bits(settings: TrainSettings, device: str) -> PreTrainedModel:
    """Load the model in 4-bit NormalFloat, computed in the settings' type (arXiv 2305.14314)."""
    import torch
    import transformers

    require("bitsandbytes", extra="qlora")
    compute = getattr(torch, settings.dtype)
    packed = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
    place = torch.cuda.current_device() if device == "cuda" else device  # accelerate compares it
    with loading(settings.model), quiet():
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(
            resolve_model(settings.model),
            dtype=compute,
            quantization_config=packed,
            device_map={"": place},
            use_safetensors=True,
        )
    for module in model.modules():
        # On CPUs bitsandbytes 0.50 lays weights out for inference as soon as a model in evaluation
        # mode is asked; what passes through those has no gradient from then on.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _whole(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model in 4 bits plain weights again, which are the ones that it computes with."""
    with quiet():
        plain: PreTrainedModel = model.dequantize()
    return plain


def lora_config(settings: TrainSettings, model: PreTrainedModel, token_id: int) -> LoraConfig:
    """What PEFT is to train: LoRA on the targets, and the token's row in one of the two ways.

    Args:
        settings: The settings.
        model: The model, with the token's row.
        token_id: The token's id.

    Raises:
        SettingsError: A target is the name of no module.
    """
    import peft

    embedding = last_name(model, model.get_input_embeddings())
    options: dict[str, Any] = {}
    targets: str | list[str] = _targets(settings, model)
    if settings.token_training == "row":
        options["trainable_token_indices"] = {embedding: [token_id]}
    else:
        targets = [*targets, embedding]
    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        **options,
    )


def _targets(settings: TrainSettings, model: PreTrainedModel) -> list[str]:
    """Names of the modules that get LoRA; `all-linear` is every linear one but the head."""
    linear = sorted(linear_names(model))
    if settings.targets == ("all-linear",):
        return linear
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    unknown = [target for target in settings.targets if target.rsplit(".", 1)[-1] not in names]
    if unknown:
        raise SettingsError(
            f"targets {', '.join(unknown)} are no modules of {settings.model!r}: "
            f"its linear ones are {', '.join(linear)}, and all-linear takes all of them"
        )
    return list(settings.targets)


def _untie(model: PreTrainedModel) -> None:
    """Give a tied head weights of its own, equal to the embedding's.

    LoRA on the embedding leaves the head as it is, as in the paper's code; merged into a weight
    that both have, it would change the head too.
    """
    import torch

    head = model.get_output_embeddings()
    if head is None or head.weight is not model.get_input_embeddings().weight:
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def linear_names(model: PreTrainedModel) -> list[str]:
    """Last parts of the names of all linear modules but the head, in the model's order."""
    head = model.get_output_embeddings()
    names = (
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if type(module).__name__.startswith(("Linear", "Conv1D")) and module is not head
    )
    return list(dict.fromkeys(names))


def last_name(model: PreTrainedModel, wanted: Any) -> str:
    """Last part of a module's name, as PEFT asks for it."""
    name: str = next(name for name, module in model.named_modules() if module is wanted)
    return name.rsplit(".", 1)[-1]
