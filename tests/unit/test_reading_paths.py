"""Both paths of the reader give the same rows or the same error for any input."""

from __future__ import annotations

import json
import math
import re
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from row_files import write_jsonl

from delia_data.errors import InputError
from delia_data.reading import open_source

texts = st.one_of(
    st.sampled_from(["a", "b c", "é 😀", "{}", "null", "2024-01-01", "\ue000", "1"]),
    st.sampled_from(["", " ", "\u200b", "\ufe0f", "\x00", "\u2800", "\U000e0100", "\u0301"]),
    st.text(min_size=1, max_size=4),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**40, 2**63, 2**70, 0.0, 1.5, math.nan]),
    texts,
)
parts = st.lists(
    st.one_of(
        texts,
        st.fixed_dictionaries({"type": st.sampled_from(["text", "thinking"]), "text": texts}),
        st.fixed_dictionaries({"type": st.sampled_from(["image_url", "audio", "tool_use", "x"])}),
    ),
    max_size=2,
)
values = st.one_of(scalars, parts, st.dictionaries(texts, scalars, max_size=2))
SOMETIMES = {
    **dict.fromkeys(
        ("tool_calls", "weight", "train", "reasoning_content", "from", "value", "name"), values
    )
}
wild_turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "human", "no", None, 1])},
    optional={"content": values, **SOMETIMES},
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return turns that are usually valid."""
    roles = draw(st.sampled_from(["ua", "sua", "uaua", "ua", "u", "a", "au", "s", ""]))
    named = {"u": "user", "a": "assistant", "s": "system"}
    extra = draw(st.dictionaries(st.sampled_from(sorted(SOMETIMES)), scalars, max_size=1))
    more = extra if draw(st.integers(0, 3)) == 0 else {}
    return [{"role": named[role], "content": draw(texts), **more} for role in roles]


messages = st.one_of(
    conversations(), conversations(), conversations(), st.lists(wild_turns, max_size=3), values
)
COLUMNS = [
    "label",
    "kto_tag",
    "weight",
    "train",
    "tools",
    "images",
    "audio",
    "system",
    "system_prompt",
    "reasoning_content",
    "chosen",
    "rejected",
    "n",
    "prompt",
    "completion",
    "instruction",
    "output",
    "conversations",
]


@st.composite
def tables_of_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return rows whose columns are usually those of one format."""
    extra = draw(st.lists(st.sampled_from(COLUMNS), max_size=2, unique=True))
    wild = draw(st.booleans())
    kind = messages if wild else conversations()
    rows = draw(st.lists(kind, min_size=1, max_size=4))
    made = []
    for each in rows:
        row = {"messages": each}
        for name in extra:
            if draw(st.booleans()):
                row[name] = draw(st.one_of(st.none(), values) if wild else scalars)
        made.append(row)
    return made


class Reading(NamedTuple):
    """The result of reading an input."""

    rows: list[Any] | None
    error: str | None
    dropped: dict[str, int]
    changed: dict[str, int]
    ignored: set[str]
    count: int


def read(given: Any, *, strict: bool = False, fast: bool = True) -> Reading:
    """Read an input or its error, with or without the fast path."""
    source = open_source(given, strict=strict)
    rows, error = [], None
    with nullcontext() if fast else patch("delia_data.reading.inputs.exact", lambda *_, **__: None):
        try:
            for batch in source.batches():
                batch.validate(full=True)
                assert batch.schema.names == ["messages"]
                rows += batch["messages"].to_pylist()
        except InputError as refusal:
            rows, error = [], str(refusal)
    report = source.report
    found = rows if error is None else None
    dropped, changed = dict(report.dropped), dict(report.changed)
    return Reading(found, error, dropped, changed, set(report.ignored), report.rows)


def check_paths(given: Any, *, strict: bool = False) -> Reading:
    """Check that both paths agree in every detail, and that `record` gives the same."""
    fast = read(given, strict=strict)
    assert fast == read(given, strict=strict, fast=False)
    if fast.rows is not None:
        source = open_source(given, strict=strict)
        records = [
            [m.as_dict() for m in record.messages] for _, record in source.map(source.record)
        ]
        assert records == fast.rows
    return fast


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)


@SLOW
@given(tables_of_rows(), st.booleans(), st.booleans())
@example([{"messages": [{"role": "user", "content": "a"}] * 2}], True, False)
def test_json_lines(rows: list[dict[str, Any]], strict: bool, ascii: bool) -> None:
    with TemporaryDirectory() as folder:
        path = write_jsonl(Path(folder, "a.jsonl"), rows, ensure_ascii=ascii)
        lines = check_paths(path, strict=strict)
        listed = Path(folder, "a.json")
        listed.write_text(json.dumps(rows), "utf-8")
        for other in (read(listed, strict=strict), read(rows, strict=strict)):
            assert other.rows == lines.rows
            assert other[2:] == lines[2:]
            assert (other.error is None) == (lines.error is None)


@SLOW
@given(
    st.lists(st.one_of(tables_of_rows().map(lambda rows: json.dumps(rows[0])), texts), max_size=5)
)
@example(
    ['{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],}']
)
@example(['{"messages": null, "messages": [{"role": "user", "content": "a"}]}'])
@example(['{"n": NaN}', '{"n": 1}{"n": 1}', '{"n"', ":1}"])
def test_lines_that_need_not_be_json(lines: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        check_paths(path)


TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.binary(),
    pa.large_binary(),
]


@st.composite
def message_tables(draw: st.DrawFn) -> pa.Table:
    """Return a table with a column `messages` of some type that can stand for turns."""
    rows = draw(st.lists(st.one_of(st.none(), conversations()), min_size=1, max_size=4))
    role, content = (draw(st.sampled_from(TEXT_TYPES)) for _ in "rc")
    extra = draw(st.lists(st.sampled_from(sorted(SOMETIMES)), max_size=2, unique=True))
    names = draw(st.permutations(["role", "content", *extra]))
    types = {"role": role, "content": content, "weight": pa.float64()}
    fields = [pa.field(name, types.get(name, pa.string())) for name in names]
    turn = pa.struct(fields)
    new_list = draw(st.sampled_from([pa.list_, pa.large_list, pa.list_view]))
    turns = [
        None
        if row is None
        else [
            None
            if draw(st.integers(0, 15)) == 0
            else {
                **{name: None if t is None else str(t) for name, t in each.items()},
                **{name: draw(st.sampled_from([None, "a", ""])) for name in extra},
                "weight": draw(st.sampled_from([None, 0.0, 1.0])),
            }
            for each in row
        ]
        for row in rows
    ]
    try:
        column = pa.array(turns, new_list(turn))
    except (pa.ArrowException, TypeError):
        assume(False)
    data = {"messages": column}
    for name in draw(st.lists(st.sampled_from(COLUMNS), max_size=2, unique=True)):
        kind = draw(st.sampled_from([scalars.filter(lambda v: isinstance(v, str)), st.booleans()]))
        data[name] = pa.array(
            draw(st.lists(st.none() | kind, min_size=len(rows), max_size=len(rows)))
        )
    table = pa.table(data)
    return table.slice(draw(st.integers(0, 1))) if len(rows) > 1 else table


@SLOW
@given(message_tables(), st.booleans())
def test_tables(table: pa.Table, strict: bool) -> None:
    try:
        table.validate(full=True)
    except pa.ArrowInvalid:  # pyarrow itself made an index without a value, below a null
        assume(False)
    memory = check_paths(table, strict=strict)
    rows = read(table.to_pylist(), strict=strict)
    assert rows.rows == memory.rows
    assert rows[2:5] == memory[2:5]
    with TemporaryDirectory() as folder:
        stream, file = Path(folder, "a.arrow"), Path(folder, "b.arrow")
        for path, new in ((stream, pa.ipc.new_stream), (file, pa.ipc.new_file)):
            with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
                writer.write_table(table)
        paths = [stream, file]
        # pyarrow writes no views, and reads no nested dictionaries.
        if not re.search("dictionary|view", str(table.schema)):
            paths.append(Path(folder, "a.parquet"))
            pq.write_table(table, paths[-1], row_group_size=2)
        for path in paths:
            found = check_paths(path, strict=strict)
            assert found.rows == memory.rows
            if found.count or path.suffix != ".arrow":  # Arrow may refuse a batch as a whole
                assert found[2:] == memory[2:]


@SLOW
@given(tables_of_rows())
def test_datasets(rows: list[dict[str, Any]]) -> None:
    try:
        dataset = datasets.Dataset.from_list(rows)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        assume(False)
    found = check_paths(dataset)
    shown = read([dataset[index] for index in range(len(dataset))])
    assert shown.rows == found.rows
    assert shown[2:5] == found[2:5]
    if len(dataset) > 1:
        check_paths(dataset.select([1, 0]))
    check_paths(dataset.to_iterable_dataset())


@SLOW
@given(st.lists(tables_of_rows(), min_size=1, max_size=3), st.data())
def test_shards_of_different_schemas_and_kinds(
    shards: list[list[Any]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        for number, rows in enumerate(shards):
            path = Path(folder, f"{number}.jsonl")
            if data.draw(st.booleans()):
                try:
                    pq.write_table(table_of(rows), path.with_suffix(".parquet"))
                    continue
                except (pa.ArrowException, TypeError, OverflowError):
                    path.with_suffix(".parquet").unlink(missing_ok=True)
            write_jsonl(path, rows)
        check_paths(folder)
