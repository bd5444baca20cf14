"""Open any input: find its files, and the splits that their names give."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from delia_data.errors import InputError, UnfinishedError
from delia_data.outputs import FINISHED, LOCK, MANIFEST, read_manifest
from delia_data.reading.files import (
    COMPRESSIONS,
    SUFFIXES,
    FilePart,
    as_pattern,
    first_line,
    is_url,
    kind_of,
    link_of_chain,
    reading_errors,
)
from delia_data.reading.source import DatasetPart, Report, Source, part_in_memory
from delia_data.records import Format, Record

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
