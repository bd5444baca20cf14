"""The same mixture for other trainers: configuration files that work as they are.

A trainer is one entry of `EXPORTERS`: the row formats that it reads, the command that starts it,
and a function that makes its files from `ExportInputs`, with notes on settings it cannot follow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import yaml

from delia_data._optional import require
from delia_data.errors import ForeignFolderError, InputError, TokenError
from delia_data.mixing.options import TEMPLATE_KWARGS
from delia_data.models import load_model, load_tokenizer, quiet
from delia_data.outputs import (
    Manifest,
    atomic_path,
    file_sha256,
    is_finished,
    read_manifest,
    write_text,
)
from delia_data.records import Format, Record, write_record
from delia_data.tokens import encode, split_tokens
from delia_data.tokens.lint import SourceName
from delia_data.training.data import TrainingRows, open_training_rows
from delia_data.training.loading import embedding_rms, expert_names, last_name, linear_names
from delia_data.training.settings import TrainSettings, rows_a_step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainerName = Literal["axolotl", "llama-factory", "trl", "unsloth"]
TRAINERS: Final[tuple[TrainerName, ...]] = get_args(TrainerName)
_ROWS: Final = "train.parquet"
_MICRO_BATCH: Final = 8
"""Maximum rows to compute at once if the settings do not say."""
_EXISTS: Final = "{} exists and holds something else: remove it, or give another folder"


@dataclass(frozen=True, slots=True)
class TrainerFiles:
    """Files written for a trainer, the command that starts it, and settings it cannot follow.

    `rows` is the mixture's own file, or one in a format that the trainer reads.
    """

    files: tuple[Path, ...]
    rows: Path
    command: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExportInputs:
    """A mixture, a prepared model and settings, resolved.

    Attributes:
        settings: The settings; `batch_size` is a number, `targets` are names of modules.
        model: Folder of the prepared model.
        token_ids: The special tokens and their ids.
        experts: Names of the experts' weights that get LoRA, in a mixture of experts.
        embedding: Name of the module of the input embedding.
        embedding_rms: Root mean square of its values.
        end_of_turn: Text of the token with which an answer ends.
        eos: Text of the tokenizer's end-of-sequence token.
        family: `"gemma"` or `"llama2"`, whose chat formats have no system turn of their own; None
            for any other.
        system_turns: Whether the chat template takes a system turn.
        rows: File of the training rows.
        format: Their row format.
        template_options: Options of the chat template in a column of the rows.
        out: Folder of the configuration.
    """

    settings: TrainSettings
    model: Path
    token_ids: dict[str, int]
    experts: tuple[str, ...]
    embedding: str
    embedding_rms: float
    end_of_turn: str
    eos: str
    family: str | None
    system_turns: bool
    rows: Path
    format: Format
    template_options: Mapping[str, Any]
    out: Path

    @property
    def loader(self) -> str:
        """Name under which `load_dataset` reads the rows."""
        return "parquet" if self.rows.suffix == ".parquet" else "json"

    @property
    def trained(self) -> str:
        """Folder of the adapter that the trainer saves."""
        return str(self.out / "trained")

    @property
    def token_learning_rate(self) -> float:
        """Learning rate of the token's row, or of the embedding that has it."""
        rate = self.settings.row_rate
        if rate is None:
            return self.settings.learning_rate
        return float(f"{rate * self.embedding_rms:.3g}")  # few digits are enough, and readable

    def lora(self, targets: list[str], *, use: str = "use") -> dict[str, Any]:
        """Return the settings of LoRA under the names of TRL, which axolotl has too."""
        settings = self.settings
        return {
            "lora_r": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_dropout": settings.dropout,
            "lora_target_modules": targets,
            **({"lora_target_parameters": [*self.experts]} if self.experts else {}),
            **({f"{use}_rslora": True} if settings.rslora else {}),
            **({f"{use}_dora": True} if settings.dora else {}),
        }

    def arguments(self) -> dict[str, Any]:
        """Return the settings as arguments of transformers' trainer, which most others extend."""
        settings, batch = self.settings, self.settings.batch_size or 1
        most = min(settings.micro_batch_size or _MICRO_BATCH, batch)
        micro_batch = next(size for size in range(most, 0, -1) if batch % size == 0)
        return {
            "output_dir": self.trained,
            "per_device_train_batch_size": micro_batch,
            "gradient_accumulation_steps": batch // micro_batch,
            "num_train_epochs": settings.epochs,
            "learning_rate": settings.learning_rate,
            "lr_scheduler_type": settings.schedule,
            "warmup_steps": settings.warmup_steps,
            "weight_decay": settings.weight_decay,
            "seed": settings.seed,
            "logging_steps": 1,
            "save_steps": settings.checkpoint_steps,
            **({"neftune_noise_alpha": settings.neftune_alpha} if settings.neftune_alpha else {}),
        }


Files = tuple[dict[str, str], list[str]]
"""Texts of the configuration files by name, the main one last; settings that are not followed."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """A trainer: row formats that it reads, its files, and its command, with `{}` for the main one.

    Rows in other formats are converted to the first.
    """

    formats: tuple[Format, ...]
    files: Callable[[ExportInputs], Files]
    command: str


def write_trainer_files(
    trainer: TrainerName,
    mixture: str | os.PathLike[str],
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    settings: TrainSettings,
) -> TrainerFiles:
    """Write the configuration of another trainer for a mixture and a prepared model.

    Args:
        trainer: The trainer.
        mixture: Folder of a finished mixture.
        model: Folder that `prepare` wrote.
        folder: Folder for the files; existing files with other contents are not overwritten.
        settings: Rank, rates, lengths and so on; the model and the token are those of the folders.

    Raises:
        InputError: The trainer is unknown, or a folder is not a mixture or prepared model.
        TokenError: The model lacks a token that the mixture's task rows name.
        UnfinishedError: A folder has no finish marker.
        ForeignFolderError: A file with other contents exists.
    """
    if trainer not in TRAINERS:
        raise InputError(f"trainer {trainer!r} is unknown: use one of {', '.join(TRAINERS)}")
    exporter, out = EXPORTERS[trainer], Path(folder).resolve()
    if not is_finished(model) or "token_ids" not in (prepared := read_manifest(model)).details:
        raise InputError(
            f"{model} is not a prepared model: run delia prepare {model} my-model, and give "
            "my-model"
        )
    source = open_training_rows(Path(mixture))
    if source.manifest is None:
        raise InputError(f"{mixture} is not a mixture's folder: give the folder of delia mix")
    tokens = split_tokens(*source.tokens or [])
    missing = [t for t in tokens if t not in prepared.details["token_ids"]]
    if missing:
        raise TokenError(
            f"{model} was prepared without {', '.join(missing)}, which the mixture's task rows "
            "name: prepare it with --token for each"
        )
    # The mixture's own file if the trainer reads it, else a converted one.
    rows, format = Path(mixture).resolve() / _ROWS, source.manifest.settings["format"]
    if format not in exporter.formats or not rows.is_file():
        rows, format = out / f"train-{exporter.formats[0]}.jsonl", exporter.formats[0]
    inputs = _inputs(settings, Path(model).resolve(), prepared, source.manifest, rows, format, out)
    texts, notes = exporter.files(inputs)
    if settings.pairs_loss == "kl":
        notes.append(
            "pairs_loss kl is left out: pairs are trained with cross-entropy, for which the paper "
            "has a learning_rate of 2e-4"
        )
    for name, text in texts.items():
        file = out / name
        if file.exists() and (not file.is_file() or file.read_text(encoding="utf-8") != text):
            raise ForeignFolderError(_EXISTS.format(file))
    options = inputs.template_options
    if options not in ({}, prepared.settings.get("template_options")) and trainer != "trl":
        wanted = " ".join(f"--template-option {n}={json.dumps(v)}" for n, v in options.items())
        notes.append(
            f"{trainer} does not read the template options of the rows: give delia prepare {wanted}"
        )
    if rows.parent == out:
        _convert(source, rows, format, {TEMPLATE_KWARGS: options} if options else {})
    for name, text in texts.items():
        write_text(out / name, text)
    paths = tuple(out / name for name in texts)
    command = exporter.command.format(paths[-1])
    return TrainerFiles(paths, rows, command, tuple(notes))


def _convert(source: TrainingRows, file: Path, format: Format, columns: Mapping[str, Any]) -> None:
    """Write rows in another format as JSON Lines, with columns that are equal in all of them."""
    with atomic_path(file) as part:
        with part.open("w", encoding="utf-8") as lines:
            for record, _ in source.records([]):
                row = {**write_record(record, format), **columns}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        if file.exists() and file_sha256(file) != file_sha256(part):
            raise ForeignFolderError(_EXISTS.format(file))


def _inputs(
    settings: TrainSettings,
    model: Path,
    prepared: Manifest,
    mixture: Manifest,
    rows: Path,
    format: Format,
    out: Path,
) -> ExportInputs:
    torch = require("torch", extra="local")
    transformers = require("transformers", extra="local")
    with torch.device("meta"), quiet():  # the modules' names, without the weights
        config = transformers.AutoConfig.from_pretrained(model)
        bare = transformers.AutoModelForCausalLM.from_config(config)
    linear = tuple(linear_names(bare))
    batch = rows_a_step(sum(mixture.rows.get(name, 0) for name in get_args(SourceName)), settings)
    everything = settings.targets == ("all-linear",)
    targets = linear if everything else settings.targets
    tokenizer = load_tokenizer(model)
    template = str(tokenizer.chat_template)
    llama2 = "[INST]" in template and "<<SYS>>" in template
    return ExportInputs(
        settings=replace(settings, batch_size=batch, targets=targets),
        model=model,
        token_ids=prepared.details["token_ids"],
        experts=tuple(expert_names(bare)) if everything else (),
        embedding=last_name(bare, bare.get_input_embeddings()),
        embedding_rms=prepared.details.get("embedding_rms") or embedding_rms(load_model(model)),
        end_of_turn=_end_of_turn(tokenizer),
        eos=str(tokenizer.eos_token),
        family="gemma" if "<start_of_turn>" in template else "llama2" if llama2 else None,
        system_turns=_takes_system(tokenizer),
        rows=rows,
        format=format,
        template_options=mixture.settings.get("template_options") or {},
        out=out,
    )


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the token with which the chat template ends an answer."""
    row = encode(tokenizer, Record.pair("Who?", "Nobody."), check_prompt=False)
    added = tokenizer.added_tokens_decoder
    for token_id, in_answer in zip(row.ids, row.mask, strict=True):
        if in_answer and token_id in added:
            return str(added[token_id].content)
    raise InputError(
        f"{tokenizer.name_or_path}: the chat template has no token that ends an answer, "
        "so nothing teaches the model to stop: use a model whose template does"
    )


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        encode(tokenizer, Record.pair("Who?", "Nobody.", system="Be brief."), check_prompt=False)
    except InputError:
        return False
    return True


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _axolotl(inputs: ExportInputs) -> Files:
    """Write one YAML; rows of type `chat_template` take the loss on the assistant alone."""
    settings = inputs.settings
    column, role, content = (
        ("messages", "role", "content")
        if inputs.format == "messages"
        else ("conversations", "from", "value")
    )
    dataset = {
        "path": str(inputs.rows),
        "ds_type": inputs.loader,
        "split": "train",
        "type": "chat_template",
        "field_messages": column,
        "message_property_mappings": {"role": role, "content": content},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }
    own_names = {
        "per_device_train_batch_size": "micro_batch_size",
        "num_train_epochs": "num_epochs",
        "lr_scheduler_type": "lr_scheduler",
    }
    config: dict[str, Any] = {
        "base_model": str(inputs.model),
        "datasets": [dataset],
        "chat_template": "tokenizer_default",
        "dataset_prepared_path": str(inputs.out / "prepared"),
        "sequence_len": settings.max_length,
        "excess_length_strategy": "truncate" if settings.truncate else "raise",
        # In the mixture's own order.
        "shuffle_merged_datasets": False,
        "curriculum_sampling": True,
        "sample_packing": False,
        **{own_names.get(name, name): value for name, value in inputs.arguments().items()},
        "optimizer": settings.optimizer or "adamw_torch",
        "gradient_checkpointing": settings.gradient_checkpointing is not False,
        "bf16": "auto",
    }
    if inputs.end_of_turn != inputs.eos:
        config |= {"eot_tokens": [inputs.end_of_turn]}
        dataset["train_on_eot"] = "turn"
    if settings.adaptation != "full":
        targets = [*settings.targets]
        config |= {
            "adapter": "qlora" if settings.adaptation == "qlora" else "lora",
            "load_in_4bit": settings.adaptation == "qlora",
            **inputs.lora(targets, use="peft_use"),
        }
        if inputs.settings.trains_row_alone:
            ids = sorted(inputs.token_ids.values())
            config["peft_trainable_token_indices"] = {inputs.embedding: ids}
        else:
            targets.append(inputs.embedding)
    if inputs.settings.trains_row_alone:
        config["embedding_lr"] = inputs.token_learning_rate
    notes = []
    if "mpt" in str(inputs.model).lower() and settings.gradient_checkpointing is not False:
        notes.append(
            "axolotl takes a model whose path has 'mpt' in it for an MPT, and refuses "
            "gradient_checkpointing: move the model, or set that to false"
        )
    return {"axolotl.yaml": _yaml(config)}, notes


def _llama_factory(inputs: ExportInputs) -> Files:
    """Write `dataset_info.json` and a YAML; LLaMA-Factory leaves prompts out of the loss.

    Raises:
        InputError: LLaMA-Factory cannot derive the chat format.
    """
    settings, dataset = inputs.settings, "delia_mix"
    config: dict[str, Any] = {
        "model_name_or_path": str(inputs.model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full" if settings.adaptation == "full" else "lora",
        "dataset_dir": str(inputs.out),
        "dataset": dataset,
        "cutoff_len": settings.max_length,
        "disable_shuffling": True,  # in the mixture's own order
        "packing": False,
        **inputs.arguments(),
        "optim": settings.optimizer or "adamw_torch",
        "disable_gradient_checkpointing": settings.gradient_checkpointing is False,
        "bf16": settings.dtype != "float32",
        "report_to": "none",
    }
    if settings.device == "cpu":
        config |= {"use_cpu": True, "bf16": False}
    # Without a name, LLaMA-Factory derives the format from the tokenizer's template, by giving it
    # a system turn.
    if inputs.family is not None:
        config["template"] = inputs.family
    elif not inputs.system_turns:
        raise InputError(
            f"{inputs.model}: LLaMA-Factory derives a chat format from the tokenizer only where it "
            "has system turns, and this one has none: name a format there, or use another trainer"
        )
    if settings.adaptation != "full":
        config |= {
            "lora_rank": settings.rank,
            "lora_alpha": settings.alpha,
            "lora_dropout": settings.dropout,
            "lora_target": ",".join([*settings.targets, inputs.embedding]),
            **({"use_rslora": True} if settings.rslora else {}),
            **({"use_dora": True} if settings.dora else {}),
        }
    if settings.adaptation == "qlora":
        config |= {"quantization_bit": 4, "quantization_method": "bnb"}
    names = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag")
    if inputs.format == "alpaca":
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        rows = {"formatting": "alpaca", "columns": columns}
    elif inputs.format == "sharegpt":
        tags = dict(zip(names, ("from", "value", "human", "gpt", "system"), strict=True))
        rows = {"formatting": "sharegpt", "columns": {"messages": "conversations"}, "tags": tags}
    else:
        tags = dict(zip(names, ("role", "content", "user", "assistant", "system"), strict=True))
        rows = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    info = {dataset: {"file_name": str(inputs.rows), **rows}}
    no_experts = ["the experts get no LoRA: LLaMA-Factory adapts modules only"]
    experts = no_experts if inputs.experts else []
    cut = "rows of more than cutoff_len tokens are cut without a warning: run delia lint first"
    return {
        "dataset_info.json": json.dumps(info, indent=2) + "\n",
        "llama_factory.yaml": _yaml(config),
    }, [cut, *experts, *_token_notes(inputs)]


def _token_notes(inputs: ExportInputs) -> list[str]:
    """Return the notes of trainers that cannot train the token's row by itself."""
    notes = []
    if inputs.settings.trains_row_alone:
        notes.append("the token's row cannot be trained by itself: LoRA adapts the embedding")
        notes.append("token_rate is left out: there is one learning rate")
    return notes


def _trl(inputs: ExportInputs) -> Files:
    """Write the YAML of `trl sft`, which leaves the column `prompt` out of the loss."""
    settings = inputs.settings
    columns = ["prompt", "completion", *([TEMPLATE_KWARGS] if inputs.template_options else [])]
    dataset = {"path": inputs.loader, "data_files": str(inputs.rows), "columns": columns}
    config: dict[str, Any] = {
        "model_name_or_path": str(inputs.model),
        "datasets": [dataset],
        "max_length": settings.max_length,
        "completion_only_loss": True,
        "train_sampling_strategy": "sequential",  # in the mixture's own order
        "packing": False,
        **inputs.arguments(),
        **({"optim": settings.optimizer} if settings.optimizer else {}),
        "report_to": list(settings.report_to) or "none",
    }
    if settings.gradient_checkpointing is not None:
        config["gradient_checkpointing"] = settings.gradient_checkpointing
    if settings.dtype != "auto":
        config |= {"dtype": settings.dtype, "bf16": settings.dtype == "bfloat16"}
    if settings.device == "cpu":
        config |= {"use_cpu": True, "bf16": False}
    if settings.adaptation != "full":
        config |= {"use_peft": True, **inputs.lora([*settings.targets, inputs.embedding])}
    if settings.adaptation == "qlora":
        config["load_in_4bit"] = True
    notes = _token_notes(inputs)
    if not settings.truncate:
        notes.append("rows of more than max_length tokens are cut: run delia lint first")
    return {"trl.yaml": _yaml(config)}, notes


def _unsloth(inputs: ExportInputs) -> Files:
    """Write a notebook cell that labels rows itself, with the model's own chat template."""
    settings = inputs.settings
    loading = {
        "model_name": str(inputs.model),
        "max_seq_length": settings.max_length,
        "load_in_4bit": settings.adaptation == "qlora",
        "full_finetuning": settings.adaptation == "full",
    }
    lora = {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        # Unsloth trains the whole embedding if it is named here, with its own learning rate.
        "target_modules": [*settings.targets, inputs.embedding],
        "random_state": settings.seed,
        **({"target_parameters": [*inputs.experts]} if inputs.experts else {}),
        **({"use_rslora": True} if settings.rslora else {}),
    }
    adapter = (
        f"model = FastLanguageModel.get_peft_model(\n    model,\n    {_keywords(lora, 4)}\n)\n"
    )
    arguments: dict[str, Any] = {
        **inputs.arguments(),
        **({"optim": settings.optimizer} if settings.optimizer else {}),
        "embedding_learning_rate": inputs.token_learning_rate,
        "max_length": settings.max_length,
        "train_sampling_strategy": "sequential",
        "packing": False,
        "report_to": list(settings.report_to) or "none",
    }
    refuse = 'raise ValueError(f"a row has {len(whole)} tokens: raise max_length")'
    template = files("delia_data.training") / "templates" / "unsloth_cell.template"
    cell = Template(template.read_text(encoding="utf-8")).substitute(
        loading=_keywords(loading, 4),
        adapter="" if settings.adaptation == "full" else adapter,
        max_length=settings.max_length,
        too_long=f"whole = whole[:{settings.max_length}]" if settings.truncate else refuse,
        loader=repr(inputs.loader),
        rows=repr(str(inputs.rows)),
        arguments=_keywords(arguments, 8),
        trained=repr(inputs.trained),
    )
    notes = []
    if inputs.settings.trains_row_alone:
        notes = ["the token's row cannot be trained by itself: the whole embedding is trained"]
    if settings.dora:
        notes.append("dora is left out: Unsloth has plain LoRA only")
    return {"unsloth_cell.py": cell}, notes


def _keywords(values: dict[str, Any], indent: int) -> str:
    """Return keyword arguments, one per line."""
    return ("\n" + " " * indent).join(f"{name}={value!r}," for name, value in values.items())


EXPORTERS: Final[dict[TrainerName, Exporter]] = {
    "axolotl": Exporter(("messages", "sharegpt"), _axolotl, "axolotl train {}"),
    "llama-factory": Exporter(
        ("messages", "sharegpt", "alpaca"), _llama_factory, "llamafactory-cli train {}"
    ),
    "trl": Exporter(("prompt_completion",), _trl, "trl sft --config {}"),
    "unsloth": Exporter(("messages",), _unsloth, "python {}"),
}
