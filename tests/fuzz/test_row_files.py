"""Fuzz target: files of rows and tasks. Each is read, or refused in one line."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from command_line import check_line
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from row_files import encode

from delia_data.errors import DeliaError
from delia_data.mixing import read_task_rows
from delia_data.reading import open_source, open_splits
from delia_data.records import FORMATS, Record, write_record
from delia_data.sampling.queries import FileQueries
from delia_data.tasks import read_task

RECORDS = [Record.pair("Où?", "There.", system="Be brief."), Record.pair("a\n,b", '"c"')]
ROWS = {
    **{format: [write_record(record, format) for record in RECORDS] for format in FORMATS},
    "columns": [{"text": "a", "label": n, "tools": None, "weight": 1.5} for n in range(3)],
    "parts": [{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}],
}
SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=30)


KINDS = ("jsonl", "json", "csv", "parquet", "arrow", "ndjson")
SEEDS = [(kind, encode(rows, kind)) for kind in KINDS for rows in ROWS.values()]
PIECES = [b"", b"\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b', "', b"9" * 400]
PIECES += [b"PK\x03\x04", b"\x1f\x8b"]
PIECES += rb""" " ' , { } [ ] \ud800 null NaN 1e999 "messages": "label":false, "train":0,
"system_prompt":"a", "value":"b", """.split()


@st.composite
def files(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> tuple[str, bytes]:
    """Return the name of a file and its bytes: those of a valid one, changed in some places."""
    kind, data = draw(st.sampled_from([seed for seed in SEEDS if seed[0] in kinds]))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(data)))
        end = begin + draw(st.sampled_from([0, 0, 1, 1, 2, 8, len(data)]))
        new = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4), st.just(data[:end])))
        data = data[:begin] + new + data[end:]
    packed = draw(st.sampled_from(["", "", "", ".gz", ".zst"]))
    if packed == ".gz":
        data = gzip.compress(data, 1)
    elif packed == ".zst":
        data = pa.compress(data, "zstd", asbytes=True)
    if packed and draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    return f"a.{kind}{packed}", data


def check_readers(folder: Path, name: str) -> None:
    """Check that every reader of a file gives rows or one line, and writes nothing."""
    path = folder / name
    before = {each: each.stat().st_mtime_ns for each in folder.rglob("*")}
    readers = [
        lambda: sum(batch.num_rows for batch in open_source(path).batches()),
        lambda: list(open_source(path, strict=True).batches()),
        lambda: [list(source.rows()) for source in open_splits(folder, purpose="task").values()],
        lambda: read_task_rows(folder / "*", token=""),
        lambda: read_task_rows(path, token=""),
        lambda: list(FileQueries(path)),
        lambda: read_task(path, instruction="Say.", stands_for="one word"),
        lambda: read_task(
            path, query="{text} {n}", answer="{label}", instruction="Say.", stands_for="a word"
        ),
    ]
    for read in readers:
        try:
            read()
        except DeliaError as error:
            check_line(error)
    assert before == {each: each.stat().st_mtime_ns for each in folder.rglob("*")}


@SLOW
@given(files())
@example(("a.jsonl", b'{"messages": ' + b"[" * 40_000 + b"]" * 40_000 + b"}"))
@example(("a.json", b'[{"messages": ' * 40_000))
@example(("a.jsonl", b'{"n": ' + b"9" * 20_000 + b"}"))
@example(("a.json", b"\xef\xbb\xbf"))
@example(("a.csv", b'a,b\n"' + b"\n" * 10_000))
@example(("a.csv", b'"t\next",b\na,b\n'))
@example(("a.jsonl", encode(ROWS["messages"], "jsonl").replace(b"role", b"\x80role", 1)))
@example(("a.parquet", encode(ROWS["messages"], "parquet").replace(b"role", b"\x80ole")))
@example(("a.arrow", encode(ROWS["messages"], "arrow").replace(b"messages", b"\x80essages")))
def test_any_file_is_read_or_refused(file: tuple[str, bytes]) -> None:
    name, data = file
    with TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(data)
        check_readers(Path(folder), name)


@SLOW
@given(files(("csv",)))
def test_any_table_is_read_or_refused(file: tuple[str, bytes]) -> None:
    name, data = file
    with TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(data)
        check_readers(Path(folder), name)


@SLOW
@given(st.lists(files(), max_size=3), st.text(max_size=12), st.sampled_from(KINDS))
def test_any_folder_is_read_or_refused(
    found: list[tuple[str, bytes]], name: str, ending: str
) -> None:
    with TemporaryDirectory() as folder:
        for number, (file, data) in enumerate(found):
            Path(folder, f"{number}-{file}").write_bytes(data)
        safe = "".join(char for char in name if char.isprintable() and char not in "/\x00")
        Path(folder, f"{safe}.{ending}").write_bytes(encode(ROWS["messages"], ending))
        check_readers(Path(folder), f"{safe}.{ending}")
