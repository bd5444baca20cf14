"""What a publication is made of: finished folders, each under a name of its own in the repository.

cache/        the pairs, a shard for each time the cache grew
task/         the task in its wordings
ratio-260/    a mixture, as plain Parquet             (form "plain")
lean/ratio-260.parquet    ... or as an index          (form "lean")
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from delia_data.bundled_cache import cache_path
from delia_data.errors import InputError
from delia_data.mixing import config_name, mix, read_task_rows, save_mixture
from delia_data.mixing.task_rows import TaskRows
from delia_data.outputs import FINISHED, MANIFEST, Manifest, file_sha256, read_manifest
from delia_data.tokens import add_token_to_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Form = Literal["plain", "lean"]
CACHE: Final = "cache"
TASK: Final = "task"
LEAN: Final = "lean"
_PAIRS: Final = "pairs*.parquet"
_MIXED_BY: Final = frozenset(
    {"ratio", "seed", "order", "on_short", "format", "select", "token", "decontaminate"}
)


@dataclass(frozen=True)
class Part:
    """One finished folder, as it is published.

    Attributes:
        name: Its name in the repository: `cache`, `task`, or a mixture's such as `ratio-4`.
        folder: Where it lies.
        manifest: Its manifest.
        form: Whether a mixture is published as rows or as an index.
        extra: Files that lie elsewhere, by their path in the repository: the index.
    """

    name: str
    folder: Path
    manifest: Manifest
    form: Form = "plain"
    extra: Mapping[str, Path] = field(default_factory=dict)

    def sources(self) -> dict[str, Path]:
        """Files of the part, by their path in the repository."""
        if self.form == "lean":
            return dict(self.extra)
        names = [*self.manifest.files, MANIFEST, FINISHED]
        return {f"{self.name}/{name}": self.folder / name for name in sorted(names)}

    def hashes(self) -> dict[str, str]:
        """SHA-256 of these files."""
        known = {f"{self.name}/{name}": sha for name, sha in self.manifest.files.items()}
        return {path: known.get(path) or file_sha256(file) for path, file in self.sources().items()}


def lean_file(name: str) -> str:
    """Path of a lean mixture's index in the repository."""
    return f"{LEAN}/{name}.parquet"


def read_parts(folders: Iterable[str | os.PathLike[str]]) -> dict[str, Part]:
    """Read finished folders of any kind, and hash their files again.

    A folder that `delia pull` wrote gives all its parts; `"bundled"` is the cache that comes with
    the package.

    Raises:
        UnfinishedError: A folder is not a finished output, or a file was changed since.
        InputError: It is of a kind that is not published, or two are of the same name.
    """
    parts: dict[str, Part] = {}
    for part in _parts(Path(cache_path(folder)) for folder in folders):
        if part.name in parts:
            raise InputError(
                f"{parts[part.name].folder} and {part.folder} are both {part.name}: "
                "publish one of them, or the other in a repository of its own"
            )
        parts[part.name] = part
    return parts


def _parts(folders: Iterable[Path]) -> Iterator[Part]:
    for folder in folders:
        manifest = read_manifest(folder, verify=True)
        if manifest.kind == "publication":
            mixtures = manifest.details["mixtures"]
            for part in _parts(
                folder / n for n in (CACHE, TASK, *mixtures) if (folder / n).is_dir()
            ):
                path = lean_file(part.name)
                if path in manifest.files:
                    part = replace(part, form="lean", extra={path: folder / path})
                yield part
        elif manifest.kind == "mixture":
            yield Part(config_name(manifest.settings["ratio"]), folder, manifest)
        elif manifest.kind in (CACHE, TASK):
            yield Part(manifest.kind, folder, manifest)
        else:
            raise InputError(
                f"{folder} holds an output of the kind {manifest.kind!r}: "
                "give folders of a cache, a task or mixtures"
            )


def mixed(
    task: Part,
    cache: Part,
    settings: Mapping[str, Any],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Part:
    """Mix a task and a cache.

    Args:
        task: The task.
        cache: The cache.
        settings: Those of a mixture's manifest, or fewer; the ratio at least.
        folder: Where to make a folder for it.
        tokenizer: What counts its tokens, if they are to be counted.

    Raises:
        InputError: It was mixed of several tasks or caches, which a publication does not have.
        RatioError: The ratio is wrong, or the cache is too small for it.
    """
    rows = read_task_rows(task.folder)
    if unknown := sorted(set(settings) - _MIXED_BY):
        raise InputError(
            f"{config_name(settings['ratio'])} was mixed with {', '.join(unknown)}, and cannot be "
            "mixed again here: give its folder as well"
        )
    asked = {k: v for k, v in settings.items() if k not in {"select", "token"}}
    if tokenizer is not None and rows.token:
        add_token_to_tokenizer(tokenizer, rows.token)  # it counts as one
    mixture = mix(rows.train, cache.folder, test=rows.test, token=rows.token or None, **asked)
    name = config_name(mixture.manifest.settings["ratio"])
    manifest = save_mixture(mixture, folder / name, tokenizer=tokenizer)
    return Part(name, folder / name, manifest)


def pair_shards(folder: Path) -> list[Path]:
    """The Parquet shards of a cache folder, in their order."""
    return sorted(folder.glob(_PAIRS))


def train_shards(folder: Path) -> list[Path]:
    """The Parquet files of a mixture's training rows, in their order."""
    return sorted(folder.glob("train*.parquet"))


def cache_ids(folder: Path) -> pa.ChunkedArray:
    """Content ids of the pairs of a cache, in their order."""
    columns = [pq.read_table(f, columns=["source_id"])["source_id"] for f in pair_shards(folder)]
    chunks = [chunk for column in columns for chunk in column.chunks]
    return pa.chunked_array(chunks, pa.string())


def check_mixture(part: Part, task: TaskRows | None, ids: pa.ChunkedArray | None) -> int:
    """Check that a mixture is made of a task and a cache, row by row.

    Args:
        part: The mixture.
        task: The task's rows, where the task is published too.
        ids: Ids of the cache's pairs, where the cache is published too.

    Returns:
        How many of the mixture's pairs are in the cache.

    Raises:
        InputError: A row of it is in neither.
    """
    columns = ["source", "source_id", "wording_id"]
    rows = pa.concat_tables([pq.read_table(f, columns=columns) for f in train_shards(part.folder)])
    pairs = rows.filter(pc.equal(rows["source"], "cache"))["source_id"]
    found = pc.sum(pc.is_in(pairs, ids)).as_py() or 0 if ids is not None else 0
    if ids is not None and found != len(pairs):
        raise InputError(
            f"{part.folder} has {len(pairs) - found} pairs that the cache does not have: "
            "mix it again from this cache, or publish it with its own"
        )
    if task is not None:
        known = {(row.record.id, row.wording_id) for row in task.train}
        of_task = rows.filter(pc.equal(rows["source"], "task"))
        worded = zip(
            of_task["source_id"].to_pylist(), of_task["wording_id"].to_pylist(), strict=True
        )
        if missing := sum(1 for row in worded if row not in known):
            raise InputError(
                f"{part.folder} has {missing} task rows that the task does not have: "
                "mix it again from this task, or publish it with its own"
            )
    return int(found)
