"""Task rows and cached pairs in one fixed order: the mixture (paper, Algorithm 1, step 4).

    task rows ───────────────────────────────┐
                                             ├──▶ keyed order ──▶ mixture
    cache ──▶ keyed rank ──▶ ratio x rows ───┘

A mixture is a pure function of the rows' contents and the settings: which pairs are taken and
where each row stands follow from a hash of the row's content id and the seed.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.errors import FormatError, InputError, RatioError, TokenError
from delia_data.files import LOCK, atomic_path, canonical_json, folder_lock, write_text
from delia_data.manifest import FINISHED, Manifest, check_folder_is_ours, finish
from delia_data.ranking import rank
from delia_data.records import Format, Message, Record, check_format, write_record

__all__ = [
    "ON_SHORT",
    "ORDERS",
    "Mixture",
    "OnShort",
    "Order",
    "WordedRow",
    "config_name",
    "mix",
    "parse_ratio",
    "save_mixture",
    "schema",
]

Order = Literal["shuffled", "interleaved"]
OnShort = Literal["error", "all", "repeat"]
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
ON_SHORT: Final[tuple[OnShort, ...]] = get_args(OnShort)

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_COLUMNS: Final[dict[Format, list[tuple[str, pa.DataType]]]] = {
    "messages": [("messages", pa.list_(_MESSAGE))],
    "prompt_completion": [("prompt", pa.list_(_MESSAGE)), ("completion", pa.list_(_MESSAGE))],
    "alpaca": [(name, pa.string()) for name in ("instruction", "input", "output")],
    "sharegpt": [
        ("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())])))
    ],
}
_NAMES: Final = frozenset({"README.md", "train.parquet", "test.parquet"})
_PROVENANCE: Final = [
    ("source", pa.string()),
    ("source_id", pa.string()),
    ("wording_id", pa.string()),
]


class WordedRow(Protocol):
    """A task row in its wording; `delia_data.tasks.TaskRow` is one."""

    @property
    def record(self) -> Record:
        """The conversation."""
        ...

    @property
    def wording_id(self) -> str | None:
        """Id of the wording; None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class _Pair:
    """A pair of the cache, in the shape of a task row."""

    record: Record
    wording_id: str | None = None


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture in memory.

    Attributes:
        train: Task rows and pairs in their order.
        test: Held-out task rows; pairs are never among them.
        manifest: What it was made from, and the accounting.
    """

    train: pa.Table
    test: pa.Table | None
    manifest: Manifest


def schema(format: Format) -> pa.Schema:
    """Columns of a mixture in a row format: the format's own, then where the row comes from."""
    return pa.schema([*_COLUMNS[check_format(format)], *_PROVENANCE])


def parse_ratio(value: Any) -> float:
    """Read a ratio: pairs for each task row, a number of at least 0.

    Raises:
        RatioError: It is not such a number.
    """
    try:
        ratio = float(value)
    except (TypeError, ValueError, OverflowError):
        ratio = math.nan
    if isinstance(value, bool) or not math.isfinite(ratio) or ratio < 0:
        raise RatioError(
            f"ratio {value!r} is not a number of at least 0: give one such as 4 or 260"
        )
    return abs(ratio)  # never -0.0, whose name would be another


def config_name(ratio: float) -> str:
    """Name of the mixture's configuration, such as `ratio-260` or `ratio-0.5`."""
    return f"ratio-{ratio:.15g}"


def mix(
    task: Sequence[WordedRow],
    cache: Sequence[Record],
    *,
    ratio: float,
    seed: int = 0,
    test: Sequence[WordedRow] = (),
    order: Order = "shuffled",
    on_short: OnShort = "error",
    format: Format = "messages",
    token: str | None = "<sep>",
) -> Mixture:
    """Mix `round(ratio * len(task))` pairs of the cache with the task rows.

    Args:
        task: Training rows of the task, in their wordings.
        cache: The pairs.
        ratio: Pairs for each task row; fractions work, 0 is the task alone.
        seed: Seed of selection and order.
        test: Held-out rows of the task.
        order: `"shuffled"`: all together. `"interleaved"`: a task row, then its pairs, as
            Algorithm 1 writes it.
        on_short: What to do where the cache is too small: `"error"`, take `"all"` that there
            are, or `"repeat"` the cache.
        format: Row format of the result.
        token: The special token. Pairs that name it are dropped, and every task row must name
            it; None for a task that has none.

    Returns:
        The mixture.

    Raises:
        RatioError: The ratio is wrong, or the cache is too small for it.
        TokenError: A task row does not name the token.
        InputError: There are no task rows, or `order` or `on_short` is unknown.
        FormatError: The format is unknown, or cannot hold one of the rows.
    """
    ratio = parse_ratio(ratio)
    _check_choice("order", order, ORDERS)
    _check_choice("on_short", on_short, ON_SHORT)
    columns = schema(format)
    if not task:
        raise InputError("the task has no training rows: give at least one")
    _check_token(task, token)
    pairs, dropped = _usable_pairs(cache, (*task, *test), token)
    picked = _pick(pairs, round(ratio * len(task)), len(task), ratio, seed, on_short)
    rows = _arrange(task, picked, seed, order)
    held_out = _arrange(test, [], seed, "shuffled")
    manifest = Manifest(
        kind="mixture",
        settings={
            "ratio": ratio,
            "seed": seed,
            "order": order,
            "on_short": on_short,
            "format": format,
            "select": "uniform",
            "token": token,
        },
        inputs={
            "task": _content_hash([_row_key(row) for row in task]),
            "test": _content_hash([_row_key(row) for row in test]),
            "cache": _content_hash([pair.id for pair in cache]),
        },
        rows={"task": len(task), "cache": len(picked), "test": len(test)},
        dropped=dict(sorted(dropped.items())),
    )
    return Mixture(
        train=_table(rows, format, columns),
        test=_table(held_out, format, columns) if test else None,
        manifest=manifest,
    )


def save_mixture(mixture: Mixture, folder: str | os.PathLike[str]) -> Manifest:
    """Write a mixture as a folder that `datasets` loads by itself.

    The folder holds `train.parquet`, `test.parquet` where there are held-out rows, a dataset
    card whose configuration is named after the ratio, the manifest and the finish marker.

    Raises:
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes there.
        OutputError: It cannot be written.
    """
    root = Path(folder)
    splits = {"train": mixture.train} | ({} if mixture.test is None else {"test": mixture.test})
    check_folder_is_ours(root, _NAMES, sign=LOCK)
    with folder_lock(root):
        for old in (FINISHED, *_NAMES):
            (root / old).unlink(missing_ok=True)
        for name, table in splits.items():
            with atomic_path(root / f"{name}.parquet") as part:
                pq.write_table(table, part, compression="zstd")
        write_text(root / "README.md", _card(mixture.manifest, list(splits)))
        return finish(root, mixture.manifest)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} {value!r} is unknown: use one of {', '.join(known)}")


def _check_token(task: Sequence[WordedRow], token: str | None) -> None:
    if token is None:
        return
    missing = sum(1 for row in task if not _names(row.record.prompt, token))
    if missing:
        raise TokenError(
            f"{missing} of {len(task)} task rows do not name {token}: diversify the task first, "
            "or give token=None (--token '') for a task without one"
        )


def _names(messages: Sequence[Message], token: str) -> bool:
    return any(token in message.content for message in messages)


def _usable_pairs(
    cache: Sequence[Record], task: Sequence[WordedRow], token: str | None
) -> tuple[dict[str, Record], Counter[str]]:
    """Pairs by id without the ones that may not be mixed, and how many of those by reason."""
    of_task = {row.record.id for row in task}
    pairs: dict[str, Record] = {}
    dropped: Counter[str] = Counter()
    for record in cache:
        row_id = record.id
        if row_id in pairs:
            dropped["duplicate"] += 1
        elif row_id in of_task:
            dropped["also_in_task"] += 1
        elif token and _names(record.messages, token):
            dropped["names_token"] += 1
        else:
            pairs[row_id] = record
    return pairs, dropped


def _pick(
    pairs: dict[str, Record],
    wanted: int,
    task_rows: int,
    ratio: float,
    seed: int,
    on_short: OnShort,
) -> list[tuple[int, Record]]:
    """The first `wanted` pairs by keyed rank, each with the number of its repetition."""
    if wanted > len(pairs) and (on_short == "error" or not pairs):
        raise RatioError(
            f"ratio {ratio:.15g} of {task_rows} task rows needs {wanted} pairs, and the cache holds "
            f"{len(pairs)} usable ones: sample more, lower the ratio to "
            f"{math.floor(1e4 * len(pairs) / task_rows) / 1e4:.15g}, or set on_short to 'all' or "
            "'repeat'"
        )
    if on_short == "all":
        wanted = min(wanted, len(pairs))
    ranked = sorted(pairs, key=lambda row_id: (rank(seed, row_id, "select"), row_id))
    return [(i // len(ranked), pairs[ranked[i % len(ranked)]]) for i in range(wanted)]


def _arrange(
    task: Sequence[WordedRow], picked: Sequence[tuple[int, Record]], seed: int, order: Order
) -> list[tuple[str, WordedRow]]:
    """Put task rows and pairs in order, each with the name of its source."""
    rows = _ordered([(0, "task", row) for row in task], seed)
    pairs = _ordered([(n, "cache", _Pair(record)) for n, record in picked], seed)
    if order == "shuffled":
        return [(source, row) for _, source, row in _ordered([*rows, *pairs], seed)]
    arranged: list[tuple[str, WordedRow]] = []
    for index, (_, source, row) in enumerate(rows):
        begin, end = (round(i * len(pairs) / len(rows)) for i in (index, index + 1))
        arranged += [(source, row), *((s, pair) for _, s, pair in pairs[begin:end])]
    return arranged


def _ordered(rows: list[tuple[int, str, WordedRow]], seed: int) -> list[tuple[int, str, WordedRow]]:
    def place(item: tuple[int, str, WordedRow]) -> tuple[int, str]:
        repetition, source, row = item
        key = f"{repetition}:{source}:{row.record.id}"
        return rank(seed, key, "order"), _row_key(row)

    return sorted(rows, key=place)


def _table(rows: Sequence[tuple[str, WordedRow]], format: Format, columns: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                **_written(row.record, format, columns),
                "source": source,
                "source_id": row.record.id,
                "wording_id": row.wording_id,
            }
            for source, row in rows
        ],
        schema=columns,
    )


def _written(record: Record, format: Format, columns: pa.Schema) -> dict[str, Any]:
    """The row's own columns; one that the mixture does not have is refused, not lost."""
    row = write_record(record, format)
    if extra := sorted(set(row).difference(columns.names)):
        raise FormatError(
            f"a row has {' and '.join(extra)}, for which a mixture in the format {format!r} has no "
            "column: use format 'messages'"
        )
    return row


def _row_key(row: WordedRow) -> str:
    return f"{row.record.id}:{row.wording_id or ''}"


def _content_hash(ids: Sequence[str]) -> str:
    """Hash of a set of rows: the same whatever their order."""
    return hashlib.sha256(canonical_json(sorted(ids))).hexdigest()


def _card(manifest: Manifest, splits: Sequence[str]) -> str:
    """The dataset card, whose `configs` make the folder itself loadable."""
    name = config_name(manifest.settings["ratio"])
    files = "".join(f"  - split: {s}\n    path: {s}.parquet\n" for s in splits)
    rows = manifest.rows
    return (
        f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{files}---\n\n"
        f"# A DELIA mixture, {name}\n\n"
        f"{rows['task']} task rows and {rows['cache']} pairs that the model itself wrote, in one "
        f"fixed order (arXiv 2408.10841). `manifest.json` has the settings and hashes.\n\n"
        f'```python\nfrom datasets import load_dataset\n\nload_dataset("path/to/this/folder", '
        f'"{name}")\n```\n'
    )
