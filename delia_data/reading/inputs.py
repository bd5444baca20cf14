"""Open any input: find its files, the splits that their names give, and read their rows.

A `Source` has the rows of an input in chunks of some thousand, and reports what reading them lost:

    Arrow types exactly those of a row   ──▶ checked as columns, returned unchanged        (fast)
    anything else                        ──▶ row by row through `records.read_record`   (general)

Both paths give the same rows: a chunk takes the fast path only if the general path would not change
it.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import pyarrow as pa

from delia_data.errors import FormatError, InputError, UnfinishedError, UnsupportedRowError
from delia_data.outputs import FINISHED, LOCK, MANIFEST, read_manifest
from delia_data.reading.files import (
    COMPRESSIONS,
    SUFFIXES,
    FilePart,
    as_pattern,
    is_url,
    kind_of,
    link_of_chain,
    reading_errors,
)
from delia_data.reading.tables import (
    Chunk,
    DatasetPart,
    Place,
    RowsPart,
    TablePart,
    as_batches,
    exact,
    first_line,
    ignored_names,
    part_in_memory,
)
from delia_data.records import (
    Format,
    Losses,
    Message,
    Record,
    check_supported,
    losses_of,
    read_with_losses,
    system_turn,
)

T = TypeVar("T")
Purpose = Literal["cache", "task", "queries", "training"]
_GIVE: Final = (
    f"give a folder, or files that end in {', '.join(SUFFIXES)}, each also with "
    f"{' or '.join(COMPRESSIONS)}"
)
# Conventional names of files without rows.
_NO_ROWS: Final = frozenset(
    {MANIFEST, "dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
)
# The same words as in `datasets`.
_TEST: Final = re.compile(r"(^|[/._ -])(test|testing|eval|evaluation)([/._ 0-9-]|$)", re.I)
_VALIDATION: Final = re.compile(r"(^|[/._ -])(validation|valid|val|dev)([/._ 0-9-]|$)", re.I)
_SPLIT: Final = re.compile(r"(.+)#([A-Za-z_]\w*)")
# Shards of splits with other names, such as data/train_sft-00000-of-00003.parquet.
_SHARD: Final = re.compile(r"(?:^|/)data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*$")
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")
_SHOWN: Final = 3  # problems in an error
_THREADS: Final = max(2, min(4, os.cpu_count() or 1))


def open_source(
    given: Any,
    *,
    purpose: Purpose = "cache",
    strict: bool = False,
    format: Format | None = None,
    split: str = "train",
) -> Source:
    """Open the rows of any input; if it has several splits, the training split.

    Args:
        given: A path, a glob, a folder, an fsspec URL, a Hub id (`owner/name`, or
            `owner/name:configuration`), each also with `#split`; a `Dataset`, an
            `IterableDataset`, a dictionary of these by split, a data frame, a `pyarrow.Table`, a
            list of rows or records, or a generator.
        purpose: Use of the rows. Rows that text cannot express are dropped and counted for a cache,
            and refused for a task or a training.
        strict: Refuse them for a cache too, and rows with reasoning.
        format: Format of all rows; detected row by row by default.
        split: The split to read.

    Raises:
        InputError: The input does not exist, its kind is unknown, or it has no such split.
        UnfinishedError: It is a folder of this package without its finish marker.
    """
    splits = open_splits(given, purpose=purpose, strict=strict, format=format)
    return choose_split(given, splits, split)


def choose_split(given: Any, splits: Mapping[str, Source], *names: str) -> Source:
    """Return the first of the named splits; its report lists the other splits as skipped.

    Args:
        given: The input, for the error.
        splits: All splits of the input.
        names: Names of the splits to read.

    Raises:
        InputError: The split does not exist.
    """
    source = splits.get(names[0])
    if source is None:
        first = max(splits, key=lambda name: name.startswith("train"), default=names[0])
        is_text = isinstance(given, str | os.PathLike)
        way = f"{given}#{first}" if is_text else f"rows[{first!r}], or a list of rows"
        raise InputError(
            f"{_name(given)} has the splits {', '.join(splits) or 'none'}, and no {names[0]!r}: "
            f"give one of them, such as {way}"
        )
    for name in (each for each in splits if each not in names):
        other = splits[name]
        files = [part.file for part in other.parts if part.file]
        source.report.skipped += tuple(
            f"{_relative(other.name, file)} (split {name})" for file in files
        ) or (f"split {name}",)
    return source


def open_splits(
    given: Any,
    *,
    purpose: Purpose = "cache",
    strict: bool = False,
    format: Format | None = None,
) -> dict[str, Source]:
    """Open every split of an input; an input without splits is the split `train`.

    Args:
        given: As for `open_source`.
        purpose: As for `open_source`.
        strict: As for `open_source`.
        format: As for `open_source`.

    Raises:
        InputError: As `open_source`.
    """
    if isinstance(given, Source):
        return {"train": given}
    strict = strict or purpose in ("task", "training")
    splits = _splits_of(given).items()
    return {name: replace(source, strict=strict, format=format) for name, source in splits}


def _splits_of(given: Any) -> dict[str, Source]:
    if isinstance(given, Mapping):
        splits = {
            str(name): choose_split(rows, open_splits(rows), "train")
            for name, rows in given.items()
        }
        return {name: replace(source, name=name) for name, source in splits.items()}
    if not isinstance(given, str | os.PathLike):
        return {"train": Source("the rows", (part_in_memory(given),))}
    text = os.fspath(given)
    if (match := _SPLIT.fullmatch(text)) and not _is_there(text):
        before = Path(match[1]) if isinstance(given, Path) else match[1]
        return {"train": choose_split(before, _splits_of(before), match[2])}
    if not isinstance(given, Path) and not os.path.exists(text):
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        elif is_url(text):
            return _open_url(text)
        elif _is_hub_id(text):
            return _open_datasets(_from_hub(text), text)
    return _open_path(Path(text))


def _open_datasets(opened: Any, name: str) -> dict[str, Source]:
    """Open a `Dataset`, or those of a `DatasetDict`, with a name for errors."""
    splits = opened if isinstance(opened, Mapping) else {"train": opened}
    place = f"{as_pattern(name)}: row {{}}"
    return {str(n): Source(name, (DatasetPart(rows, place),)) for n, rows in splits.items()}


def read_records(given: Any, format: Format | None = None) -> Iterator[Record]:
    """Read the records of any input of `open_source`.

    Args:
        given: The input.
        format: Format of all rows; detected row by row by default.

    Raises:
        InputError: As `open_source`.
        FormatError: Rows cannot be used; the message counts them and shows the first three.
    """
    source = open_source(given, purpose="training", format=format)
    return (record for _, record in source.map(source.record))


def _open_path(path: Path) -> dict[str, Source]:
    name = str(path)
    with reading_errors(name):
        if os.path.lexists(name):
            path.stat()  # raises an error for broken links, loops and folders without permission
    if os.path.isdir(name):  # unlike pathlib's, False for a name that is too long
        return _open_folder(path)
    if os.path.isfile(name):
        if kind_of(name)[0] is None:
            raise InputError(f"{path} has an unknown ending: {_GIVE}")
        return {"train": Source(name, (FilePart(name),))}
    if os.path.lexists(name):
        raise InputError(f"{path} is a pipe or a device, which cannot be read twice: {_GIVE}")
    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise InputError(f"{path} does not exist: {_GIVE}")
    files = [each for each in matches if os.path.isfile(each) and kind_of(each)[0]]
    folders = [each for each in matches if os.path.isdir(each)]
    unread = [each for each in matches if each not in {*files, *folders}]
    skipped = [f"{each.removeprefix(_before_pattern(name))} (unknown kind)" for each in unread]
    if not files and not folders:
        raise InputError(f"{path} matches no files of rows: {_GIVE}")
    joined = _split_files(name, files, skipped) if files else {}
    for folder in folders:
        for split, source in _open_folder(Path(folder)).items():
            before = joined.get(split, Source(name, (), report=Report(skipped=tuple(skipped))))
            report = Report(skipped=before.report.skipped + source.report.skipped)
            joined[split] = Source(name, before.parts + source.parts, report=report)
    return joined


def _open_folder(path: Path) -> dict[str, Source]:
    if is_output(path):
        manifest = read_manifest(path)
        if manifest.kind != "cache":
            raise InputError(f"{path} holds a {manifest.kind}, not a cache: give a cache folder")
        shards = sorted(path.glob("pairs-*.parquet")) or [path / "pairs.parquet"]
        for name in sorted(manifest.files):
            if name.startswith("pairs") and not (path / name).is_file():
                raise UnfinishedError(f"{path / name} is missing: copy the whole cache again")
        parts = tuple(FilePart(str(file)) for file in shards)
        return {"train": Source(str(path), parts, report=Report(is_own=True))}
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        import datasets

        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:  # datasets raises various errors for a damaged folder
            raise InputError(
                f"{path} was saved by datasets and cannot be loaded: {first_line(error)}"
            ) from error
        return _open_datasets(saved, str(path))
    files, skipped = _walk(path)
    if not files:
        raise InputError(f"{path} has no files of rows: {_GIVE}")
    return _split_files(str(path), [str(path / file) for file in files], skipped)


def is_output(path: Path) -> bool:
    """Return whether a folder is an output of this package, finished or not."""
    if any(os.path.exists(path / name) for name in (FINISHED, LOCK, "plan.json")):
        return True
    with suppress(OSError, ValueError, TypeError):
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return {"kind", "code_version", "files"} <= set(content)
    return False


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """Return the files of a folder with rows, and the skipped files with the reason."""
    files: list[str] = []
    skipped: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename} cannot be read: {error.strerror}; check the folder"
        ) from error

    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in sorted(names):
            if name.startswith("."):
                continue
            file = Path(root, name)
            relative = file.relative_to(folder).as_posix()
            if name in _NO_ROWS or kind_of(name)[0] is None:
                skipped.append(f"{relative} (unknown kind)")
            elif not file.is_file():
                kind = "broken link" if file.is_symlink() else "not a file"
                skipped.append(f"{relative} ({kind})")
            elif (real := os.path.realpath(file)) in seen:
                skipped.append(f"{relative} (link to a file that is read)")
            else:
                seen.add(real)
                files.append(relative)
    return sorted(files), skipped


def _split_files(name: str, files: Sequence[str], skipped: Sequence[str]) -> dict[str, Source]:
    """Group files into splits by their names, like `datasets`.

    The given folder, or the folder before a pattern, is not part of the names.
    """
    splits: dict[str, list[str]] = {"train": [], "test": [], "validation": []}
    names = [_relative(name, file) for file in files]
    shards = [_SHARD.search(relative) for relative in names]
    for file, relative, shard in zip(files, names, shards, strict=True):
        is_test, is_validation = _TEST.search(relative), _VALIDATION.search(relative)
        split = "test" if is_test else "validation" if is_validation else "train"
        if shard is not None and None not in shards:
            split = shard[1]
        splits.setdefault(split, []).append(file)
    if not any(files for split, files in splits.items() if split not in ("test", "validation")):
        splits = {"train": list(files)}
    return {
        split: Source(name, tuple(map(FilePart, some)), report=Report(skipped=tuple(skipped)))
        for split, some in splits.items()
        if some
    }


def _open_url(url: str) -> dict[str, Source]:
    """Open the file, the folder or the pattern of a URL."""
    import fsspec

    with reading_errors(url):
        system, path = fsspec.core.url_to_fs(url)
        link, rest = link_of_chain(url)
        if system.isdir(path):
            place, folder = f"{link.rstrip('/')}/", f"{path.rstrip('/')}/"
            names = [n for n in system.find(path) if not re.search(r"/[._]", n[len(path) :])]
        elif system.exists(path):
            if kind_of(path)[0] is None:
                raise InputError(f"{url} has an unknown ending: {_GIVE}")
            return {"train": Source(url, (FilePart(url),))}
        else:
            place, folder = _before_pattern(link), _before_pattern(path)
            names = system.glob(path)
    # Names have no protocol, and no host.
    names = sorted(str(name).removeprefix(folder) for name in names)
    files = [n for n in names if kind_of(n)[0] and n.rpartition("/")[2] not in _NO_ROWS]
    if not files:
        raise InputError(f"{url} does not exist, or has no files of rows: {_GIVE}")
    skipped = [f"{name} (unknown kind)" for name in names if name not in files]
    return _split_files(url, [f"{place}{n}{rest}" for n in files], skipped)


def _relative(name: str, file: str) -> str:
    """Return the name of a file relative to the given folder, or the folder before a pattern."""
    link, file = link_of_chain(name)[0], link_of_chain(file)[0]
    folder = f"{link.rstrip('/')}/"
    return file.removeprefix(folder if file.startswith(folder) else _before_pattern(link))


def _before_pattern(path: str) -> str:
    """Return the folder before a pattern, with its slash."""
    begin = re.split(r"[*?\[]", path, maxsplit=1)[0]
    return begin[: begin.rfind("/") + 1]


def _is_there(text: str) -> bool:
    """Return whether a path or a URL exists literally."""
    if os.path.lexists(text) or not is_url(text):
        return os.path.lexists(text)
    import fsspec

    with reading_errors(text):
        system, path = fsspec.core.url_to_fs(text)
        return bool(system.exists(path))


def _is_hub_id(text: str) -> bool:
    """Return whether a text names a Hub dataset: like `owner/name`, with no known ending."""
    return _HUB_ID.fullmatch(text) is not None and kind_of(text)[0] is None


def _from_hub(name: str) -> Any:
    import datasets

    path, _, configuration = name.partition(":")
    try:
        return datasets.load_dataset(path, *([configuration] if configuration else []))
    except Exception as error:  # the Hub's client raises various errors
        said = " ".join(str(error).partition("\nExample of usage")[0].split())
        way = f"; give {path}:CONFIGURATION" if "config" in said.casefold() else ""
        raise InputError(
            f"{name!r} is neither a path here nor a dataset that the Hub gives: {said[:500]}{way}"
        ) from error


def _name(given: Any) -> str:
    return str(given) if isinstance(given, str | os.PathLike) else f"the {type(given).__name__}"


@dataclass
class Report:
    """Report on the rows of a source; complete when they are exhausted.

    Attributes:
        rows: Number of rows in the input.
        dropped: Counts of dropped rows, which text cannot express, by reason.
        changed: Counts of changed rows by reason: `reasoning_removed`.
        ignored: Columns that no row format uses, and fields of turns as `messages.name`.
        skipped: Files of a folder that were not read, with the reason.
        is_own: Whether this package wrote the input; its other columns are not reported.
    """

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    ignored: set[str] = field(default_factory=set)
    skipped: tuple[str, ...] = ()
    is_own: bool = False

    def details(self) -> dict[str, Any]:
        """Return the entry for a manifest, without dropped rows; empty if nothing was lost."""
        lost = {
            "changed": dict(sorted(self.changed.items())),
            "ignored": [] if self.is_own else sorted(self.ignored),
            "skipped": list(self.skipped),
        }
        return {name: value for name, value in lost.items() if value}

    def add(self, other: Report) -> Report:
        """Add the report of another split of the input, and return the sum."""
        skipped = tuple(dict.fromkeys((*self.skipped, *other.skipped)))
        return Report(
            self.rows + other.rows,
            self.dropped + other.dropped,
            self.changed + other.changed,
            self.ignored | other.ignored,
            skipped,
            self.is_own and other.is_own,
        )


class Problems:
    """Problems of an input, with their count and the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.shown: list[str] = []

    def add(self, where: str, error: object) -> None:
        """Count a problem, and store its text if it is one of the first."""
        self.count += 1
        if len(self.shown) < _SHOWN:
            text = str(error)
            text = text if text.startswith(where) else f"{where}: {text}"
            self.shown.append(" ".join(text.splitlines()))  # names may contain line breaks

    def raise_if_any(self, rows: int) -> None:
        """Raise the error of all problems.

        Raises:
            FormatError: There is a problem.
        """
        if self.count:
            more = f"; and {self.count - _SHOWN:,} more" if self.count > _SHOWN else ""
            raise FormatError(
                f"{self.count:,} of {rows:,} rows cannot be used: {'; '.join(self.shown)}{more}"
            )


@dataclass(frozen=True)
class Source:
    """The rows of an input of any kind.

    Attributes:
        name: Name of the input in errors.
        parts: Parts of the input, read one after another.
        strict: Whether rows are refused instead of dropped.
        format: Format of all rows; by default detected for each row.
        report: Report on the rows that were read.
    """

    name: str
    parts: tuple[Part, ...]
    strict: bool = False
    format: Format | None = None
    report: Report = field(default_factory=Report, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Local files that hold all rows; empty for rows from elsewhere."""
        local = all(isinstance(part, FilePart) and not is_url(part.file) for part in self.parts)
        names = (cast(FilePart, part).file for part in self.parts) if local else ()
        return tuple(dict.fromkeys(map(Path, names)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow: one column, `messages`, each row a valid conversation.

        Raises:
            InputError: The input cannot be read, or is empty.
            FormatError: Rows cannot be used; the message counts them and shows the first three.
        """
        problems = self._start()
        for chunk, (ignored, ready) in _in_threads(self._columns, self._chunks()):
            if ready is None:
                rows = self._convert(chunk.rows(), self._pair, problems)
                yield from as_batches(record for _, record in rows)
            else:
                self.report.rows += ready.num_rows
                self.report.ignored |= ignored
                yield ready
        self._end(problems)

    def rows(self) -> Iterator[Place]:
        """Yield each row's location and the raw row.

        Raises:
            InputError: As `batches`, for rows that cannot be parsed.
        """
        return self.map(lambda row: row)

    def map(self, read: Callable[[Any], T]) -> Iterator[tuple[str, T]]:
        """Yield each row's location and the value of a function of the row.

        Args:
            read: The function. If it raises `FormatError`, the row has a problem. If it raises
                `UnsupportedRowError`, the row is dropped, unless the source is strict.

        Raises:
            InputError: As `batches`.
        """
        problems = self._start()
        for chunk in self._chunks():
            yield from self._convert(chunk.rows(), read, problems)
        self._end(problems)

    def _start(self) -> Problems:
        report = self.report
        report.rows, report.dropped, report.changed = 0, Counter(), Counter()
        report.ignored = set()
        return Problems()

    def _end(self, problems: Problems) -> None:
        problems.raise_if_any(self.report.rows)
        if not self.report.rows and any(part.file for part in self.parts):
            raise InputError(f"{self.name} is empty: it must hold at least one row")

    def _chunks(self) -> Iterator[Chunk]:
        for part in self.parts:
            # Errors of the user's iterable are not changed.
            with nullcontext() if isinstance(part, RowsPart) else reading_errors(part.file):
                yield from part.chunks()

    def _convert(
        self, rows: Iterable[Place], read: Callable[[Any], T], problems: Problems
    ) -> Iterator[tuple[str, T]]:
        for where, row in rows:
            self.report.rows += 1
            try:
                if isinstance(row, FormatError):
                    raise row
                if type(row) is dict and any(map(_is_nan, row.values())):
                    row = {name: None if _is_nan(each) else each for name, each in row.items()}
                value = read(row)
            except FormatError as error:
                if isinstance(error, UnsupportedRowError) and not self.strict:
                    self.report.dropped[error.reason] += 1
                else:
                    problems.add(where, error)
            else:
                yield where, value

    def _columns(self, chunk: Chunk) -> tuple[set[str], pa.RecordBatch | None]:
        """Return the unused columns of a chunk, and its rows if they are valid without changes."""
        table = None if self.format not in (None, "messages") else chunk.table()
        with suppress(UnicodeDecodeError):  # in the name of a field
            ready = None if table is None else exact(table, validated=chunk.validated)
            if table is not None and ready is not None:
                return ignored_names(table), ready
        return set(), None

    def record(self, row: Any, *, used: Collection[str] = ()) -> Record:
        """Return the record of a row, and report the loss of reasoning and of unused columns.

        Args:
            row: A row of the input.
            used: Columns that the caller reads, besides those of the row's format.

        Raises:
            FormatError: As `records.read_record`.
        """
        return self._read(row, used)[0]

    def system_turn(self, row: Mapping[str, Any], used: Collection[str]) -> tuple[Message, ...]:
        """Return the system turn of a row for a caller that makes the other turns from columns.

        Report the loss of reasoning and of columns, as `record` does.

        Args:
            row: A row of the input.
            used: Columns that the caller reads.

        Raises:
            FormatError: A column that is not read changes the meaning of the row.
        """
        others = {name: value for name, value in row.items() if name not in used}
        check_supported(others)
        self._add(losses_of(others))
        return system_turn(others, ())

    def _read(self, row: Any, used: Collection[str] = ()) -> tuple[Record, Losses]:
        """Return the record of a row, and the losses."""
        if isinstance(row, Record):
            return row, Losses()
        record, lost = read_with_losses(row, self.format)
        lost.ignored.difference_update(used)
        self._add(lost)
        return record, lost

    def _add(self, lost: Losses) -> None:
        if lost.reasoning:
            self.report.changed["reasoning_removed"] += 1
        self.report.ignored |= lost.ignored

    def _pair(self, row: Any) -> Record:
        record, lost = self._read(row)
        if self.strict and lost.reasoning:
            raise FormatError("the row holds reasoning, which would be removed: remove it")
        return record


def _is_nan(value: Any) -> bool:
    """Return whether a value is a data frame's missing value."""
    return type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, float) and math.isnan(value)
    )


def _in_threads(
    function: Callable[[Chunk], T], chunks: Iterable[Chunk]
) -> Iterator[tuple[Chunk, T]]:
    """Yield each chunk with the value of a function, which threads compute in advance.

    Arrow parses and checks without the global interpreter lock.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="delia-read") as pool:
        waiting: deque[tuple[Chunk, Future[T]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, pool.submit(function, chunk)))
            if len(waiting) > _THREADS:
                first, value = waiting.popleft()
                yield first, value.result()
        for first, value in waiting:
            yield first, value.result()


Part: TypeAlias = FilePart | TablePart | DatasetPart | RowsPart
