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
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from delia_data.engines import ENGINES
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

_NO_OTHER_KEYS: Final = ConfigDict(extra="forbid")


def _one_of(kind: str, names: Collection[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"{unknown_name(kind, name, names)}; use one of {', '.join(names)}")
        return name

    return AfterValidator(check)


_Count = Annotated[int, Field(ge=1)]
_Engine = Annotated[str, _one_of("engine", ENGINES)]
_MethodName = Annotated[str, _one_of("method", METHODS)]
_ProbeName = Annotated[str, _one_of("probe", PROBES)]


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


@checked_dataclass(frozen=True, slots=True, config=_NO_OTHER_KEYS)
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

    pairs: _Count
    max_tokens: _Count = 512
    keep_truncated: bool = False
    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    queries: str = "bundled"
    engine: _Engine = "transformers"
    batch_size: _Count = 32
    system: str | None = None
    writer: str | None = None
    exchanged: bool | None = None

    def sampling(self) -> dict[str, Any]:
        """Return what the pairs on disk depend on."""
        return {k: v for k, v in asdict(self).items() if v is not None and k != "exchanged"}


@checked_dataclass(frozen=True, slots=True, config=_NO_OTHER_KEYS)
class Block:
    """A product of methods, task rows, ratios and seeds."""

    methods: Annotated[tuple[_MethodName, ...], Field(min_length=1)]
    rows: Annotated[tuple[_Count, ...], Field(min_length=1)] = (100,)
    ratios: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (0.0,)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)


@checked_dataclass(frozen=True, slots=True, config=_NO_OTHER_KEYS)
class Seconds:
    """Seconds per row and epoch of training, per cell for the rest, and per sampled pair."""

    trained_row: float
    evaluation: float
    pair: float


@checked_dataclass(frozen=True, slots=True, config=_NO_OTHER_KEYS)
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
    held_out_rows: _Count = 100
    probes: tuple[_ProbeName, ...] = DEFAULT_PROBES
    max_tokens: _Count = 64
    examples: int = 4
    steps: Annotated[int | None, Field(ge=1)] = None
    watch_every_steps: _Count = 20
    watched_rows: _Count = 16
    batch_size: _Count = 32
    seconds: Seconds | None = None

    def __post_init__(self) -> None:
        if "held-out" not in self.probes:
            raise SettingsError("probes must include held-out, which the tables need")
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


@checked_dataclass(frozen=True, slots=True, config=_NO_OTHER_KEYS)
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
    kinds = (CacheSettings, Block, Seconds, Experiment, Grid)
    keys = sorted({field.name for kind in kinds for field in fields(kind)})
    for problem in error.errors():
        place = printable(".".join(str(part) for part in problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "unexpected_keyword_argument":
            message = unknown_name("key", str(problem["loc"][-1]), keys)
        yield f"{place}: {message}" if place else message
