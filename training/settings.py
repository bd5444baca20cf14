"""Settings of a training run, and recipes: the same settings as YAML.

The flags of `delia train`, the keys of a recipe and the settings in a manifest are the fields of
`TrainSettings`; bounds and descriptions are written next to each field.
"""

# `_setting` returns a dataclass field.
# ruff: noqa: RUF009

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from delia_data.errors import InputError, SettingsError, unknown_name
from delia_data.models import DEFAULT_MODEL
from delia_data.outputs import read_mapping
from delia_data.tokens import DEFAULT_TOKEN, Init

PAPER_BATCH: Final = 64
"""Rows per step in the paper's experiments."""
PAPER_SMALL_BATCH: Final = (256, 16)
"""With fewer rows than the first number, the paper takes the second number of rows per step."""
_RECIPES: Final = files("delia_data.training") / "recipes"

TOKEN_RATE: Final = 0.15
"""Default of `token_rate`, from trainings of two model families (docs/decisions.md)."""
_SAVE_EVERY_STEPS: Final = 10
_REPLACED: Final = {
    "token_learning_rate": "token_learning_rate is now token_rate, which is relative: divide it "
    "by the root mean square of the embedding's values (0.02 is 0.15 on smollm2-135m-instruct)"
}

Number = Annotated[float, Field(allow_inf_nan=False)]


def _one_or_several(value: Any) -> Any:
    """Return a sequence of one token as that token, which is how files hold it."""
    several = isinstance(value, list | tuple)
    return (value[0] if len(value) == 1 else tuple(value)) if several else value


Tokens = Annotated[str | tuple[str, ...], BeforeValidator(_one_or_several)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]


def _setting(default: Any, description: str, **bounds: Any) -> Any:
    """Return a field of the settings, with bounds as pydantic names them."""
    return field(
        default=default,
        metadata={"description": description, "schema": Field(description=description, **bounds)},
    )


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of fine-tuning on a mixture.

    Raises:
        SettingsError: Values have the wrong type or are out of bounds; the message names all.
    """

    model: str = _setting(DEFAULT_MODEL, "Embedded model's name, folder, .gguf file, or Hub id.")
    token: Tokens = _setting(
        DEFAULT_TOKEN, "Special token; of a mixture of several tasks, the token of each."
    )
    template_options: dict[str, Any] | None = _setting(
        None, "Options of the model's chat template by name, such as enable_thinking: false."
    )
    init: Init = _setting(
        "mean", "Initial embedding row of the token: mean of all rows, random, or description."
    )
    description: str | None = _setting(
        None, "Meaning of the token in words, for init 'description'."
    )
    adaptation: Literal["lora", "qlora", "full"] = _setting(
        "lora",
        "Weights to train: LoRA, LoRA on weights kept in 4 bits (needs bitsandbytes), or all.",
    )
    token_training: Literal["row", "lora"] = _setting(
        "row",
        "How to train the token's embedding: that row alone, or LoRA on the input embedding as in "
        "the paper's code.",
    )
    rank: int = _setting(16, "Rank of LoRA.", gt=0)
    alpha: int = _setting(16, "Scale of LoRA; updates are multiplied by alpha / rank.", gt=0)
    rslora: bool = _setting(
        False, "Multiply LoRA's updates by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."
    )
    dora: bool = _setting(
        False, "Train the magnitude of each weight's columns apart from their direction (DoRA)."
    )
    dropout: Number = _setting(0.05, "Dropout of LoRA, from 0 to below 1.", ge=0, lt=1)
    targets: Names = _setting(
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        "Names of the modules that get LoRA; or all-linear, which includes the experts of a "
        "mixture of experts but not its router.",
        min_length=1,
    )
    learning_rate: Number = _setting(2e-4, "Learning rate of the LoRA weights.", gt=0)
    token_rate: Number | None = _setting(
        None,
        "Learning rate of the token's embedding row, as a share of the root mean square of the "
        "embedding's values; by default 0.15 if that row is trained by itself.",
        ge=0,
    )
    pairs_loss: Literal["ce", "kl"] = _setting(
        "ce",
        "Loss of the rows outside the task: cross-entropy of their answers as in the paper, or KL "
        "divergence from the untrained model, which leaves it almost unchanged.",
    )
    epochs: Number = _setting(1.0, "Number of passes over the mixture.", gt=0)
    batch_size: int | None = _setting(
        None,
        "Rows per optimizer step, over all processes; by default the paper's: 64, or 16 for "
        "mixtures of fewer than 256 rows.",
        gt=0,
    )
    micro_batch_size: int | None = _setting(
        None,
        "Maximum rows to compute at once, a divisor of batch_size; by default all of them.",
        gt=0,
    )
    micro_batch_tokens: int | None = _setting(
        None,
        "Maximum tokens to pack into one sequence; by default 1,024 on a CPU and 16,384 on a GPU.",
        gt=0,
    )
    optimizer: str | None = _setting(
        None, "Name of the optimizer in transformers, such as adafactor; by default AdamW."
    )
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = _setting(
        "constant_with_warmup", "Learning rate schedule."
    )
    warmup_steps: int = _setting(25, "Steps until the full learning rate.", ge=0)
    weight_decay: Number = _setting(0.01, "Weight decay of the LoRA weights.", ge=0)
    max_length: int = _setting(1024, "Maximum tokens per row.", gt=0)
    truncate: bool = _setting(False, "Cut and count longer rows instead of refusing them.")
    packing: bool = _setting(
        True,
        "Compute the rows of a micro-batch as one sequence without padding; attention never "
        "crosses rows. Otherwise rows of similar length are padded. A step holds the same rows "
        "either way.",
    )
    gradient_checkpointing: bool | None = _setting(
        None, "Recompute activations to save memory; by default on a GPU only."
    )
    neftune_alpha: Number | None = _setting(
        None, "Scale of noise on the input embeddings (NEFTune); by default no noise.", gt=0
    )
    dtype: Literal["auto", "float32", "bfloat16"] = _setting(
        "auto", "Type of the weights; auto is bfloat16 if the device computes in it."
    )
    save_every_steps: int | None = _setting(
        None,
        "Steps between two checkpoints, from which a stopped run resumes; by default 10. With "
        "best_by a checkpoint is saved at each measurement.",
        gt=0,
    )
    watch_every_steps: int | None = _setting(
        None,
        "Steps between two measurements: of the loss on held-out task rows, and what the other "
        "watch settings name; by default none.",
        gt=0,
    )
    watch_keywords: Names = _setting(
        (), "Words that the token is expected to approach, such as json."
    )
    watch_pairs: str | None = _setting(
        None,
        "Measure the loss and the divergence from the untrained model on held-out pairs of this "
        "cache or file, or bundled: those that a mixture takes last.",
    )
    watch_task: str | None = _setting(
        None,
        "Measure the leak with this task folder: generate answers without the token as delia "
        "evaluate does.",
    )
    watch_rows: int | None = _setting(
        None, "Maximum held-out task rows, and pairs, of a measurement; by default 150.", gt=0
    )
    best_by: Literal["loss", "leak", "keep"] | None = _setting(
        None,
        "Keep the checkpoint with the lowest held-out loss of task rows, leak (of equal ones that "
        "with the lower loss) or divergence on held-out pairs; by default the last one.",
    )
    patience: int | None = _setting(
        None, "Stop after this many measurements without a better best_by.", gt=0
    )
    report_to: Names = _setting(
        (), "Experiment trackers that receive the metrics, such as tensorboard."
    )
    seed: int = _setting(0, "Seed of the new row, of LoRA's initialization and of dropout.")
    device: str = _setting("cpu", "Device: cpu, cuda, or auto for a GPU if available.")

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values, problems = _validate(values)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if problems := problems or self._contradictions():
            raise SettingsError(f"training settings: {'; '.join(problems)}")

    def _contradictions(self) -> list[str]:
        """Return the pairs of settings of which one disables or changes the other."""
        problems = []
        if len(set(self.tokens)) < max(1, len(self.tokens)):
            problems.append(f"token {', '.join(self.tokens)!r}: give at least one, each once")
        rows, micro = self.batch_size or PAPER_BATCH, self.micro_batch_size
        if micro is not None and rows % micro:
            problems.append(f"micro_batch_size {micro!r} must divide batch_size {rows!r}")
        described = bool((self.description or "").strip())
        if (self.init == "description") != described:
            problems.append("init 'description' requires a description, and the reverse: set both")
        if described and len(self.tokens) > 1:
            problems.append("init 'description' is for a single token: use mean or normal")
        if not self.trains_row_alone and self.token_rate is not None:
            problems.append(
                "token_rate is for token_training 'row' with LoRA: leave it out otherwise"
            )
        if self.adaptation == "full" and (self.rslora or self.dora):
            problems.append("rslora and dora are for LoRA: leave them out with adaptation 'full'")
        if self.adaptation == "full" and self.token_training != "row":
            problems.append("token_training is for LoRA: with adaptation 'full' leave it out")
        if not self.packing and self.micro_batch_tokens is not None:
            problems.append("micro_batch_tokens is for packing: leave it out, or set packing")
        return problems + self._watch_problems()

    def _watch_problems(self) -> list[str]:
        """Return the contradictions among the settings of measurements during training."""
        problems = []
        names = ("watch_keywords", "watch_pairs", "watch_task", "watch_rows", "best_by")
        if self.watch_every_steps is None:
            problems += [
                f"{name} needs watch_every_steps: set both" for name in names if getattr(self, name)
            ]
        if self.patience and not self.best_by:
            problems.append("patience needs best_by: set both")
        needed = {"leak": "watch_task", "keep": "watch_pairs"}.get(self.best_by or "")
        if needed and getattr(self, needed) is None:
            problems.append(f"best_by {self.best_by} needs {needed}: set both")
        if (self.watch_task or self.best_by == "keep") and not self.keeps_untrained:
            name = "watch_task" if self.watch_task else "best_by keep"
            problems.append(
                f"{name} compares with the untrained model, which adaptation 'full' keeps only "
                "with pairs_loss 'kl': set that, or train LoRA"
            )
        if self.best_by and self.save_every_steps not in (None, self.watch_every_steps):
            problems.append("save_every_steps must be watch_every_steps with best_by: leave it out")
        return problems

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        chosen = self.watch_every_steps if self.best_by else None
        return self.save_every_steps or chosen or _SAVE_EVERY_STEPS

    @property
    def keeps_untrained(self) -> bool:
        """Whether the untrained model can still answer: without the adapter, or as a copy."""
        return self.adaptation != "full" or self.pairs_loss == "kl"

    @property
    def tokens(self) -> tuple[str, ...]:
        """The special tokens."""
        return (self.token,) if isinstance(self.token, str) else self.token

    @property
    def trains_row_alone(self) -> bool:
        """Whether the token's row is trained by itself, next to LoRA."""
        return self.adaptation != "full" and self.token_training == "row"

    @property
    def row_rate(self) -> float | None:
        """Rate of the token's row, by default `TOKEN_RATE`; None if it is not trained by itself."""
        if not self.trains_row_alone:
            return None
        return TOKEN_RATE if self.token_rate is None else self.token_rate

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "settings") -> TrainSettings:
        """Make settings of plain values, such as those of a YAML file.

        Args:
            values: Values by setting.
            where: Name of their source, for errors.

        Raises:
            SettingsError: A key is unknown, or a value has the wrong type or is out of bounds;
                the message names all.
        """
        known = [field.name for field in fields(cls)]
        unknown = [
            _REPLACED.get(key) or unknown_name("key", key, known)
            for key in values
            if key not in known
        ]
        valid, problems = _validate({key: values[key] for key in values if key in known})
        if unknown or problems:
            raise SettingsError(f"{where}: {'; '.join(unknown + problems)}")
        return cls(**valid)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, as a manifest and a YAML file hold them."""
        plain = asdict(self).items()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain}


@functools.cache
def _validators() -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(TrainSettings, include_extras=True)
    schemas = {field.name: field.metadata["schema"] for field in fields(TrainSettings)}
    kinds: dict[str, Any] = {name: Annotated[hints[name], schemas[name]] for name in schemas}
    return {name: TypeAdapter(kind) for name, kind in kinds.items()}


def _validate(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return values converted to their fields' types, and a line for each that cannot be."""
    valid, problems = {}, []
    for name, value in values.items():
        try:
            # YAML 1.1 reads 2e-4 as text; pydantic makes a number of it.
            valid[name] = _validators()[name].validate_python(value)
        except ValidationError as error:
            problems.append(f"{name} {value!r} is wrong: {error.errors()[0]['msg']}")
    return valid, problems


def rows_a_step(rows: int, settings: TrainSettings) -> int:
    """Return the rows per step: as set, or the paper's 64, and 16 below 256 rows."""
    few, small = PAPER_SMALL_BATCH
    return settings.batch_size or (PAPER_BATCH if rows >= few else small)


def recipe_names() -> list[str]:
    """Return the names of the bundled recipes."""
    return sorted(file.name.removesuffix(".yaml") for file in _RECIPES.iterdir())


def read_recipe(
    recipe: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> TrainSettings:
    """Read a recipe: the name of a bundled one, or a YAML file.

    Args:
        recipe: Name or path.
        overrides: Values by setting that replace the recipe's.

    Raises:
        InputError: There is no such recipe.
        SettingsError: It is not a YAML mapping, a key is unknown, or a value is wrong.
    """
    values = read_yaml(recipe, "recipe", _RECIPES, recipe_names())
    where = f"{recipe} with {', '.join(sorted(overrides))}" if overrides else str(recipe)
    return TrainSettings.from_dict({**values, **(overrides or {})}, where=where)


def read_yaml(
    file: str | os.PathLike[str], kind: str, folder: Traversable, names: Sequence[str]
) -> dict[str, Any]:
    """Read the settings in a YAML file, or in a bundled one.

    Args:
        file: Path that ends in `.yaml` or `.yml`, or the name of a bundled file.
        kind: Kind of the file in errors, such as `"recipe"`.
        folder: Folder of the bundled files.
        names: Their names.

    Raises:
        InputError: There is no such file.
        SettingsError: It is not UTF-8 text or not a YAML mapping.
    """
    path = Path(file)
    if path.suffix not in {".yaml", ".yml"} and str(file) not in names:
        raise InputError(
            f"{kind} {str(file)!r} is unknown: give a .yaml file or one of {', '.join(names)}"
        )
    source = folder / f"{file}.yaml" if str(file) in names else path
    return read_mapping(source, str(path), "settings, such as 'name: value'")


def as_recipe(settings: TrainSettings) -> str:
    """Return settings as the YAML text of a recipe."""
    return yaml.safe_dump(settings.as_dict(), sort_keys=False, allow_unicode=True)
