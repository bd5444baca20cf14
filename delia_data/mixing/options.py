"""Options of mixtures, and recipes: YAML files of tasks and caches, their weights, and options.

    tasks:
      halu: {path: my-halu-task, weight: 1.0}
      translate: {path: translate.jsonl, weight: 2.0, token: <de>}
    caches:
      own: {path: my-cache, weight: 3}
      other: shards/*.parquet             # a path without a mapping: weight 1
    ratio: 4
    order: interleaved                    # seed, on_short, format, epochs, strict, ... too

The weight of a task is a multiple of its rows. The weight of a cache is its relative share of the
pairs. Paths are relative to the working folder, as on the command line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import pyarrow as pa

from delia_data.errors import InputError, RatioError, SettingsError, printable, unknown_name
from delia_data.mixing.task_rows import TaskRows, read_task_rows
from delia_data.outputs import read_mapping, setting
from delia_data.ranking import whole_number
from delia_data.reading import MESSAGES
from delia_data.records import Format, check_format
from delia_data.tokens import check_template_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    import datasets

    from delia_data.records import Record


Pairs: TypeAlias = (
    "str | os.PathLike[str] | Sequence[Record] | Sequence[Mapping[str, Any]] | pa.Table "
    "| datasets.Dataset | datasets.IterableDataset"
)
"""Any input of a cache; `reading.open_source` opens it."""

Order = Literal["shuffled", "interleaved"]
OnShort = Literal["error", "all", "repeat"]
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
ON_SHORT: Final[tuple[OnShort, ...]] = get_args(OnShort)

_COLUMNS: Final[dict[Format, list[tuple[str, pa.DataType]]]] = {
    "messages": [("messages", MESSAGES)],
    "prompt_completion": [("prompt", MESSAGES), ("completion", MESSAGES)],
    "alpaca": [(name, pa.string()) for name in ("instruction", "input", "output")],
    "sharegpt": [
        ("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())])))
    ],
}
TEACHER_MESSAGES: Final = "teacher_messages"
TEMPLATE_KWARGS: Final = "chat_template_kwargs"
_PROVENANCE: Final = [
    ("source", pa.string()),
    ("source_id", pa.string()),
    ("wording_id", pa.string()),
]


@dataclass(frozen=True, slots=True)
class MixOptions:
    """Options that affect the rows of a mixture.

    Raises:
        RatioError: The ratio or `contrast` is not a number of at least 0.
        InputError: Another value is unknown, or the template options are not JSON values by name
            or contain empty lists or mappings.
    """

    ratio: float = setting(
        MISSING,
        "Pairs per task row, such as 4 or 0.5; 0 is the task alone.",
        typed=str | None,
        complete=("1", "4", "20", "65", "260", "520"),
    )
    seed: int = setting(0, "Seed of selection and order.")
    order: Order = setting(
        "shuffled", "Order of the rows; interleaved is a task row, then its pairs (Algorithm 1)."
    )
    on_short: OnShort = setting(
        "error", "Action if the cache is too small: an error, take all pairs, or repeat the cache."
    )
    format: Format = setting("messages", "Row format of the result.")
    decontaminate: bool = setting(
        False, "Drop pairs that share 13 consecutive words with a held-out row."
    )
    strict: bool = setting(
        False,
        "Refuse a cache with rows that would be dropped or changed: tools, images, audio, "
        "label false, weight 0, preferences, reasoning.",
    )
    epochs: int = setting(
        1, "Consecutive epochs: the same task rows, each time with other pairs and another order."
    )
    epoch: int | None = None
    """Index of a single epoch to mix; None for all epochs."""
    contrast: float | None = setting(
        None,
        "Contrast rows per task row in each epoch, other ones in each as long as there are any; "
        "by default all of the task folder in each.",
    )
    template_options: Mapping[str, Any] | None = None
    """Options of the chat template by name. Every row has them in the column
    `chat_template_kwargs`, which TRL passes to the template."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", parse_ratio(self.ratio))
        if self.contrast is not None:
            object.__setattr__(self, "contrast", parse_ratio(self.contrast, "contrast"))
        for name, least in (("seed", None), ("epochs", 1), ("epoch", 0)):
            if name != "epoch" or self.epoch is not None:
                value = whole_number(getattr(self, name), name, least)
                object.__setattr__(self, name, value)
        if self.epoch is not None and self.epochs != 1:
            raise InputError("epochs and epoch were given: give one of them")
        check_format(self.format)
        for name, choices in (("order", ORDERS), ("on_short", ON_SHORT)):
            value = getattr(self, name)
            if value not in choices:
                raise InputError(f"{name} {value!r} is unknown: use one of {', '.join(choices)}")
        template_column(self.template_options)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as a manifest holds them, without the later ones at their default."""
        always = ("ratio", "seed", "order", "on_short", "format")
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["template_options"] = dict(self.template_options or {}) or None
        defaults = {each.name: each.default for each in fields(self)}
        return {n: v for n, v in values.items() if n in always or v != defaults[n]}

    @property
    def epoch_numbers(self) -> range:
        """Indices of the epochs to mix."""
        return range(self.epochs) if self.epoch is None else range(self.epoch, self.epoch + 1)


def schema(
    format: Format, *, taught: bool = False, template_options: Mapping[str, Any] | None = None
) -> pa.Schema:
    """Return the columns of a mixture: those of the row format, then those of the row's origin.

    Args:
        format: The row format.
        taught: Whether any row has separate turns for its teacher.
        template_options: Options of the chat template in every row.
    """
    teacher = [(TEACHER_MESSAGES, MESSAGES)] if taught else []
    column = template_column(template_options)
    options = [] if column is None else [(TEMPLATE_KWARGS, column.type)]
    return pa.schema([*_COLUMNS[check_format(format)], *_PROVENANCE, *teacher, *options])


def template_column(options: Mapping[str, Any] | None, rows: int = 1) -> pa.Array | None:
    """Return the column `chat_template_kwargs`, of shape (rows,); None without options.

    Raises:
        InputError: The options are not JSON values by name, or Parquet has no type for one.
    """
    if not options:
        return None
    check_template_options(options)
    value = pa.array([dict(options)])
    if value.to_pylist() != [options] or "null" in str(value.type) or "struct<>" in str(value.type):
        raise InputError(
            f"template_options {dict(options)!r} cannot be a column of rows: give true, false, "
            "numbers, texts or lists of them"
        )
    return value.take(pa.array([0] * rows, pa.int64()))


def parse_ratio(value: Any, name: str = "ratio") -> float:
    """Parse a ratio: pairs per task row, a number of at least 0.

    Args:
        value: The ratio, or another number of rows per task row.
        name: Name of the number in the error.

    Raises:
        RatioError: It is not such a number.
    """
    try:
        ratio = float(value)
    except (TypeError, ValueError, OverflowError):
        ratio = math.nan
    if isinstance(value, bool) or not math.isfinite(ratio) or ratio < 0:
        raise RatioError(
            f"{name} {value!r} is not a number of at least 0: give one such as "
            + ("4 or 260" if name == "ratio" else "0.5")
        )
    return abs(ratio)  # -0.0 would have a different name


def config_name(ratio: float) -> str:
    """Return the name of the mixture's configuration, such as `ratio-260` or `ratio-0.5`."""
    return f"ratio-{ratio:.15g}"


_OPTIONS: Final = tuple(field.name for field in fields(MixOptions))
_KEYS: Final = ("tasks", "caches", *_OPTIONS)


@dataclass(frozen=True, slots=True)
class Source:
    """A task or a cache of a recipe.

    Attributes:
        path: Path of the input.
        weight: Multiple of a task's rows, or a cache's relative share of the pairs.
        token: Special token of a task, `""` for none; None for that of a task folder, or `<sep>`.
    """

    path: str
    weight: float = 1.0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class MixRecipe:
    """Inputs and settings of a mixture.

    Attributes:
        tasks: Tasks by name.
        caches: Caches by name.
        settings: Settings of `mix` in the file.
    """

    tasks: Mapping[str, Source]
    caches: Mapping[str, Source]
    settings: Mapping[str, Any]

    def arguments(self) -> dict[str, Any]:
        """Read the tasks, and return the arguments of `mix`; the ratio only if the file has one.

        Raises:
            InputError: A task cannot be read.
            TokenError: The token of a task differs from that in the recipe.
        """
        tasks: dict[str, TaskRows] = {
            name: read_task_rows(source.path, token=source.token)
            for name, source in self.tasks.items()
        }
        return {
            "task": tasks,
            "cache": {name: source.path for name, source in self.caches.items()},
            "task_weights": {name: source.weight for name, source in self.tasks.items()},
            "cache_weights": {name: source.weight for name, source in self.caches.items()},
            **self.settings,
        }


def read_mix_recipe(path: str | os.PathLike[str]) -> MixRecipe:
    """Read a recipe.

    Raises:
        InputError: The file cannot be read.
        SettingsError: It is not a YAML mapping, or keys or values are wrong; the error lists all.
    """
    values = read_mapping(Path(path), str(path), ", ".join(_KEYS))
    if values.get("select") == "uniform":  # a key of version 0.1.0, which had only this value
        del values["select"]
    problems = [*_unknown(values, _KEYS)]
    problems += [fault for kind in ("tasks", "caches") for fault in _faults(kind, values.get(kind))]
    settings = {key: values[key] for key in _OPTIONS if key in values}
    try:
        MixOptions(**{"ratio": 0, **settings})
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError(f"{path}: {'; '.join(problems)}")
    tasks, caches = (
        {name: _source(given) for name, given in values[kind].items()}
        for kind in ("tasks", "caches")
    )
    return MixRecipe(tasks, caches, settings)


def _source(given: Any) -> Source:
    return Source(given) if isinstance(given, str) else Source(**given)


def _faults(kind: str, given: Any) -> Iterator[str]:
    """Yield the errors in the tasks or the caches of a recipe."""
    if not isinstance(given, dict) or not given:
        yield f"{kind} must map at least one name to a path"
        return
    names = ("path", "weight", "token") if kind == "tasks" else ("path", "weight")
    for name, source in given.items():
        where = f"{kind}.{printable(name)}"
        if not isinstance(name, str):
            yield f"{where}: a name must be text"
        if isinstance(source, str):
            continue
        if not isinstance(source, dict) or not isinstance(source.get("path"), str):
            yield f"{where} must be a path, or a mapping with a path"
            continue
        yield from (f"{where}: {fault}" for fault in _unknown(source, names))
        weight, token = source.get("weight", 1.0), source.get("token")
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            yield f"{where}: weight {weight!r} is no number of at least 0, such as 2.0"
        if token is not None and not isinstance(token, str):
            yield f"{where}: token {token!r} is no text"


def _unknown(given: Mapping[Any, Any], names: tuple[str, ...]) -> Iterator[str]:
    return (unknown_name("key", key, names) for key in given if key not in names)
