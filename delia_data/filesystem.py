"""`delia://`: mixtures as files, for processes that never import us; `fsspec` finds it by name.

    delia://ratio-4/train.parquet                             bundled task, bundled cache
    delia://ratio-4/cache=/data/pairs/seed=1/train.parquet    settings of `delia_mix` as segments
    delia://sha256-2c26.../train.parquet                      one finished mixture, by its hash

    load_dataset("parquet", data_files="delia://ratio-4/cache=/data/pairs/train.parquet")

Name the file of each split: a lone `*.parquet` would put the held-out rows into `train` as well.
Percent-encode `=`, `%`, `?` and `::` inside a value; slashes and the rest stand as they are.

The rows are those of `load_dataset("delia_mix", ...)`, whose builder writes them. A mixture is
made on first use into the folder of `cache_home()`, under the hash of all that it depends on:

    mixtures/<sha256>/    train.parquet, test.parquet, manifest.json, and FINISHED last

Settings come from the path, then from `storage_options={"delia": {...}}`, then from what `fsspec`
is configured with, such as the environment variable `FSSPEC_DELIA_CACHE=/data/pairs`. They cannot
be a query string: `?` is a wildcard to `fsspec` and to `datasets`.

`datasets` 5.2 resolves names with `glob`, then asks for each file by its URL. It keeps a remote
file under that URL and never asks whether it changed; offline it refuses it. So `glob` answers
with the third form, which stands for the same bytes for ever, and `local_file` says that what
remains of such a URL without its protocol is the path of a file on this machine.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from glob import has_magic
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, NoReturn
from urllib.parse import quote, unquote

from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from delia_data.builders.delia_mix import DeliaMix, DeliaMixConfig
from delia_data.errors import InputError, LockedError, OutputError, SettingsError
from delia_data.outputs import (
    MANIFEST,
    Manifest,
    atomic_path,
    cache_home,
    file_sha256,
    finish,
    folder_lock,
    is_finished,
    read_manifest,
)

_RESOLVED: Final = re.compile(r"sha256-([0-9a-f]{64})(/.*)?")
_OPTION: Final = re.compile(r"(\w+)=(.*)", re.DOTALL)
_QUERY: Final = re.compile(r"\?\w+=")
# What a last segment must look like to be a file, and not the end of a setting's value.
_FILE: Final = re.compile(r"[^=]*\.parquet|\*{1,2}|" + re.escape(MANIFEST))
# What `fsspec` and `datasets` pass along to every file system.
_FOREIGN: Final = frozenset(
    {"asynchronous", "auto_mkdir", "block_size", "compression", "encoding", "errors", "expand"}
    | {"listings_expiry_time", "loop", "max_paths", "mode", "newline", "use_listings_cache"}
)
_ONE_FILE: Final = 1 << 62  # bytes in a shard
_WAIT_S: Final = 0.1


class NoSuchFileError(InputError, FileNotFoundError):
    """There is no such file in a mixture."""


class DeliaFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The read-only file system of mixtures.

    Args:
        **options: Settings of `delia_mix`, for paths that do not say them themselves.
    """

    protocol: ClassVar[str] = "delia"
    local_file: ClassVar[bool] = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._options = {key: value for key, value in options.items() if key not in _FOREIGN}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Path without protocol, one segment a setting; of a resolved one, the local path."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        stripped: str = super()._strip_protocol(path)
        resolved = _RESOLVED.fullmatch(stripped)
        if resolved:
            return f"{_root() / resolved[1]}{resolved[2] or ''}"
        return stripped if stripped.startswith("/") else _canonical(stripped)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Describe a file, with its `size`, `sha256` and `resolved` name, or a folder.

        Asking about a file makes the mixture.

        Raises:
            NoSuchFileError: The mixture has no such file.
            InputError: The path or a setting is wrong.
            UnfinishedError: The name is a hash, and no finished mixture has it.
        """
        name: str = self._strip_protocol(path)
        if not name.startswith("/"):
            settings, file = self._parse(name)
            if file is None:
                return _folder_info(name)
            folder = _materialise(settings)
        elif _is_mixture(Path(name)):
            read_manifest(name)
            return _folder_info(name)
        else:
            folder, file = Path(name).parent, Path(name).name
            if not _is_mixture(folder):
                raise InputError(f"{name} is not a file of a mixture: {_HINT}")
        found = {entry["name"].rpartition("/")[2]: entry for entry in _entries(folder, name)}
        if file not in found:
            raise NoSuchFileError(f"delia://{name} is not there: it holds {', '.join(found)}")
        return found[file]

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List the files of a mixture; of the root, the ratios that `delia_mix` lists."""
        name: str = self._strip_protocol(path)
        if not name:
            entries = [_folder_info(config.name) for config in DeliaMix.BUILDER_CONFIGS]
        elif (info := self.info(name))["type"] == "file":
            entries = [info]
        else:
            resolved = name.startswith("/")
            folder = Path(name) if resolved else _materialise(self._parse(name)[0])
            entries = _entries(folder, f"{name}/")
        return entries if detail else [entry["name"] for entry in entries]

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """Find files; the names that come back are resolved: they hold the mixture's hash."""
        _refuse_query(path)
        detail = kwargs.pop("detail", False)
        name: str = self._strip_protocol(path)
        found: dict[str, Any] = {}
        if not has_magic(name):
            # The inherited one asks `exists`, which hides why a mixture cannot be made.
            found[name] = self.info(name)
        else:
            found = super().glob(path, maxdepth, detail=True, **kwargs)
        # A local path stays as it is: `datasets` wants as many hidden folders as were asked for.
        if not name.startswith("/"):
            names = {key: info.get("resolved", key) for key, info in found.items()}
            found = {names[key]: {**info, "name": names[key]} for key, info in found.items()}
        return found if detail else list(found)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Tell whether there is such a file or folder; a wrong setting is an error."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def checksum(self, path: str) -> int:
        """SHA-256 of a file's bytes, as a number."""
        return int(self._file(path)["sha256"], 16)

    def ukey(self, path: str) -> str:
        """SHA-256 of a file's bytes, in hexadecimal."""
        return str(self._file(path)["sha256"])

    def modified(self, path: str) -> datetime:
        """When the file was made."""
        return datetime.fromtimestamp(os.stat(self._local(path)).st_mtime, UTC)

    created = modified

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> BinaryIO:
        """The local file; `fsspec` opens through here."""
        if mode != "rb":
            self._refuse(path)
        opened: BinaryIO = LocalFileSystem().open(self._local(path), mode)
        return opened

    def _refuse(self, path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Write nothing."""
        raise OutputError(f"{path} cannot be changed: delia:// is read-only")

    mkdir = makedirs = rmdir = rm = rm_file = copy = cp_file = mv = put = put_file = _refuse
    pipe_file = touch = _refuse

    def _file(self, path: str) -> dict[str, Any]:
        info = self.info(path)
        if info["type"] != "file":
            raise InputError(f"{path} is a folder: {_HINT}")
        return info

    def _local(self, path: str) -> str:
        return str(self._strip_protocol(self._file(path)["resolved"]))

    def _parse(self, path: str) -> tuple[DeliaMixConfig | None, str | None]:
        """Settings and file name that a path says; no settings for the root.

        Raises:
            InputError: It is not a path of ours, or a setting in it is wrong.
        """
        _refuse_query(path)
        if not path:
            return None, None
        name, *segments = path.split("/")
        file = segments.pop() if segments and not _OPTION.fullmatch(segments[-1]) else None
        options = dict(self._options)
        said = set()
        for segment in segments:
            option = _OPTION.fullmatch(segment)
            if option is None or option[1] in said:
                trouble = "is there twice" if option else "is neither a setting nor a file"
                raise InputError(f"{unquote(segment)!r} in delia://{path} {trouble}: {_HINT}")
            said.add(option[1])
            options[option[1]] = _value(option[1], unquote(option[2]))
        _check_keys(options, f"delia://{path}")
        return DeliaMixConfig(name=name, **options), file


_HINT: Final = "write delia://ratio-4/cache=/data/pairs/train.parquet, or leave settings out"


def _root() -> Path:
    return cache_home() / "mixtures"


def _is_mixture(folder: Path) -> bool:
    """Tell whether a local path is the place of a mixture, so that we open nothing else."""
    return folder.parent == _root() and _RESOLVED.fullmatch(f"sha256-{folder.name}") is not None


def _canonical(path: str) -> str:
    """The path with every setting in one segment: slashes inside its value are encoded.

    A value goes on until the next setting or the file, so `cache=/data/pairs` needs no encoding.
    """
    name, *segments = path.split("/")
    file = [segments.pop()] if segments and _FILE.fullmatch(segments[-1]) else []
    joined: list[str] = []
    for segment in segments:
        if joined and not _OPTION.fullmatch(segment):
            joined[-1] += f"/{segment}"
        else:
            joined.append(segment)
    options = [_OPTION.fullmatch(segment) for segment in joined]
    encoded = [
        f"{option[1]}={quote(unquote(option[2]), safe='')}" if option else segment
        for option, segment in zip(options, joined, strict=True)
    ]
    return "/".join([name, *encoded, *file])


def _refuse_query(path: str) -> None:
    if _QUERY.search(path):
        raise InputError(
            f"{path} has a query string, and ? is a wildcard there: give settings as segments of "
            "the path, such as delia://ratio-4/cache=/data/pairs/seed=1/train.parquet"
        )


def _value(key: str, text: str) -> Any:
    """The value that a segment says: a number or true or false where the setting is one."""
    defaults = {field.name: field.default for field in dataclasses.fields(DeliaMixConfig)}
    if not isinstance(defaults.get(key), bool | int | float):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_keys(options: Mapping[str, Any], where: str) -> None:
    known = DeliaMixConfig.keys()
    unknown = [key for key in options if key not in known]
    if not unknown:
        return
    nearest = {key: difflib.get_close_matches(key, known, n=1) for key in unknown}
    named = [f"{k!r}" + (f" (did you mean {n[0]!r}?)" if n else "") for k, n in nearest.items()]
    raise SettingsError(
        f"{where} has unknown settings, {', '.join(named)}: it takes {', '.join(known)}; "
        "an = inside a path is written %3D"
    )


def _materialise(config: DeliaMixConfig | None) -> Path:
    """Folder of a mixture, made on first use; other processes that ask for it wait.

    Raises:
        InputError: A setting is wrong, an input is not there, or the cache is too small.
    """
    if config is None:
        raise InputError(f"delia:// itself is no mixture: {_HINT}")
    sha256 = config.sha256()
    folder = _root() / sha256
    if not is_finished(folder):
        work = _root() / f".{sha256}"
        with _waiting_lock(work):
            if not is_finished(folder):
                _make(config, sha256, work / "part", folder)
    return folder


def _make(config: DeliaMixConfig, sha256: str, part: Path, folder: Path) -> None:
    """Let the builder write Parquet, and add the manifest and the marker."""
    shutil.rmtree(part, ignore_errors=True)
    builder = DeliaMix(config_name=config.name, cache_dir=str(part / "hf"), **config.settings())
    builder.download_and_prepare(
        str(part / "parquet"), file_format="parquet", max_shard_size=_ONE_FILE
    )
    if builder.config.sha256() != sha256:
        raise InputError("an input of delia:// changed while it was read: load it again")
    shutil.rmtree(folder, ignore_errors=True)
    for split in builder.info.splits:
        with atomic_path(folder / f"{split}.parquet") as target:
            (part / "parquet" / f"{builder.dataset_name}-{split}.parquet").rename(target)
    finish(folder, Manifest.model_validate_json(builder.info.description))
    shutil.rmtree(part)


@contextmanager
def _waiting_lock(folder: Path) -> Iterator[None]:
    """Hold a folder as soon as no other process or thread does."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(folder_lock(folder))
                break
            except LockedError:
                time.sleep(_WAIT_S)
        yield


def _entries(folder: Path, asked: str) -> list[dict[str, Any]]:
    """The files of a finished mixture, named beside the path that was asked for.

    Raises:
        UnfinishedError: There is no finish marker.
    """
    hashes = read_manifest(folder).files | {MANIFEST: file_sha256(folder / MANIFEST)}
    return [
        {
            "name": f"{asked.rpartition('/')[0]}/{file}",
            "resolved": f"sha256-{folder.name}/{file}",
            "size": (folder / file).stat().st_size,
            "type": "file",
            "sha256": sha256,
            "etag": sha256,
        }
        for file, sha256 in hashes.items()
    ]


def _folder_info(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}
