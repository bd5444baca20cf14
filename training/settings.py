"""Settings of a training run, and recipes: the same settings as YAML.

The flags of `delia train`, the keys of a recipe and the settings in a manifest are the fields of
`TrainSettings`; bounds and descriptions are written next to each field.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BeforeValidator

from delia_data.errors import InputError, SettingsError, unknown_name
from delia_data.models import DEFAULT_MODEL
from delia_data.outputs import Number, read_mapping, setting, validate
from delia_data.tokens import DEFAULT_TOKEN, Init, split_tokens

PAPER_BATCH: Final = 64
"""Rows per step in the paper's experiments."""
PAPER_SMALL_BATCH: Final = (256, 16)
"""With fewer rows than the first number, the paper takes the second number of rows per step."""
_RECIPES: Final = files("delia_data.training") / "recipes"

TOKEN_RATE: Final = 0.15
"""Default of `token_rate`, from trainings of two model families (docs/decisions.md)."""
_SAVE_EVERY_STEPS: Final = 10
_WATCHING: Final = ("watch_keywords", "watch_pairs", "watch_task", "watch_rows", "best_by")
_REPLACED: Final = {
    "token_learning_rate": "token_learning_rate is now token_rate, which is relative: divide it "
    "by the root mean square of the embedding's values (0.02 is 0.15 on smollm2-135m-instruct)"
}


def _one_or_several(value: Any) -> Any:
    """Return a sequence of one token as that token, which is how files hold it."""
    several = isinstance(value, list | tuple)
    return (value[0] if len(value) == 1 else tuple(value)) if several else value


Tokens = Annotated[str | tuple[str, ...], BeforeValidator(_one_or_several)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of fine-tuning on a mixture.

    Raises:
        SettingsError: Values have the wrong type or are out of bounds; the message names all.
    """

    model: str = setting(DEFAULT_MODEL, "Embedded model's name, folder, .gguf file, or Hub id.")
    token: Tokens = setting(
        DEFAULT_TOKEN, "Special token; of a mixture of several tasks, the token of each."
    )
    template_options: dict[str, Any] | None = setting(
        None, "Options of the model's chat template by name, such as enable_thinking: false."
    )
    init: Init = setting(
        "mean", "Initial embedding row of the token: mean of all rows, random, or description."
    )
    description: str | None = setting(
        None, "Meaning of the token in words, for init 'description'."
    )
    adaptation: Literal["lora", "qlora", "full"] = setting(
        "lora",
        "Weights to train: LoRA, LoRA on weights kept in 4 bits (needs bitsandbytes), or all.",
    )
    token_training: Literal["row", "lora"] = setting(
        "row",
        "How to train the token's embedding: that row alone, or LoRA on the input embedding as in "
        "the paper's code.",
    )
    rank: int = setting(16, "Rank of LoRA.", gt=0)
    alpha: int = setting(16, "Scale of LoRA; updates are multiplied by alpha / rank.", gt=0)
    rslora: bool = setting(
        False, "Multiply LoRA's updates by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."
    )
    dora: bool = setting(
        False, "Train the magnitude of each weight's columns apart from their direction (DoRA)."
    )
    dropout: Number = setting(0.05, "Dropout of LoRA, from 0 to below 1.", ge=0, lt=1)
    targets: Names = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        "Names of the modules that get LoRA; or all-linear, which includes the experts of a "
        "mixture of experts but not its router.",
        min_length=1,
    )
    learning_rate: Number = setting(2e-4, "Learning rate of the LoRA weights.", gt=0)
    token_rate: Number | None = setting(
        None,
        "Learning rate of the token's embedding row, as a share of the root mean square of the "
        "embedding's values; by default 0.15 if that row is trained by itself.",
        ge=0,
    )
    pairs_loss: Literal["ce", "kl"] = setting(
        "ce",
        "Loss of the rows outside the task: cross-entropy of their answers as in the paper, or KL "
        "divergence from the untrained model, which leaves it almost unchanged.",
    )
    epochs: Number = setting(1.0, "Number of passes over the mixture.", gt=0)
    batch_size: int | None = setting(
        None,
        "Rows per optimizer step, over all processes; by default the paper's: 64, or 16 for "
        "mixtures of fewer than 256 rows.",
        gt=0,
    )
    micro_batch_size: int | None = setting(
        None,
        "Maximum rows to compute at once, a divisor of batch_size; by default all of them.",
        gt=0,
    )
    micro_batch_tokens: int | None = setting(
        None,
        "Maximum tokens to pack into one sequence; by default 1,024 on a CPU and 16,384 on a GPU.",
        gt=0,
    )
    optimizer: str | None = setting(
        None, "Name of the optimizer in transformers, such as adafactor; by default AdamW."
    )
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = setting(
        "constant_with_warmup", "Learning rate schedule."
    )
    warmup_steps: int = setting(25, "Steps until the full learning rate.", ge=0)
    weight_decay: Number = setting(0.01, "Weight decay of the LoRA weights.", ge=0)
    max_length: int = setting(1024, "Maximum tokens per row.", gt=0)
    truncate: bool = setting(False, "Cut and count longer rows instead of refusing them.")
    packing: bool = setting(
        True,
        "Compute the rows of a micro-batch as one sequence without padding; attention never "
        "crosses rows. Otherwise rows of similar length are padded. A step holds the same rows "
        "either way.",
    )
    gradient_checkpointing: bool | None = setting(
        None, "Recompute activations to save memory; by default on a GPU only."
    )
    neftune_alpha: Number | None = setting(
        None, "Scale of noise on the input embeddings (NEFTune); by default no noise.", gt=0
    )
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Type of the weights; auto is bfloat16 if the device computes in it."
    )
    save_every_steps: int | None = setting(
        None,
        "Steps between two checkpoints, from which a stopped run resumes; by default 10. With "
        "best_by a checkpoint is saved at each measurement.",
        gt=0,
    )
    watch_every_steps: int | None = setting(
        None,
        "Steps between two measurements: of the loss on held-out task rows, and what the other "
        "watch settings name; by default none.",
        gt=0,
    )
    watch_keywords: Names = setting(
        (), "Words that the token is expected to approach, such as json."
    )
    watch_pairs: str | None = setting(
        None,
        "Measure the loss and the divergence from the untrained model on held-out pairs of this "
        "cache or file, or bundled: those that a mixture takes last.",
    )
    watch_task: str | None = setting(
        None,
        "Measure the leak with this task folder: generate answers without the token as delia "
        "evaluate does.",
    )
    watch_rows: int | None = setting(
        None, "Maximum held-out task rows, and pairs, of a measurement; by default 150.", gt=0
    )
    best_by: Literal["loss", "leak", "keep"] | None = setting(
        None,
        "Keep the checkpoint with the lowest held-out loss of task rows, leak (of equal ones that "
        "with the lower loss) or divergence on held-out pairs; by default the last one.",
    )
    patience: int | None = setting(
        None, "Stop after this many measurements without a better best_by.", gt=0
    )
    report_to: Names = setting(
        (), "Experiment trackers that receive the metrics, such as tensorboard."
    )
    seed: int = setting(0, "Seed of the new row, of LoRA's initialization and of dropout.")
    device: str = setting("cpu", "Device: cpu, cuda, or auto for a GPU if available.")

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values, problems = validate(TrainSettings, values)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if problems := problems or self._contradictions():
            raise SettingsError(f"training settings: {'; '.join(problems)}")

    def _contradictions(self) -> list[str]:
        """Return the pairs of settings of which one disables or changes the other."""
        rows, micro = self.batch_size or PAPER_BATCH, self.micro_batch_size
        tokens = split_tokens(*self.tokens)
        described = bool((self.description or "").strip())
        full, watched = self.adaptation == "full", self.watch_every_steps is not None
        needed = {"leak": "watch_task", "keep": "watch_pairs"}.get(self.best_by or "")
        compared = "watch_task" if self.watch_task else "best_by keep"
        problems = (
            (
                len(set(tokens)) < max(1, len(tokens)),
                f"token {', '.join(self.tokens)!r}: give at least one, each once",
            ),
            (
                micro is not None and rows % micro,
                f"micro_batch_size {micro!r} must divide batch_size {rows!r}",
            ),
            (
                (self.init == "description") != described,
                "init 'description' requires a description, and the reverse: set both",
            ),
            (
                described and len(tokens) > 1,
                "init 'description' is for a single token: use mean or normal",
            ),
            (
                not self.trains_row_alone and self.token_rate is not None,
                "token_rate is for token_training 'row' with LoRA: leave it out otherwise",
            ),
            (
                full and (self.rslora or self.dora),
                "rslora and dora are for LoRA: leave them out with adaptation 'full'",
            ),
            (
                full and self.token_training != "row",
                "token_training is for LoRA: with adaptation 'full' leave it out",
            ),
            (
                not self.packing and self.micro_batch_tokens is not None,
                "micro_batch_tokens is for packing: leave it out, or set packing",
            ),
            *(
                (getattr(self, name) and not watched, f"{name} needs watch_every_steps: set both")
                for name in _WATCHING
            ),
            (self.patience and not self.best_by, "patience needs best_by: set both"),
            (
                needed and getattr(self, needed) is None,
                f"best_by {self.best_by} needs {needed}: set both",
            ),
            (
                (self.watch_task or self.best_by == "keep") and not self.keeps_untrained,
                f"{compared} compares with the untrained model, which adaptation 'full' keeps only "
                "with pairs_loss 'kl': set that, or train LoRA",
            ),
            (
                self.best_by and self.save_every_steps not in (None, self.watch_every_steps),
                "save_every_steps must be watch_every_steps with best_by: leave it out",
            ),
        )
        return [problem for applies, problem in problems if applies]

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
        """The special tokens of the tasks; one may be a sequence (`token_sequence`)."""
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
        names = [field.name for field in fields(cls)]
        unknown = [
            _REPLACED.get(key) or unknown_name("key", key, names)
            for key in values
            if key not in names
        ]
        valid, problems = validate(cls, {key: values[key] for key in values if key in names})
        if unknown or problems:
            raise SettingsError(f"{where}: {'; '.join(unknown + problems)}")
        return cls(**valid)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, as a manifest and a YAML file hold them."""
        plain = asdict(self).items()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain}


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
