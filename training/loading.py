"""The model to train: device and dtype, the token, LoRA, and the processes that share it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.errors import (
    DeliaError,
    EngineError,
    InputError,
    MissingExtraError,
    OutputError,
    SettingsError,
    unknown_name,
)
from delia_data.models import (
    computes_bfloat16,
    load_model,
    load_tokenizer,
    loading,
    quiet,
    resolve_model,
)
from delia_data.tokens import add_token, add_token_to_tokenizer, split_tokens
from delia_data.tokens.adding import added_tokens
from delia_data.training.settings import TrainSettings, rows_a_step

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENS_ON_CPU: Final = 1_024
_TOKENS_ON_CUDA: Final = 16_384
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_TEXTS: Final = (
    *("no space left", "quota exceeded", "file too large"),
    *("pytorchstreamwriter", "inline_container"),  # torch, of a file that it could not complete
)
_MEMORY_TEXTS: Final = ("out of memory", "can't allocate memory", "cannot allocate memory")


def resolve(settings: TrainSettings, *, rows: int) -> TrainSettings:
    """Replace every `auto` and None by its value on this machine, for this number of rows."""
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
        if is_sharded():
            raise InputError(
                "adaptation 'qlora' keeps a whole model in every process, but FSDP shards it: "
                "launch with ddp.yaml, or use adaptation 'lora'"
            )
    if settings.optimizer is not None:
        names = [
            each.value
            for each in require("transformers.training_args", extra="train").OptimizerNames
        ]
        if settings.optimizer not in names:
            raise SettingsError(
                f"{unknown_name('optimizer', settings.optimizer, names)}: use one of "
                f"{', '.join(names)}"
            )
    dtype = settings.dtype
    if dtype == "auto":
        # Steps of a whole model's weights are smaller than the resolution of bfloat16.
        low = settings.adaptation != "full" and computes_bfloat16(device)
        dtype = "bfloat16" if low else "float32"
    tokens = settings.micro_batch_tokens or (_TOKENS_ON_CUDA if cuda else _TOKENS_ON_CPU)
    checkpointing = settings.gradient_checkpointing
    return replace(
        settings,
        device=device,
        dtype=dtype,
        token_rate=settings.row_rate,
        batch_size=rows_a_step(rows, settings),
        micro_batch_tokens=tokens if settings.packing else None,
        save_every_steps=settings.checkpoint_steps,
        gradient_checkpointing=cuda if checkpointing is None else checkpointing,
    )


def context_of(model: str) -> int | None:
    """Return the positions that a model has, from its configuration; None if it does not say."""
    transformers = require("transformers", extra="train")
    config = transformers.AutoConfig.from_pretrained(resolve_model(model))
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(positions) if positions else None


def load_prepared_tokenizer(settings: TrainSettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer and add the tokens."""
    tokenizer = load_tokenizer(settings.model, settings.template_options)
    if not tokenizer.chat_template:
        raise InputError(
            f"model {settings.model!r} has no chat template, so that no row can be put to it: "
            "train an instruction-tuned model, or set tokenizer.chat_template and save it"
        )
    for token in split_tokens(*settings.tokens):
        add_token_to_tokenizer(tokenizer, token)
    return tokenizer


def load_prepared(
    settings: TrainSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    device: str | None = None,
    whole: bool = False,
) -> PreTrainedModel:
    """Load the model as training begins with it, with the tokens' rows initialized.

    The rows are initialized on the CPU for every device, so that loading an adapter finds the same
    rows again. A token that the model's own files have keeps its row.

    Args:
        settings: Resolved settings.
        tokenizer: The tokenizer with the tokens.
        device: Device of the model; None for the device on which this process trains.
        whole: Turn QLoRA's weights into plain ones, with the values that 4 bits hold.
    """
    torch = require("torch", extra="train")
    place = device or own_device(settings.device)
    in_4_bits = settings.adaptation == "qlora"
    if in_4_bits:
        model = _load_in_4_bits(settings, place)
    else:
        model = load_model(settings.model, dtype=getattr(torch, settings.dtype))
    saved = added_tokens(load_tokenizer(settings.model))
    for number, token in enumerate(split_tokens(*settings.tokens)):
        add_token(
            model,
            tokenizer,
            token,
            init=settings.init,
            description=settings.description,
            seed=settings.seed + number,
            keep_row=token in saved,
        )
    if settings.token_training == "lora":
        _untie(model)
    if in_4_bits:
        if whole:
            with quiet():
                model = model.dequantize()
        return model
    try:
        moved: PreTrainedModel = model.to(place)
    except (RuntimeError, AssertionError) as error:
        if "memory" in str(error).lower():
            raise
        line = str(error).splitlines()[0]
        raise InputError(f"device {place!r} cannot be used: {line}; try --device cpu") from error
    return moved


def _load_in_4_bits(settings: TrainSettings, device: str) -> PreTrainedModel:
    """Load the model in 4-bit NormalFloat, computing in the settings' dtype (arXiv 2305.14314)."""
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
        # On CPUs bitsandbytes 0.50 rearranges weights for inference at the first call in
        # evaluation mode; they pass no gradient from then on.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def lora_config(
    settings: TrainSettings, model: PreTrainedModel, token_ids: list[int]
) -> LoraConfig:
    """Configure PEFT: LoRA on the targets, and the tokens' rows in one of the two ways."""
    import peft

    embedding = last_name(model, model.get_input_embeddings())
    options: dict[str, Any] = {}
    targets: str | list[str] = _targets(settings, model)
    if settings.token_training == "row":
        options["trainable_token_indices"] = {embedding: token_ids}
    else:
        targets = [*targets, embedding]
    if settings.targets == ("all-linear",) and (experts := expert_names(model)):
        if settings.dropout or settings.dora:
            raise SettingsError(
                f"{settings.model!r} is a mixture of experts, and LoRA on {', '.join(experts)} "
                "takes neither dropout nor dora: set dropout to 0 (--dropout 0) and dora to false, "
                "or name the targets without the experts"
            )
        options["target_parameters"] = experts
    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        target_modules=targets,
        task_type="CAUSAL_LM",
        **options,
    )


def _targets(settings: TrainSettings, model: PreTrainedModel) -> list[str]:
    """Return the names of the modules that get LoRA; `all-linear` is all linear but the head."""
    linear = sorted(linear_names(model))
    if settings.targets == ("all-linear",):
        return linear
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    unknown = [target for target in settings.targets if target.rsplit(".", 1)[-1] not in names]
    if unknown:
        raise SettingsError(
            f"targets {', '.join(unknown)} are not modules of {settings.model!r}: "
            f"its linear ones are {', '.join(linear)}, and all-linear takes all of them"
        )
    return list(settings.targets)


def embedding_rms(model: PreTrainedModel) -> float:
    """Return the root mean square of the values of a model's input embedding."""
    weight = model.get_input_embeddings().weight.detach()
    return float(weight.float().square().mean().sqrt())


def _untie(model: PreTrainedModel) -> None:
    """Give a tied head its own copy of the embedding's weights.

    LoRA on the embedding leaves the head unchanged, as in the paper's code; merged into a shared
    weight, it would change the head too.
    """
    import torch

    head = model.get_output_embeddings()
    if head is None or head.weight is not model.get_input_embeddings().weight:
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def linear_names(model: PreTrainedModel) -> list[str]:
    """Return the last name parts of all linear modules but the head, in the model's order."""
    head = model.get_output_embeddings()
    names = (
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if type(module).__name__.startswith(("Linear", "Conv1D")) and module is not head
    )
    return list(dict.fromkeys(names))


def expert_names(model: PreTrainedModel) -> list[str]:
    """Return the names of the experts' weights without their layer, sorted.

    transformers keeps the weights of all experts of a layer in one parameter of three dimensions.
    """
    names = (
        re.sub(r"^.*\.\d+\.", "", name)
        for name, weight in model.named_parameters()
        if weight.dim() == 3 and "expert" in name
    )
    return sorted(set(names))


def last_name(model: PreTrainedModel, wanted: Any) -> str:
    """Return the last part of a module's name, as PEFT needs it."""
    name: str = next(name for name, module in model.named_modules() if module is wanted)
    return name.rsplit(".", 1)[-1]


def is_main_process() -> bool:
    """Return whether this process writes: one of those that `accelerate launch` started does."""
    return _process_count() == 1 or int(os.environ.get("RANK") or 0) == 0


def own_device(device: str) -> str:
    """Return the device on which this process puts its model, for the settings' device.

    Each process has its own GPU. A model to be sharded starts on the CPU, from which each GPU
    takes its part, so no GPU needs to hold all of it.
    """
    if _process_count() == 1 or device != "cuda":
        return device
    return "cpu" if is_sharded() else f"cuda:{int(os.environ.get('LOCAL_RANK') or 0)}"


def is_sharded() -> bool:
    """Return whether `accelerate launch` was given an FSDP configuration."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def wait_for_all() -> None:
    """Wait until every process calls this; a trainer must have been made before."""
    if _process_count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _process_count() -> int:
    return int(os.environ.get("WORLD_SIZE") or 1)


@contextmanager
def training_errors(where: object, *, lower: str) -> Iterator[None]:
    """Translate other libraries' errors: out of memory, a full disk, unknown or missing trackers.

    Args:
        where: Folder that is being written.
        lower: Settings to lower so that less memory is needed.
    """
    try:
        yield
    except DeliaError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}".lower()
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, MemoryError) or any(each in text for each in _MEMORY_TEXTS):
            raise EngineError(
                f"out of memory: lower {lower}, and rerun with a new output folder"
            ) from error
        full = isinstance(error, OSError) and error.errno in _FULL
        if full or any(each in text for each in _FULL_TEXTS):
            raise OutputError(
                f"{where} cannot be written ({first}): free some space, and rerun the same command "
                "to resume"
            ) from error
        if isinstance(error, ValueError) and "is not supported, only" in text:
            raise InputError(f"report_to: {first}") from error
        missing = isinstance(error, RuntimeError | ImportError)
        if missing and "requires" in text and "install" in text:
            raise MissingExtraError(f"report_to: {first}") from error
        raise
