"""Output folders: atomic writes, locks, file hashes, append-only logs, manifests, finish markers.

    folder/
        train.parquet ...    the rows
        manifest.json        inputs with hashes, settings, row counts, dropped rows by reason
        FINISHED             hash of the manifest; written last, by atomic rename

Readers refuse a folder without the marker, so a killed run never passes for a finished one. A
manifest contains no times and no paths: equal inputs give equal bytes.

A file is written under a temporary name in the same folder, flushed, and renamed. The rename is
atomic, so a reader sees the old or the new file, never a part of it. While it is written, both
copies are on disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import mmap
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import field, fields
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    TypeAlias,
    TypeVar,
    cast,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from delia_data._version import __version__
from delia_data.errors import (
    ForeignFolderError,
    FormatError,
    InputError,
    LockedError,
    OutputError,
    SettingsError,
    UnfinishedError,
)

LOCK: Final = ".lock"

T = TypeVar("T")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` if the block succeeds.

    Raises:
        OutputError: The folder cannot be written to, or the disk is full.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
        _sync_folder(target.parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(NotADirectoryError):
            part.unlink(missing_ok=True)


def cache_home() -> Path:
    """Return the folder of caches: `DELIA_CACHE`, or `delia_data` in the user's cache folder."""
    base = os.environ.get("DELIA_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "delia_data"


def read_text_file(file: str | os.PathLike[str]) -> str:
    """Read a text file of the user's in UTF-8.

    Raises:
        FormatError: The file is not UTF-8 text.
        InputError: The file cannot be read.
    """
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text: {error.reason}; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; check the path") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file that a person can read, keys sorted, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def from_json(kind: type[T], values: Any, where: str) -> T:
    """Build a dataclass from JSON values.

    Args:
        kind: The dataclass.
        values: Its values, as `json.loads` returns them.
        where: Source of the values, for the error.

    Raises:
        FormatError: A value is missing or has the wrong type.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(
            f"{where} was written by another version, or was changed: {place}: {first['msg']}; "
            "run its command again"
        ) from error


Number = Annotated[float, Field(allow_inf_nan=False)]


def setting(
    default: Any,
    description: str,
    panel: str | None = None,
    *,
    names: Iterable[str] = (),
    complete: Iterable[str] = (),
    typed: Any = None,
    repr: bool = True,
    **bounds: Any,
) -> Any:
    """Return a dataclass field that is a setting, such as a flag or a key of a recipe.

    Args:
        default: Its default value, or a function that makes it; `MISSING` if it is required.
        description: Its meaning, which `--help` and the reference show.
        panel: Its panel in `--help`.
        names: Its names as a flag. Default: that of the field.
        complete: Values that the shell offers.
        typed: Its type as a flag. Default: that of the field.
        repr: Whether messages may show the value; False for secrets.
        bounds: Bounds as pydantic names them, such as `ge=0`.
    """
    metadata = {
        "description": description,
        "flag": {"panel": panel, "names": names, "complete": complete, "typed": typed},
        "schema": Field(description=description, **bounds),
    }
    if callable(default):
        return field(default_factory=default, metadata=metadata, repr=repr)
    return field(default=default, metadata=metadata, repr=repr)


def validate(kind: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Convert settings to the types of their fields.

    Args:
        kind: The dataclass, whose fields may be from `setting`.
        values: Values by field.

    Returns:
        The valid values, and a line for each of the others.
    """
    valid, problems, validators = {}, [], _validators(kind)
    for name, value in values.items():
        try:
            # YAML 1.1 reads 2e-4 as text; pydantic makes a number of it.
            valid[name] = validators[name].validate_python(value)
        except ValidationError as error:
            field = kind.__dataclass_fields__[name]
            flags = field.metadata.get("flag", {}).get("names", ())
            shown = "".join(f" ({flag})" for flag in flags[:1])
            shown += f" {value!r}" if field.repr else ""
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            message = message.replace("Input should be", "it must be", 1)
            problems.append(f"{name}{shown} is wrong: {message}")
    return valid, problems


@cache
def _validators(kind: Any) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    schemas = {each.name: each.metadata.get("schema", Field()) for each in fields(kind)}
    kinds: dict[str, Any] = {name: Annotated[hints[name], schemas[name]] for name in schemas}
    return {name: TypeAdapter(each) for name, each in kinds.items()}


class Settings:
    """Base of dataclasses of settings, which convert and check their values.

    Raises:
        InputError: Values have the wrong type or are out of bounds; the message names all.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        kind: Any = type(self)
        valid, problems = validate(
            kind, {each.name: getattr(self, each.name) for each in fields(kind)}
        )
        if problems:
            raise InputError("; ".join(problems))
        for name, value in valid.items():
            object.__setattr__(self, name, value)


def read_mapping(source: Path | Traversable, name: str, holds: str) -> dict[Any, Any]:
    """Read the mapping in a YAML file.

    Args:
        source: The file.
        name: Name of the file in errors.
        holds: Content that the file should have, for the error.

    Raises:
        InputError: The file cannot be read.
        SettingsError: It is not UTF-8 text or not a YAML mapping.
    """
    import yaml

    try:
        values = _load_yaml(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name} is not UTF-8 text: save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise SettingsError(f"{name}{line} is not YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SettingsError(f"{name} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{name} must hold a mapping of {holds}")
    return values


def _load_yaml(text: str) -> Any:
    """Read YAML text, and refuse a key that a mapping has twice: PyYAML takes the last one.

    Raises:
        yaml.YAMLError: It is not YAML, or a key is there twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value!r} is there twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)


def canonical_json(value: Any) -> bytes:
    """Encode a JSON value for a hash, so that equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash the bytes of a file.

    Raises:
        InputError: The file does not exist or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error


@contextmanager
def folder_lock(folder: str | os.PathLike[str], *, wait: bool = False) -> Iterator[None]:
    """Lock the folder for this process; the kernel releases the lock when the process ends.

    The file `.lock` remains, and marks the folder as an output of this package.

    Args:
        folder: The folder; created if it does not exist.
        wait: Wait until another process releases it.

    Raises:
        LockedError: Another process has locked it.
    """
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("a")
    except OSError as error:
        raise OutputError(f"{root} cannot be written: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise LockedError(
                f"{root} is being written by another process: wait for it, or give another folder"
            ) from error
        yield


def _sync_folder(folder: Path) -> None:
    """Flush the folder to disk, so that renames are durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_SYNC_INTERVAL_S: Final = 0.2
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_Row = TypeVar("_Row")


class JsonlLog(Generic[_Row]):
    """An append-only JSON Lines file of dataclass rows, with one writer at a time.

        append(rows) ──▶ one write            survives a kill of the process at once
                          └──▶ one fsync      survives a crash of the machine within a second:
                               for many       a thread syncs up to five times a second

    A line without a line end was cut short by a kill: reading skips it, and the next append
    removes it. The file is created by the first append.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, row: type[_Row], *, if_damaged: str) -> None:
        """Set the file without opening it.

        Args:
            path: The file; it does not have to exist.
            row: Dataclass of the rows; its values must be JSON values.
            if_damaged: End of the error about a damaged line, with the effect of its removal.
        """
        self.path = path
        self._row = cast(Any, row)
        self._names = tuple(field.name for field in fields(self._row))
        self._if_damaged = if_damaged
        self._file: io.FileIO | None = None
        self._error: OSError | None = None
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> JsonlLog[_Row]:
        """Return the log itself."""
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Close the log; an exception from the block takes precedence over one from closing."""
        with suppress(*([] if error is None else [OutputError])):
            self.close()

    def read(self, start: int = 0) -> Iterator[tuple[_Row, int, int]]:
        """Read the complete lines.

        Args:
            start: Offset in bytes of the first line to read.

        Yields:
            Each row, with the offset and the length of its line in bytes.

        Raises:
            OutputError: A line is damaged; the message names its file and number.
        """
        if not self.path.is_file():
            return
        with self.path.open("rb") as lines:
            lines.seek(start)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                yield self.parse(line, start), start, len(line)
                start += len(line)

    def parse(self, line: bytes, start: int) -> _Row:
        """Decode the line at an offset.

        Raises:
            OutputError: The line is damaged.
        """
        try:
            row: _Row = self._row(**json.loads(line.decode()))
        except (ValueError, TypeError) as error:
            with self.path.open("rb") as lines:
                number = lines.read(start).count(b"\n") + 1
            raise OutputError(
                f"{self.path}:{number}: the line is damaged: remove it, {self._if_damaged}"
            ) from error
        return row

    def append(self, *rows: _Row) -> int:
        """Write rows; return the number of bytes written.

        Raises:
            OutputError: The disk is full or gone. Rows written before stay.
        """
        self._check()
        content = "".join(
            _encode({name: getattr(row, name) for name in self._names}) + "\n" for row in rows
        ).encode()
        try:
            file = self._opened()
            left = memoryview(content)
            while left:
                left = left[file.write(left) or 0 :]
        except OSError as error:
            self._error = error
            self._check()
        self._dirty.set()
        return len(content)

    def sync(self) -> None:
        """Return when everything that was written survives a crash of the machine.

        Raises:
            OutputError: The disk is full or gone.
        """
        if self._file is not None and self._error is None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._error = error
        self._check()

    def close(self) -> None:
        """Sync and close the file; a later append opens it again.

        Raises:
            OutputError: The disk is full or gone.
        """
        if self._thread is not None:
            self._closing.set()
            self._dirty.set()
            self._thread.join()
            self._thread = None
            self._closing.clear()
        try:
            self.sync()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _opened(self) -> io.FileIO:
        """Return the open file, which ends with a complete line."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that a write error is raised here and not when the file is closed.
            self._file = self.path.open("a+b", buffering=0)
            size = self._file.seek(0, os.SEEK_END)
            if size:
                with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    end = content.rfind(b"\n") + 1
                if end < size:
                    self._file.truncate(end)
        if self._thread is None:
            self._thread = threading.Thread(target=self._sync_often, name="log", daemon=True)
            self._thread.start()
        return self._file

    def _sync_often(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._closing.wait(_SYNC_INTERVAL_S)
            self._dirty.clear()
            with suppress(OutputError):  # the next append, sync or close raises it
                self.sync()

    def _check(self) -> None:
        if self._error is not None:
            raise OutputError(
                f"{self.path} cannot be written: {self._error.strerror or self._error}; "
                "what was written before is complete: free some space and run again"
            ) from self._error


_WORTH_KEEPING_BYTES: Final = 4 << 20
_SETTLED_S: Final = 2.0


def known_sha256(path: str | os.PathLike[str]) -> str:
    """Return the hash of a file's bytes, from the last time if the file has not changed since.

    Raises:
        InputError: The file does not exist or cannot be read.
    """
    try:
        seen = Path(path).stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
    settled = abs(time.time() - max(seen.st_mtime, seen.st_ctime)) > _SETTLED_S
    if seen.st_size < _WORTH_KEEPING_BYTES or not settled:
        return file_sha256(path)
    whole = os.path.realpath(path)
    sign = [whole, seen.st_size, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns]
    name = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    note = cache_home() / "hashes" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        saved = json.loads(note.read_text(encoding="utf-8"))
        if saved["file"] == sign:
            return str(saved["sha256"])
    digest = file_sha256(path)
    with suppress(OSError, UnicodeError):  # the cache of hashes is optional
        write_json(note, {"file": sign, "sha256": digest})
    return digest


MANIFEST: Final = "manifest.json"
FINISHED: Final = "FINISHED"


class Manifest(BaseModel):
    """Description of an output and of everything that it depends on.

    Attributes:
        kind: Kind of output.
        settings: All settings that affect the bytes.
        inputs: Content hashes of the inputs by name.
        rows: Row counts by split or by source.
        dropped: Counts of dropped rows by reason.
        details: Other information, such as the model that wrote a cache.
        files: SHA-256 of all files of the output, by path relative to the folder.
        code_version: Version of this package that wrote the output.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cache", "task", "mixture", "adapter", "model", "evaluation", "publication"]
    settings: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    rows: dict[str, int] = Field(default_factory=dict)
    dropped: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    code_version: str = __version__


def weights_sha256(manifest: Manifest) -> str | None:
    """Return the hash of the trained weights of an adapter, and of what is exported from it.

    None if the output has no weights.
    """
    if recorded := manifest.inputs.get("weights"):
        return recorded
    weights = {name: sha for name, sha in manifest.files.items() if name.endswith(".safetensors")}
    return hashlib.sha256(canonical_json(weights)).hexdigest() if weights else None


def finish(folder: str | os.PathLike[str], manifest: Manifest) -> Manifest:
    """Hash the output's files, write the manifest, and finally the finish marker.

    Args:
        folder: The output folder; its hidden files and folders are excluded.
        manifest: The manifest; its `files` are set here.

    Returns:
        The manifest as written.
    """
    root = Path(folder)
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not _is_own(path.relative_to(root))
    )
    done = manifest.model_copy(update={"files": {n: file_sha256(root / n) for n in names}})
    write_json(root / MANIFEST, done.model_dump(mode="json"))
    write_text(root / FINISHED, file_sha256(root / MANIFEST) + "\n")
    return done


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Return whether the folder is a finished output: its marker matches its manifest."""
    root = Path(folder)
    try:
        return (root / FINISHED).read_text().strip() == file_sha256(root / MANIFEST)
    except (OSError, ValueError):
        return False


_COMMANDS: Final = {
    "cache": "delia sample",
    "task": "delia diversify",
    "mixture": "delia mix",
    "adapter": "delia train",
    "model": "delia export or delia prepare",
    "evaluation": "delia evaluate",
    "publication": "delia pull",
}
_SIGNS: Final = {
    **dict.fromkeys(("undiversified", "written", "judged", "answers"), "task"),
    "plan.json": "cache",
    "training.json": "adapter",
    "asking.json": "evaluation",
}
"""Names in an unfinished folder without a manifest, and the kind of output that has them."""


def _unfinished_kind(root: Path) -> str | None:
    with suppress(OSError, ValueError):
        return Manifest.model_validate_json((root / MANIFEST).read_text(encoding="utf-8")).kind
    return next((kind for name, kind in _SIGNS.items() if (root / name).exists()), None)


def read_manifest(folder: str | os.PathLike[str], *, verify: bool = False) -> Manifest:
    """Read the manifest of a finished output.

    Args:
        folder: The output folder.
        verify: Compare the hashes of all files.

    Raises:
        UnfinishedError: There is no folder, the finish marker is missing, or a file was changed.
    """
    root = Path(folder)
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise UnfinishedError(f"{root} {state}: give a folder that a command wrote")
    if not is_finished(root):
        kind = _unfinished_kind(root)
        holds = f", but an unfinished {kind}" if kind else ""
        raise UnfinishedError(
            f"{root} is not a finished output{holds}: no {FINISHED} marker fits a {MANIFEST} in "
            f"it; rerun {_COMMANDS[kind] if kind else 'the command that writes it'} with the same "
            "arguments, and it continues where it stopped"
        )
    try:
        manifest = Manifest.model_validate_json((root / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, not JSON, or unknown keys
        raise UnfinishedError(
            f"{root / MANIFEST} was written by another version of this package: make it again"
        ) from error
    if verify:
        for name, digest in manifest.files.items():
            if not os.path.isfile(root / name) or file_sha256(root / name) != digest:
                raise UnfinishedError(
                    f"{root / name} is not what its manifest says: make the folder again"
                )
    return manifest


def check_same_settings(
    where: str | os.PathLike[str],
    earlier: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    hint: str = "",
) -> None:
    """Refuse to resume a run with other settings, and show the differences.

    Args:
        where: Name of the run for the error.
        earlier: Settings of the earlier run.
        now: Settings of this run.
        hint: Another remedy, for the end of the error.

    Raises:
        SettingsError: A setting differs; the message names each with both values.
    """
    before, after = flattened(earlier), flattened(now)
    differing = [
        f"{name} was {before.get(name)!r} and is now {after.get(name)!r}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    if differing:
        raise SettingsError(
            f"{where} was begun with other settings ({'; '.join(differing)}): "
            f"give the earlier settings, or another folder{hint}"
        )


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to joined names, such as `sampling.top_p`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def check_folder_is_ours(
    folder: str | os.PathLike[str], known: frozenset[str], *, sign: str | None = None
) -> None:
    """Refuse to write into a folder with other content.

    Args:
        folder: The output folder; it does not have to exist.
        known: Names of the files and folders that the command writes.
        sign: File that an unfinished folder of the command must contain, because names such as
            `train.parquet` are common.

    Raises:
        ForeignFolderError: It is a file, or contains other names.
    """
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise ForeignFolderError(f"{root} is a file: give a folder that is empty or not there")
    if not root.is_dir():
        return
    names = {path.name for path in root.iterdir() if not path.name.startswith(".")}
    signed = sign is None or (root / sign).exists() or is_finished(root)
    others = sorted(names - known - {MANIFEST, FINISHED} if signed else names)
    if others:
        raise ForeignFolderError(
            f"{root} holds something else ({', '.join(others[:3])}): "
            "give a folder that is empty or not there"
        )


Update: TypeAlias = Callable[[float, float], None]
"""Function of the amount done and the total."""
ShowStep: TypeAlias = Callable[[str], AbstractContextManager[Update]]
"""Function of a step's title; its context yields a function that shows the progress."""


class Steps:
    """Steps of a command, each of which writes a folder inside the folder of the command.

    A finished step is not repeated.

    Attributes:
        out: Folder of the command.
        show_step: Shows the progress of a step.
    """

    TIMINGS: Final = "timings.json"

    def __init__(
        self,
        out: str | os.PathLike[str],
        show_step: ShowStep,
        *,
        file: str,
        settings: Mapping[str, Any],
        known: Collection[str],
    ) -> None:
        """Check the folder.

        Args:
            out: Folder of the command; it does not have to exist.
            show_step: Shows the progress of a step.
            file: Name of the file with the settings.
            settings: The settings; those of a rerun must be equal.
            known: Names of the other files and folders in the folder.

        Raises:
            ForeignFolderError: The folder contains something else.
            SettingsError: An earlier run in the folder had other settings.
        """
        self.out, self.show_step = Path(out), show_step
        self._file, self._settings = self.out / file, settings
        check_folder_is_ours(self.out, frozenset({file, self.TIMINGS, *known}), sign=file)
        if self._file.is_file():
            before = json.loads(self._file.read_text(encoding="utf-8"))
            check_same_settings(self.out, before, json.loads(json.dumps(settings)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder, and write the settings.

        Raises:
            LockedError: Another process works in the folder.
        """
        with folder_lock(self.out):
            write_json(self._file, self._settings)
            yield

    @property
    def seconds(self) -> dict[str, float]:
        """Duration of each step in seconds, by its name."""
        file = self.out / self.TIMINGS
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}

    def do(
        self, name: str, folder: Path | None, work: Callable[[Update], None], *, title: str = ""
    ) -> None:
        """Show a step, do it unless its folder is finished, and record its duration.

        Args:
            name: Name of the step.
            folder: Folder that the step writes; None repeats the step in every run.
            work: Does the step, and reports its progress.
            title: Title to show instead of the name.
        """
        began = time.monotonic()
        with self.show_step(title or name) as update:
            if folder is not None and is_finished(folder):
                update(1, 1)
                return
            work(update)
        write_json(self.out / self.TIMINGS, {**self.seconds, name: time.monotonic() - began})


def _is_own(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return hidden or relative.as_posix() in {MANIFEST, FINISHED}
