"""Settings of a training run: frozen data, checked as a whole."""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from delia_data.errors import InputError, SettingsError
from delia_data.models import DEFAULT_MODEL
from delia_data.tokens import DEFAULT_TOKEN, INITS, Init

Adaptation = Literal["lora", "qlora", "full"]
TokenTraining = Literal["row", "lora"]
Dtype = Literal["auto", "float32", "bfloat16"]

ADAPTATIONS: Final[tuple[Adaptation, ...]] = get_args(Adaptation)
TOKEN_TRAININGS: Final[tuple[TokenTraining, ...]] = get_args(TokenTraining)
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)
SCHEDULES: Final = ("constant_with_warmup", "linear", "cosine")

PAPER_BATCH: Final = 64
"""Rows a step in the paper's experiments."""
PAPER_SMALL_BATCH: Final = (256, 16)
"""Below so many rows the paper takes so many a step."""

_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "init": INITS,
    "adaptation": ADAPTATIONS,
    "token_training": TOKEN_TRAININGS,
    "dtype": DTYPES,
    "schedule": SCHEDULES,
}
_NAMES: Final = ("targets", "watch_keywords", "report_to")
_POSITIVE: Final = (
    *("rank", "alpha", "learning_rate", "epochs", "batch_size", "max_length"),
    *("neftune_alpha", "save_every_steps", "watch_every_steps", "micro_batch_tokens"),
)


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of fine-tuning on a mixture.

    Attributes:
        model: The embedded model's name, a folder, or a Hub id.
        token: The special token.
        init: How its embedding begins.
        description: What it stands for, for `init="description"`.
        adaptation: What of the model is trained: `"lora"`, `"qlora"` (LoRA on weights kept in 4
            bits; needs bitsandbytes) or `"full"` (every weight).
        token_training: How the token's row of the embedding is trained beside LoRA: `"row"` trains
            that row alone; `"lora"` adds LoRA to the input embedding, as the paper's code does.
        rank: Rank of LoRA.
        alpha: Scale of LoRA; updates are multiplied by `alpha / rank`.
        dropout: Dropout of LoRA, between 0 and 1.
        targets: Names of the modules that get LoRA, or `("all-linear",)`.
        learning_rate: Of the LoRA matrices.
        token_learning_rate: Of the token's own embedding row; None takes `learning_rate`.
        epochs: Times that the mixture is gone through.
        batch_size: Rows a step. None takes the paper's: 64, or 16 for mixtures of fewer than 256
            rows.
        micro_batch_size: Rows computed at once at most, a divisor of `batch_size`; None takes all.
        micro_batch_tokens: Tokens packed into one sequence at most; None takes 1,024 on a CPU and
            16,384 on a GPU.
        schedule: `"constant_with_warmup"`, `"linear"` or `"cosine"`.
        warmup_steps: Steps until the full learning rate.
        weight_decay: Of the LoRA matrices.
        max_length: Tokens of a row at most.
        truncate: Cut rows that are longer, and count them; else they are refused.
        packing: Compute the rows of a micro-batch as one sequence without padding; attention never
            crosses from one row to another. Else rows are padded, together with those of like
            length. A step holds the same rows either way.
        gradient_checkpointing: Compute activations again instead of keeping them: less memory, more
            time. None does so on a GPU alone.
        neftune_alpha: Scale of noise on the input embeddings (Jain et al. 2023); None for none.
        dtype: What the weights are computed in; `"auto"` is bfloat16, where the device has it.
        save_every_steps: Steps between two checkpoints, from which a stopped run goes on.
        watch_every_steps: Steps between two measurements of the token's distance to
            `watch_keywords`; None for none.
        watch_keywords: Words that the token is expected to come near to, such as `"json"`.
        report_to: Names of services that get the figures of every step, such as `"tensorboard"`.
        seed: Seed of the new row, LoRA's initialisation and dropout.
        device: Where to train: `"cpu"`, `"cuda"`, or `"auto"` for a GPU where there is one.

    Raises:
        SettingsError: Values are out of their bounds; the message names all of them.
    """

    model: str = DEFAULT_MODEL
    token: str = DEFAULT_TOKEN
    init: Init = "mean"
    description: str | None = None
    adaptation: Adaptation = "lora"
    token_training: TokenTraining = "row"
    rank: int = 16
    alpha: int = 16
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    learning_rate: float = 2e-4
    token_learning_rate: float | None = None
    epochs: float = 1.0
    batch_size: int | None = None
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    schedule: str = "constant_with_warmup"
    warmup_steps: int = 25
    weight_decay: float = 0.01
    max_length: int = 1024
    truncate: bool = False
    packing: bool = True
    gradient_checkpointing: bool | None = None
    neftune_alpha: float | None = None
    dtype: Dtype = "auto"
    save_every_steps: int = 10
    watch_every_steps: int | None = None
    watch_keywords: tuple[str, ...] = ()
    report_to: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        problems = [
            f"{name} {getattr(self, name)!r} must be more than 0"
            for name in _POSITIVE
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf
        ]
        problems += [
            f"{name} {getattr(self, name)!r} must be one of {', '.join(known)}"
            for name, known in _CHOICES.items()
            if getattr(self, name) not in known
        ]
        rows, micro = self.batch_size or PAPER_BATCH, self.micro_batch_size
        if micro is not None and (micro < 1 or rows % micro):
            problems.append(f"micro_batch_size {micro!r} must divide batch_size {rows!r}")
        if self.token_learning_rate is not None and not self.token_learning_rate >= 0:
            problems.append(f"token_learning_rate {self.token_learning_rate!r} must be 0 or more")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout {self.dropout!r} must be from 0 up to below 1")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            problems.append("warmup_steps and weight_decay must be 0 or more")
        if not self.targets:
            problems.append("targets must name at least one module, or all-linear")
        problems += self._contradictions()
        if problems:
            raise SettingsError(f"training settings: {'; '.join(problems)}")

    def _contradictions(self) -> list[str]:
        """Settings of which one makes another do nothing, or something else."""
        found = []
        described = bool((self.description or "").strip())
        if (self.init == "description") != described:
            found.append("init 'description' and a description go together: give both or neither")
        if self.adaptation == "full" and self.token_learning_rate is not None:
            found.append("token_learning_rate is for LoRA: with adaptation 'full' leave it out")
        if self.adaptation == "full" and self.token_training != "row":
            found.append("token_training is for LoRA: with adaptation 'full' leave it out")
        if not self.packing and self.micro_batch_tokens is not None:
            found.append("micro_batch_tokens is for packing: leave it out, or set packing")
        if (self.watch_every_steps is None) == bool(self.watch_keywords):
            found.append("watch_every_steps and watch_keywords go together: give both or neither")
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, where: str = "settings") -> TrainSettings:
        """Make settings of plain values; unknown keys and wrong types are reported all at once.

        Raises:
            SettingsError: A key is unknown, or a value has the wrong type or is out of bounds.
        """
        known = [field.name for field in fields(cls)]
        wrong = [_unknown(key, known) for key in values if key not in known]
        plain = {key: value for key, value in values.items() if key in known}
        for name in _NAMES:
            if isinstance(plain.get(name), str):
                plain[name] = (plain[name],)
        types = get_type_hints(cls)
        for name, value in plain.items():
            try:
                # YAML 1.1 reads 2e-4 as text; a number is made of it here.
                plain[name] = TypeAdapter(types[name]).validate_python(value)
            except ValidationError as error:
                problem = error.errors()[0]["msg"]
                wrong.append(f"{name} {value!r} is wrong: {problem}")
        if wrong:
            raise SettingsError(f"{where}: {'; '.join(wrong)}")
        return cls(**plain)

    def as_dict(self) -> dict[str, Any]:
        """Give the settings as plain values, as a manifest and a YAML file hold them."""
        return {**asdict(self), **{name: list(getattr(self, name)) for name in _NAMES}}


def rows_a_step(rows: int, settings: TrainSettings) -> int:
    """Rows in a batch: as set, or the paper's 64, and 16 below 256 rows."""
    few, small = PAPER_SMALL_BATCH
    return settings.batch_size or (PAPER_BATCH if rows >= few else small)


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    return f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = files("delia_data.training") / "recipes"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def read_recipe(recipe: str | os.PathLike[str]) -> TrainSettings:
    """Read a recipe: the name of a bundled one, or a YAML file.

    Raises:
        InputError: There is no such recipe.
        SettingsError: It is not a YAML mapping, a key is unknown, or a value is wrong.
    """
    return TrainSettings.from_dict(recipe_values(recipe), where=str(recipe))


def recipe_values(recipe: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the values that a recipe writes down, as they stand there.

    Raises:
        InputError: There is no such recipe.
        SettingsError: It is not a YAML mapping.
    """
    path = Path(recipe)
    if path.suffix in {".yaml", ".yml"}:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is not UTF-8 text: write it anew as UTF-8") from error
    elif str(recipe) in recipe_names():
        bundled = files("delia_data.training") / "recipes" / f"{recipe}.yaml"
        text = bundled.read_text(encoding="utf-8")
    else:
        raise InputError(
            f"recipe {str(recipe)!r} is unknown: give a .yaml file or one of "
            f"{', '.join(recipe_names())}"
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{recipe} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{recipe} must hold a mapping of settings")
    return values


def as_recipe(settings: TrainSettings) -> str:
    """Word settings as a recipe that gives them back."""
    return yaml.safe_dump(settings.as_dict(), sort_keys=False, allow_unicode=True)
