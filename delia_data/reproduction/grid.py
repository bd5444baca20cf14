"""A grid: which methods are run on how many task rows, at which ratios, from which seeds.

    name: tiny
    experiments:
      formatted-text:                   # one of EXPERIMENTS: the tables say what is read where
        model: smollm2-135m-instruct
        recipe: smollm2-135m-cpu
        training: {epochs: 2}           # over the recipe
        cache: {pairs: 500, max_tokens: 48}
        blocks:
          - {methods: [delia, common], rows: [30, 100], ratios: [5], seeds: [0, 1]}

A block is a product; cells that several blocks name are run once.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from delia_data.engines import ENGINES, Sampling
from delia_data.errors import InputError, SettingsError
from delia_data.models import DEFAULT_MODEL
from delia_data.training import TrainSettings, read_recipe
from delia_data.training.baselines import BASELINES

ExperimentName = Literal["formatted-text", "en-is", "is-en"]
EXPERIMENTS: Final[tuple[ExperimentName, ...]] = get_args(ExperimentName)
SCALES: Final = ("tiny", "small", "paper")
_STRICT: Final = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How an experiment's pairs are sampled, where no cache is given.

    Attributes:
        pairs: Pairs to sample.
        max_tokens: Tokens of an answer at most; longer ones are kept as they were cut.
        temperature: 0 takes the likeliest token.
        top_p: Probability mass that is drawn from.
        queries: `"bundled"`; `"self"`, the model writes them; or a file of them.
        engine: What samples.
        batch_size: Answers written at once, of engines that have one.
    """

    pairs: int
    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.95
    queries: str = "bundled"
    engine: str = "transformers"
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.batch_size < 1:
            raise SettingsError("cache: pairs and batch_size must be at least 1")
        if self.engine not in ENGINES:
            raise SettingsError(
                f"cache: engine {self.engine!r} must be one of {', '.join(ENGINES)}"
            )
        Sampling(self.temperature, self.top_p, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Block:
    """A product of methods, task rows, ratios and seeds."""

    methods: tuple[str, ...]
    rows: tuple[int, ...] = (100,)
    ratios: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        problems = [_unknown("method", name, BASELINES) for name in self.methods]
        problems += [f"rows {n} must be at least 1" for n in self.rows if n < 1]
        problems += [f"ratio {r} must be 0 or more" for r in self.ratios if not r >= 0]
        empty = [f.name for f in fields(self) if not getattr(self, f.name)]
        problems += [f"{name} must not be empty" for name in empty]
        if problems := [problem for problem in problems if problem]:
            raise SettingsError("; ".join(problems))


@dataclass(frozen=True, slots=True)
class Seconds:
    """What a cell takes, for the estimate until cells of this very run tell.

    Attributes:
        trained_row: Seconds for each row that is trained on, each time.
        evaluation: Seconds to load, ask and measure one cell.
        pair: Seconds to sample one pair.
    """

    trained_row: float
    evaluation: float
    pair: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """One model on one task.

    Attributes:
        blocks: What is run.
        cache: How the pairs are sampled.
        model: The model.
        recipe: Recipe of the training, a bundled one or a `.yaml` file.
        training: Settings over the recipe's.
        held_out_rows: Held-out rows that are asked, at most.
        probes: How they are put (`delia_data.evaluation.PROBES`).
        max_tokens: Tokens of an answer at most.
        examples: Rows shown in a prompt, for the methods that show any.
        watch_every_steps: Steps between two looks at the held-out loss and the state space.
        watched_rows: Held-out rows that are looked at then.
        batch_size: Answers written at once.
        seconds: For the estimate; None where nobody has measured it.
    """

    blocks: tuple[Block, ...]
    cache: CacheSettings
    model: str = DEFAULT_MODEL
    recipe: str = "smollm2-135m-cpu"
    training: Mapping[str, Any] = field(default_factory=dict)
    held_out_rows: int = 100
    probes: tuple[str, ...] = ("held-out", "negative")
    max_tokens: int = 64
    examples: int = 4
    watch_every_steps: int = 20
    watched_rows: int = 16
    batch_size: int = 32
    seconds: Seconds | None = None

    def __post_init__(self) -> None:
        numbers = ("held_out_rows", "max_tokens", "watch_every_steps", "watched_rows", "batch_size")
        if wrong := [name for name in numbers if getattr(self, name) < 1]:
            raise SettingsError(f"{', '.join(wrong)} must be at least 1")
        if "held-out" not in self.probes:
            raise SettingsError("probes must have held-out, which the tables are made of")
        if fixed := sorted({"model", "seed", "device"} & set(self.training)):
            raise SettingsError(f"training: {', '.join(fixed)} come from the experiment itself")
        self.settings()

    def settings(self, *, seed: int = 0, device: str = "cpu") -> TrainSettings:
        """The training's settings: the recipe's, and this experiment's over it."""
        values = {**read_recipe(self.recipe).as_dict(), **self.training}
        values |= {"model": self.model, "seed": seed, "device": device}
        return TrainSettings.from_dict(values, where="training")


@dataclass(frozen=True, slots=True)
class Grid:
    """All that is run.

    Attributes:
        name: Its name.
        experiments: What is run, by the name that the tables know it by.
        about: What it is for, and on which machine, in words.
    """

    name: str
    experiments: Mapping[ExperimentName, Experiment]
    about: str = ""

    def __post_init__(self) -> None:
        if not self.experiments:
            raise SettingsError(f"there are no experiments: give one of {', '.join(EXPERIMENTS)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "grid") -> Grid:
        """Make a grid of plain values; all that is wrong is reported at once.

        Raises:
            SettingsError: A key is unknown, or a value is missing or wrong.
        """
        try:
            return _ADAPTER.validate_python(values)
        except ValidationError as error:
            raise SettingsError(f"{where}: {'; '.join(_problems(error))}") from error

    def as_dict(self) -> dict[str, Any]:
        """Give the grid as plain values, as a YAML file holds them."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return plain


for _kind in (CacheSettings, Block, Seconds, Experiment, Grid):
    setattr(_kind, "__pydantic_config__", _STRICT)  # noqa: B010
_ADAPTER: Final = TypeAdapter(Grid)


def read_grid(grid: str | os.PathLike[str]) -> Grid:
    """Read a grid: the name of a bundled scale, or a YAML file.

    Raises:
        InputError: There is no such scale or file.
        SettingsError: It is not a YAML mapping, a key is unknown, or a value is wrong.
    """
    path = Path(grid)
    if path.suffix in {".yaml", ".yml"}:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is not UTF-8 text: write it anew as UTF-8") from error
    elif str(grid) in SCALES:
        scales = files("delia_data.reproduction") / "scales"
        text = (scales / f"{grid}.yaml").read_text(encoding="utf-8")
    else:
        raise InputError(
            f"grid {str(grid)!r} is unknown: give a .yaml file or one of {', '.join(SCALES)}"
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{grid} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{grid} must hold a mapping: name and experiments")
    return Grid.from_dict(values, where=str(grid))


def _problems(error: ValidationError) -> list[str]:
    found = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "unexpected_keyword_argument":
            name = str(problem["loc"][-1])
            message = _unknown("key", name, _KEYS)
        found.append(f"{place}: {message}" if place else message)
    return found


_KEYS: Final = sorted(
    {f.name for kind in (CacheSettings, Block, Seconds, Experiment, Grid) for f in fields(kind)}
)


def _unknown(what: str, name: str, known: Mapping[str, Any] | list[str]) -> str:
    if what == "method" and name in known:
        return ""
    near = [one for one in difflib.get_close_matches(name, known, n=1) if one != name]
    return f"unknown {what} {name!r}" + (f", did you mean {near[0]!r}?" if near else "")
