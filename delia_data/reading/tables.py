"""Turn Arrow tables, JSON text and rows in memory into chunks of rows.

A table whose types are exactly those of a row is checked as columns and returned unchanged
(`exact`). `Converter` makes rows of any other: bytes become text, labels get their names.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delia_data._batches import batches
from delia_data.errors import FormatError, InputError
from delia_data.records import MEANINGFUL, TURN_FIELDS, VISIBLE, Record

MESSAGES: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA: Final = pa.schema([("messages", MESSAGES)])
Decoder: TypeAlias = Callable[[Any], Any]
Place: TypeAlias = tuple[str, Any]
"""A location and a row, or a `FormatError` instead of a row that cannot be parsed."""
_BINARY: Final = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
BATCH_ROWS: Final = 10_000
_MOST_DIGITS: Final = 4_000  # of an integer; Python refuses to parse more


@dataclass(frozen=True)
class Chunk:
    """Some rows of an input.

    Attributes:
        rows: Returns the rows with their locations.
        table: Returns the same rows as Arrow, or None if there is no such table.
        validated: Whether the texts of the table are known to be UTF-8.
    """

    rows: Callable[[], Iterator[Place]]
    table: Callable[[], pa.Table | None] = lambda: None
    validated: bool = False


def with_label_names(rows: Iterable[Any], features: Any) -> Iterable[Any]:
    """Return rows with the names of their class labels."""
    name = _labels_in(features or {})
    return rows if name is None else map(name, rows)


def _labels_in(feature: Any) -> Decoder | None:
    """Return a decoder of class labels to their names; None if a feature has no class labels."""
    if type(feature).__name__ == "ClassLabel":
        return partial(_label, names=feature.names)
    if isinstance(feature, Mapping):
        return _in_fields({name: _labels_in(inner) for name, inner in feature.items()})
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return None if inner is None else _in_list(_labels_in(inner))


def row_chunks(rows: Iterable[Place]) -> Iterator[Chunk]:
    """Yield rows in chunks without a table."""
    for group in batches(rows, BATCH_ROWS):
        yield Chunk(lambda group=group: iter(group))  # type: ignore[misc]


def as_batches(records: Iterable[Record]) -> Iterator[pa.RecordBatch]:
    """Yield records as Arrow batches of `messages`."""
    for group in batches(records, BATCH_ROWS):
        turns = [[{"role": m.role, "content": m.content} for m in r.messages] for r in group]
        yield pa.RecordBatch.from_arrays([pa.array(turns, MESSAGES)], schema=SCHEMA)


def exact(table: pa.Table, *, validated: bool = False) -> pa.RecordBatch | None:
    """Return the `messages` of a table if all rows are valid without changes, else None.

    Args:
        table: The rows.
        validated: Whether the texts are known to be UTF-8.
    """
    names = table.column_names
    if names.count("messages") != 1:
        return None
    for name in MEANINGFUL.intersection(names):
        if names.count(name) > 1 or table[name].null_count != table.num_rows:
            return None
    if not _has_exact_type(table.schema.field("messages").type):
        return None
    if not table.num_rows:
        return pa.RecordBatch.from_pylist([], SCHEMA)
    column = table["messages"]
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    lengths = pc.list_value_length(column)
    if column.null_count or pc.min(lengths).as_py() < 1:
        return None
    turns = column.flatten()
    if turns.null_count:
        return None
    for number in range(turns.type.num_fields):
        other = turns.type.field(number).name
        if other in MEANINGFUL | {"from", "value"}:
            values = turns.field(number)
            if values.null_count != len(values):
                return None
    try:
        role, content = (turns.field(name).cast(pa.string()) for name in ("role", "content"))
        if not validated:
            role.validate(full=True)
            content.validate(full=True)
    except pa.ArrowException:  # bytes that are not UTF-8, or too many for the offsets
        return None
    codes = pc.index_in(role, pa.array(["system", "user", "assistant"]))
    if codes.null_count or content.null_count:
        return None
    roles = codes.to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy())]).astype(np.int32)
    if (roles[offsets[1:] - 1] != 2).any():
        return None
    if not np.logical_or.reduceat(roles == 1, offsets[:-1]).all():
        return None
    if not pc.all(pc.match_substring_regex(content, VISIBLE)).as_py():
        return None
    values = pa.StructArray.from_arrays([role, content], names=["role", "content"])
    return pa.RecordBatch.from_arrays(
        [pa.ListArray.from_arrays(pa.array(offsets), values)], schema=SCHEMA
    )


def ignored_names(table: pa.Table) -> set[str]:
    """Return the columns and the fields of turns that rows of `exact` do not use."""
    columns = {
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name not in MEANINGFUL | {"messages"}
        and column.null_count < len(column)
        and not pc.all(pc.is_null(column, nan_is_null=True)).as_py()
    }
    fields = set()
    for chunk in table["messages"].chunks:
        turns = chunk.flatten()
        for name, values in zip(turns.type.names, turns.flatten(), strict=True):
            if name not in TURN_FIELDS and values.null_count < len(turns):
                fields.add(f"messages.{name}")
    return columns | fields


def _has_exact_type(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    turn = kind.value_type
    if not pa.types.is_struct(turn):
        return False
    names = [turn.field(i).name for i in range(turn.num_fields)]
    return len(set(names)) == len(names) and all(
        name in names and _is_text(turn.field(name).type) for name in ("role", "content")
    )


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view())


class Converter:
    """Turns Arrow batches into rows: bytes become text, JSON is decoded, labels get names."""

    def __init__(self, schema: pa.Schema) -> None:
        twice = [name for name, count in Counter(schema.names).items() if count > 1]
        if twice:
            raise FormatError(
                f"there are two columns of one name ({', '.join(map(repr, twice))}): rename one"
            )
        features = _features(schema)
        decoders = {f.name: _decoder(f.type, features.get(f.name)) for f in schema}
        self.decode = _in_fields(decoders)

    def rows(self, batch: pa.RecordBatch) -> Iterator[Any]:
        """Yield the rows of a batch; an error for a row whose text is not UTF-8."""
        try:
            rows = batch.to_pylist(maps_as_pydicts="strict")
        except (UnicodeDecodeError, KeyError, pa.ArrowException, OverflowError, ValueError):
            if batch.num_rows == 1:
                yield self._row_of(batch)
            else:
                for index in range(batch.num_rows):
                    yield from self.rows(batch.slice(index, 1))
            return
        for row in rows:
            try:
                decoded = row if self.decode is None else self.decode(row)
            except FormatError as error:
                decoded = error
            yield decoded

    def _row_of(self, batch: pa.RecordBatch) -> Any:
        """Return a row with values that Python cannot represent; an error only for text."""
        row = {}
        for name in batch.schema.names:
            try:
                row[name] = batch[name][0].as_py(maps_as_pydicts="strict")
            except UnicodeDecodeError:
                return FormatError(f"column {name!r} holds bytes that are not UTF-8 text")
            except (KeyError, pa.ArrowException, OverflowError, ValueError):
                row[name] = _spelled(batch[name][0])
        return row


def _spelled(scalar: pa.Scalar) -> str:
    """Return a value that Python cannot represent, such as a date in the year 10000, as text."""
    try:
        return str(scalar)
    except (pa.ArrowException, OverflowError, ValueError):
        return repr(scalar.cast(pa.string()).as_py())


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that `datasets` writes into the metadata of a schema."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    return {}


def _decoder(kind: pa.DataType, feature: Any) -> Decoder | None:
    """Return a decoder of values of an Arrow type; None if they need none."""
    named = feature if isinstance(feature, Mapping) else {}
    if named.get("_type") == "ClassLabel" and named.get("names"):
        return partial(_label, names=list(named["names"]))
    if isinstance(kind, pa.JsonType) or named.get("_type") == "Json":
        return lambda value: parse_json(value) if isinstance(value, str) else value
    if isinstance(kind, pa.BaseExtensionType):
        return None
    if pa.types.is_dictionary(kind):
        return _decoder(kind.value_type, feature)
    if any(is_bytes(kind) for is_bytes in _BINARY):
        return _decode_bytes
    if pa.types.is_struct(kind):
        return _in_fields({f.name: _decoder(f.type, named.get(f.name)) for f in kind})
    is_map = pa.types.is_map(kind)
    value_type = kind.item_type if is_map else getattr(kind, "value_type", None)
    inside = None if value_type is None else _decoder(value_type, named.get("feature"))
    if is_map and inside is not None:
        decode: Decoder = inside
        return lambda value: {k: None if v is None else decode(v) for k, v in value.items()}
    return _in_list(inside)


def _in_fields(decoders: Mapping[str, Decoder | None]) -> Decoder | None:
    """Return a decoder of a struct's fields; None if no field has a decoder."""
    fields = {name: decode for name, decode in decoders.items() if decode is not None}
    if not fields:
        return None
    return lambda value: {
        k: fields[k](v) if k in fields and v is not None else v for k, v in value.items()
    }


def _in_list(decode: Decoder | None) -> Decoder | None:
    """Return a decoder of a list's values; None without a decoder."""
    if decode is None:
        return None
    return lambda value: [None if each is None else decode(each) for each in value]


def _label(value: Any, names: Sequence[str]) -> Any:
    value = value.item() if hasattr(value, "item") else value  # of NumPy or a tensor
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return None if value == -1 else value


def _decode_bytes(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value  # an image, for example; `records` refuses it if it should be text


def table_chunks(
    tables: Iterable[pa.RecordBatch], convert: Converter, place: str
) -> Iterator[Chunk]:
    """Yield a chunk for each table; `place` has a slot for the number of a row."""
    number = 0
    for batch in tables:

        def rows(batch: pa.RecordBatch = batch, first: int = number) -> Iterator[Place]:
            for index, row in enumerate(convert.rows(batch), first):
                yield place.format(index), row

        yield Chunk(rows, lambda batch=batch: pa.Table.from_batches([batch]))  # type: ignore[misc]
        number += batch.num_rows


class JsonError(FormatError):
    """Text that is not JSON.

    Attributes:
        line: Line of the error; None if it is unknown.
    """

    line: int | None = None


def parse_json(text: str) -> Any:
    """Parse JSON strictly: no repeated names; integers of any length.

    Raises:
        JsonError: The text is not JSON, is nested too deeply, or repeats a name.
    """
    try:
        try:
            return _DECODER.decode(text)
        except ValueError as error:
            if isinstance(error, json.JSONDecodeError | JsonError | UnicodeDecodeError):
                raise
            return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except RecursionError:
        raise JsonError(f"it is nested deeper than {sys.getrecursionlimit()} levels") from None
    except json.JSONDecodeError as error:
        problem = JsonError(f"{error.msg} at column {error.colno}")
        problem.line = error.lineno
        raise problem from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        twice = next(name for name, count in Counter(k for k, _ in pairs).items() if count > 1)
        raise JsonError(f"two fields have the name {twice!a}")
    return row


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def check_surrogates(row: dict[str, Any]) -> Any:
    """Return a row, or an error for a lone surrogate, which JSON allows but UTF-8 does not."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return FormatError(
            f"the row holds half a character ({error.object[error.start]!a}): correct or remove it"
        )
    return row


@dataclass(frozen=True)
class TablePart:
    """The rows of a `pyarrow.Table`."""

    table: pa.Table
    file: None = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        convert = Converter(self.table.schema)
        yield from table_chunks(self.table.to_batches(BATCH_ROWS), convert, "row {}")


@dataclass(frozen=True)
class DatasetPart:
    """The rows of a `datasets.Dataset`, with its indices and format."""

    dataset: Any
    place: str = "row {}"
    file: None = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        form = self.dataset.format
        if form["type"] == "custom":
            rows = with_label_names(self.dataset, self.dataset.features)
            yield from row_chunks((self.place.format(n), row) for n, row in enumerate(rows))
            return
        columns = form["columns"]
        arrow = self.dataset.with_format("arrow", columns=columns).iter(BATCH_ROWS)
        schema = self.dataset.features.arrow_schema
        convert = Converter(pa.schema([schema.field(name) for name in columns], schema.metadata))
        tables = (batch for table in arrow for batch in table.combine_chunks().to_batches())
        yield from table_chunks(tables, convert, self.place)


@dataclass(frozen=True)
class RowsPart:
    """Rows in memory: a list, a generator, an `IterableDataset`."""

    given: Any
    file: None = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        rows = with_label_names(self.given, getattr(self.given, "features", None))
        yield from row_chunks((f"row {n}", row) for n, row in enumerate(rows))


def part_in_memory(given: Any) -> TablePart | DatasetPart | RowsPart:
    """Return the rows of an input in memory.

    Raises:
        InputError: It is not an input of rows.
    """
    kind = type(given).__module__.partition(".")[0]
    if kind == "datasets" or hasattr(given, "_indices"):
        return DatasetPart(given) if hasattr(given, "_indices") else RowsPart(given)
    if isinstance(given, pa.Table):
        return TablePart(given)
    is_frame = kind == "pandas" and hasattr(given, "columns")
    try:
        if is_frame:
            return TablePart(pa.Table.from_pandas(given, preserve_index=False))
        if kind != "pandas" and hasattr(given, "__arrow_c_stream__"):
            return TablePart(pa.table(given))
    except (pa.ArrowException, TypeError, ValueError) as error:
        if is_frame and given.columns.is_unique:  # columns of mixed types
            rows = given.astype(object).where(given.notna(), None).to_dict("records")
            return RowsPart(rows)
        raise FormatError(
            f"the {type(given).__name__} cannot be read: {first_line(error)}"
        ) from error
    if kind == "pandas" or isinstance(given, Mapping | bytes) or not isinstance(given, Iterable):
        raise InputError(
            f"a {type(given).__name__} is no input of rows: give a path, a dataset, a table or a "
            "list of rows"
        )
    return RowsPart(given)


def first_line(error: BaseException) -> str:
    """Return the first line of an error that is not blank, or its type."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
