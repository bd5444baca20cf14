"""A grid and its cells: which methods run on how many task rows, at which ratios and seeds.

    name: tiny
    experiments:
      formatted-text:                   # one of EXPERIMENTS, or a variant: formatted-text-cut
        model: smollm2-135m-instruct
        recipe: smollm2-135m-cpu
        training: {epochs: 2}           # overrides the recipe
        cache: {pairs: 500, max_tokens: 48}
        blocks:
          - {methods: [delia, common], rows: [30, 100], ratios: [5], seeds: [0, 1]}

A block is a product; a cell that is in several blocks runs once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from typing import Any, Final, Literal, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from delia_data.engines import ENGINES, Sampling
from delia_data.errors import InputError, SettingsError, printable, unknown_name
from delia_data.evaluation.probes import DEFAULT_PROBES, PROBES
from delia_data.experiments.methods import METHODS, get_method
from delia_data.models import DEFAULT_MODEL
from delia_data.training import TrainSettings, read_recipe
from delia_data.training.settings import read_yaml

ExperimentName = Literal["formatted-text", "en-is", "is-en"]
EXPERIMENTS: Final[tuple[ExperimentName, ...]] = get_args(ExperimentName)
FORMATTED: Final[ExperimentName] = "formatted-text"
TRANSLATIONS: Final[Mapping[ExperimentName, str]] = {
    "en-is": "English-Icelandic",
    "is-en": "Icelandic-English",
}
SCALES: Final = ("tiny", "pairs", "kinds", "small", "paper")


def task_of(experiment: str) -> ExperimentName:
    """Return the experiment whose task a variant has, such as `formatted-text-cut`."""
    for name in EXPERIMENTS:
        if experiment == name or experiment.startswith(f"{name}-"):
            return name
    raise SettingsError(
        f"{unknown_name('experiment', experiment, EXPERIMENTS)}: use one of "
        f"{', '.join(EXPERIMENTS)}, or a variant such as {FORMATTED}-cut"
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """One method, trained and measured once.

    Attributes:
        experiment: Name of the experiment.
        method: Name of the method.
        rows: Task rows; None if the method does not depend on them.
        ratio: Pairs per task row; None likewise.
        seed: Seed; None likewise.
    """

    experiment: str
    method: str
    rows: int | None
    ratio: float | None
    seed: int | None

    @classmethod
    def of(cls, experiment: str, method: str, rows: int, ratio: float, seed: int) -> Cell:
        """Make a cell without the axes that do not change its method."""
        uses = get_method(method).uses
        return cls(
            experiment,
            method,
            rows if "rows" in uses else None,
            float(ratio) if "ratio" in uses else None,
            seed if "seed" in uses else None,
        )

    @property
    def name(self) -> str:
        """Name of its folder, which contains all attributes."""
        axes = (("rows", self.rows), ("ratio", self.ratio), ("seed", self.seed))
        parts = [f"{name}-{value:.12g}" for name, value in axes if value is not None]
        return "_".join([self.experiment, self.method, *parts])

    def as_dict(self) -> dict[str, Any]:
        """Return the cell as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How the pairs of an experiment are sampled if no cache is given.

    Attributes:
        pairs: Number of pairs to sample.
        max_tokens: Maximum tokens of an answer; longer answers are dropped.
        keep_truncated: Keep them, cut off, as the paper's code does.
        temperature: Sampling temperature; 0 decodes greedily.
        top_p: Probability mass to sample from.
        queries: `"bundled"`; `"self"`, the model writes them; or a file of queries.
        engine: Engine to sample with.
        batch_size: Answers generated at once, for engines that have a batch size.
        system: System prompt under which the model answers; it is not in the pairs.
        writer: Another model that answers; None for the model that is trained.
        exchanged: Give each query the answer of another query: text that the model would not write.
    """

    pairs: int
    max_tokens: int = 512
    keep_truncated: bool = False
    temperature: float = 0.7
    top_p: float = 0.95
    queries: str = "bundled"
    engine: str = "transformers"
    batch_size: int = 32
    system: str | None = None
    writer: str | None = None
    exchanged: bool | None = None

    def sampling(self) -> dict[str, Any]:
        """Return what the pairs on disk depend on."""
        return {k: v for k, v in asdict(self).items() if v is not None and k != "exchanged"}

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
        problems = [unknown_name("method", m, METHODS) for m in self.methods if m not in METHODS]
        problems += [f"rows {n} must be at least 1" for n in self.rows if n < 1]
        problems += [f"ratio {r} must be 0 or more" for r in self.ratios if not r >= 0]
        problems += [
            f"{f.name} must not be empty" for f in fields(self) if not getattr(self, f.name)
        ]
        if problems:
            raise SettingsError("; ".join(problems))


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds per row and epoch of training, per cell for the rest, and per sampled pair."""

    trained_row: float
    evaluation: float
    pair: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """One model on one task.

    Attributes:
        blocks: The cells to run.
        cache: How the pairs are sampled.
        model: The model.
        recipe: Recipe of the training, a bundled one or a `.yaml` file.
        training: Settings that override the recipe's. `template_options` among them also apply to
            the pairs and contrast rows that the model samples.
        held_out_pairs: Cache whose last pairs KL is measured on, such as `bundled`; None for the
            cache of the experiment.
        contrast: Contrast rows per task row, for the methods that use them (`delia diversify`).
        held_out_rows: Maximum number of held-out rows to evaluate on.
        probes: Probes to evaluate with (`delia_data.evaluation.PROBES`).
        max_tokens: Maximum tokens of an answer.
        examples: Task rows shown in a prompt, for the methods that show any.
        steps: Optimizer steps of every training, in place of epochs.
        watch_every_steps: Steps between two measurements of the held-out loss and state space.
        watched_rows: Held-out rows of these measurements.
        batch_size: Answers generated at once.
        seconds: Durations for the estimate; None if nobody has measured them.
    """

    blocks: tuple[Block, ...]
    cache: CacheSettings
    model: str = DEFAULT_MODEL
    recipe: str = "smollm2-135m-cpu"
    training: Mapping[str, Any] = field(default_factory=dict)
    held_out_pairs: str | None = None
    contrast: float = 0.0
    held_out_rows: int = 100
    probes: tuple[str, ...] = DEFAULT_PROBES
    max_tokens: int = 64
    examples: int = 4
    steps: int | None = None
    watch_every_steps: int = 20
    watched_rows: int = 16
    batch_size: int = 32
    seconds: Seconds | None = None

    def __post_init__(self) -> None:
        numbers = ("held_out_rows", "max_tokens", "watch_every_steps", "watched_rows", "batch_size")
        if self.steps is not None and self.steps < 1:
            raise SettingsError("steps must be at least 1")
        if wrong := [name for name in numbers if getattr(self, name) < 1]:
            raise SettingsError(f"{', '.join(wrong)} must be at least 1")
        if "held-out" not in self.probes:
            raise SettingsError("probes must include held-out, which the tables need")
        if unknown := [name for name in self.probes if name not in PROBES]:
            raise SettingsError(
                f"{unknown_name('probe', unknown[0], PROBES)}: use some of {', '.join(PROBES)}"
            )
        if fixed := sorted({"model", "seed", "device"} & set(self.training)):
            raise SettingsError(
                f"training: {', '.join(fixed)} cannot be set here: the model is a key of the "
                "experiment, seeds are in blocks, and the device is a command-line option"
            )
        self.settings()

    def sampling(self) -> dict[str, Any]:
        """Return what pairs on disk depend on, besides the model."""
        options = None if self.cache.writer else self.settings().template_options
        return {**self.cache.sampling(), **({"template_options": options} if options else {})}

    def settings(self, *, seed: int = 0, device: str = "cpu") -> TrainSettings:
        """Return the settings of a training: the recipe's, overridden by this experiment's.

        Pairs are trained with cross-entropy, as in the paper; methods with the KL loss set it.
        """
        values = {**read_recipe(self.recipe).as_dict(), "pairs_loss": "ce", **self.training}
        values |= {"model": self.model, "seed": seed, "device": device}
        return TrainSettings.from_dict(values, where="training")


@dataclass(frozen=True, slots=True)
class Grid:
    """All experiments of a run.

    Attributes:
        name: Name of the grid.
        experiments: The experiments by name.
        about: Purpose and machine, for readers.
    """

    name: str
    experiments: Mapping[str, Experiment]
    about: str = ""

    def __post_init__(self) -> None:
        if not self.experiments:
            raise SettingsError(f"no experiments: give at least one of {', '.join(EXPERIMENTS)}")
        for name in self.experiments:
            task_of(name)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "grid") -> Grid:
        """Make a grid of plain values; one `SettingsError` names all problems."""
        try:
            return _ADAPTER.validate_python(values)
        except ValidationError as error:
            raise SettingsError(f"{where}: {'; '.join(_problems(error))}") from error

    def as_dict(self) -> dict[str, Any]:
        """Return the grid as plain values, as in a YAML file."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return plain

    def with_template_options(self, options: Mapping[str, Any]) -> Grid:
        """Return the grid with options of the chat template added to those of all experiments."""
        experiments = {}
        for name, one in self.experiments.items():
            merged = {**(one.settings().template_options or {}), **options}
            training = {**one.training, "template_options": merged}
            experiments[name] = replace(one, training=training)
        return replace(self, experiments=experiments)

    def cells(self, *, only: tuple[str, ...] = ()) -> list[Cell]:
        """Return the cells in the order in which they run, each once.

        The first seed of every block runs before any second one, so a run that is stopped early
        has every method; apart from that, experiments and blocks run in their order.

        Args:
            only: Methods to run; all if empty.

        Raises:
            InputError: A method is unknown, or not in the grid.
        """
        cells = list(dict.fromkeys(self._cells()))
        methods = dict.fromkeys(cell.method for cell in cells)
        for name in only:
            if get_method(name).name not in methods:
                raise InputError(
                    f"grid {self.name} does not run {name!r}: use one of {', '.join(methods)}"
                )
        return [cell for cell in cells if not only or cell.method in only]

    def _cells(self) -> Iterator[Cell]:
        blocks = [(name, block) for name, one in self.experiments.items() for block in one.blocks]
        for number in range(max((len(block.seeds) for _, block in blocks), default=0)):
            for name, block in blocks:
                for seed in block.seeds[number : number + 1]:
                    for rows in block.rows:
                        for ratio in block.ratios:
                            for method in block.methods:
                                yield Cell.of(name, method, rows, ratio, seed)


_KINDS: Final = (CacheSettings, Block, Seconds, Experiment, Grid)
for _kind in _KINDS:
    setattr(_kind, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010
_ADAPTER: Final = TypeAdapter(Grid)


def read_grid(grid: str | os.PathLike[str]) -> Grid:
    """Read a grid: the name of a bundled scale, or a YAML file.

    Raises:
        InputError: There is no such scale or file.
        SettingsError: The file is not a YAML mapping, a key is unknown, or a value is wrong.
    """
    values = read_yaml(grid, "grid", files("delia_data.experiments") / "scales", SCALES)
    return Grid.from_dict(values, where=str(grid))


def _problems(error: ValidationError) -> Iterator[str]:
    keys = sorted({f.name for kind in _KINDS for f in fields(kind)})
    for problem in error.errors():
        place = printable(".".join(str(part) for part in problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "unexpected_keyword_argument":
            message = unknown_name("key", str(problem["loc"][-1]), keys)
        yield f"{place}: {message}" if place else message
