"""The parts of a publication: finished folders, each under its own name in the repository.

cache/        the pairs, one shard for each time the cache grew
task/         the task in its wordings
ratio-260/    a mixture, as Parquet
README.md  manifest.json  FINISHED    the card, and the manifest of all parts

A repository of a model has the files of one adapter or one model at the top, where libraries look
for them, or the two folders that `delia export` writes:

adapter_config.json ...  manifest.json  FINISHED    the adapter, or the model
model/  adapter/    instead: the model with the token's row, and LoRA for it
evaluation/         numbers and answers of its evaluation
publication/        manifest.json and FINISHED of all parts
README.md           the card
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict

from delia_data.bundled_cache import cache_path
from delia_data.errors import FormatError, InputError
from delia_data.hub.client import RepoType, is_name
from delia_data.mixing import TaskRows, config_name, mix, parse_ratio, read_task_rows, save_mixture
from delia_data.models import DEFAULT_MODEL, DEFAULT_MODEL_SOURCE
from delia_data.outputs import (
    FINISHED,
    MANIFEST,
    Manifest,
    canonical_json,
    file_sha256,
    read_manifest,
    weights_sha256,
    write_json,
    write_text,
)

CARD: Final = "README.md"
CACHE: Final = "cache"
TASK: Final = "task"
SOURCES: Final = (CACHE, TASK)
MODEL: Final = "model"
ADAPTER: Final = "adapter"
EVALUATION: Final = "evaluation"
MODELS: Final = (MODEL, ADAPTER, EVALUATION)
NAMED: Final = (*SOURCES, *MODELS)
"""Names of all parts but mixtures, which are named by their ratio."""
PUBLICATION: Final = "publication"
"""Folder of the manifest of all parts in a repository of a model."""
_NUMBERS: Final = "evaluation.json"
_ADAPTER_CONFIG: Final = "adapter_config.json"
_SETTINGS: Final = ("recipe.yaml", "training.json")
"""Files of an adapter with the settings of its training."""
_PATHS: Final = ("watch_pairs", "watch_task")
"""Settings that may be paths, besides the model."""
PICTURES: Final = "pictures"
"""Folder of the card's figures in a repository of version 0.1.0."""
LEAN: Final = "lean"
"""Folder of mixtures as indexes over the cache in a repository of version 0.1.0."""
_PATH: Final = re.compile(
    rf"(?:{'|'.join(NAMED)}|{PICTURES}|{LEAN}|ratio-[\w.+-]+)(?:/(?!\.)[^/\\\0]+)+"
)
_ROOT_PATH: Final = re.compile(rf"(?!\.|(?:{CARD}|{FINISHED})$)[^/\\\0]+")


@dataclass(frozen=True)
class Part:
    """A finished folder to publish.

    Attributes:
        name: Its name: `cache`, `task`, `model`, ..., or a mixture's such as `ratio-4`.
        folder: The local folder.
        manifest: Its manifest.
        in_root: Whether its files are at the top of the repository, not in a folder of its name.
        edited: Files with other contents than in the folder.
        base_model: Of a model: its base model's name on the Hub, or that of a local folder.
    """

    name: str
    folder: Path
    manifest: Manifest
    in_root: bool = False
    edited: Mapping[str, Path] = field(default_factory=dict)
    base_model: str = ""

    def sources(self) -> dict[str, Path]:
        """Return the local files by their path in the repository."""
        return {
            self._path(name): self.edited.get(name, self.folder / name)
            for name in sorted([*self.manifest.files, MANIFEST, FINISHED])
        }

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the files by their path, without a finish marker at the top."""
        hashes = {self._path(name): sha for name, sha in self.manifest.files.items()}
        return {
            path: hashes.get(path) or file_sha256(file)
            for path, file in self.sources().items()
            if path != FINISHED
        }

    def _path(self, name: str) -> str:
        return name if self.in_root else f"{self.name}/{name}"


def read_parts(folders: Iterable[str | os.PathLike[str]]) -> dict[str, Part]:
    """Read finished folders of any kind, and verify the hashes of their files.

    Returns:
        The parts by name.

    Raises:
        UnfinishedError: A folder is not a finished output, or a file has changed since.
        InputError: A folder is of another kind, or two parts have the same name.
    """
    parts: dict[str, Part] = {}
    for part in _parts(Path(cache_path(folder)) for folder in folders):
        if part.name in parts:
            raise InputError(
                f"{parts[part.name].folder} and {part.folder} are both {part.name}: "
                "give one of them, and publish the other in a repository of its own"
            )
        parts[part.name] = part
    if not parts:
        raise InputError(
            "no folders were given: give those of a task, a cache, or mixtures, or of an adapter"
        )
    if len({name in MODELS for name in parts}) > 1:
        raise InputError(
            f"{', '.join(parts)} were given: publish a model in a repository of its own, without "
            "a task, a cache, or mixtures"
        )
    return parts


def repo_type_of(parts: Iterable[str]) -> RepoType:
    """Return the type of repository that holds these parts."""
    return "model" if any(name in MODELS for name in parts) else "dataset"


def home_of(repo_type: RepoType) -> str:
    """Return the path of the manifest of all parts, without the file's name."""
    return f"{PUBLICATION}/" if repo_type == "model" else ""


def _parts(folders: Iterable[Path]) -> Iterator[Part]:
    for folder in folders:
        if not (folder / MANIFEST).is_file() and (folder / MODEL / MANIFEST).is_file():
            for name in (MODEL, ADAPTER):  # what delia export wrote
                yield Part(name, folder / name, read_manifest(folder / name, verify=True))
            yield from _evaluation_in(folder)
            continue
        manifest = read_manifest(folder, verify=True)
        if manifest.kind in ("adapter", "model"):
            yield Part(MODEL, folder, manifest, in_root=True)
            yield from _evaluation_in(folder)
        elif manifest.kind == "publication":
            names = [*SOURCES, *manifest.details["mixtures"]]
            yield from _parts(folder / name for name in names if (folder / name).is_dir())
        elif manifest.kind == "mixture":
            yield Part(config_name(manifest.settings["ratio"]), folder, manifest)
        elif manifest.kind == EVALUATION and _NUMBERS not in manifest.files:
            raise InputError(f"{folder} has no {_NUMBERS}: give a folder of delia evaluate")
        else:
            yield Part(manifest.kind, folder, manifest)


def _evaluation_in(folder: Path) -> Iterator[Part]:
    if (folder / EVALUATION / FINISHED).is_file():
        manifest = read_manifest(folder / EVALUATION, verify=True)
        yield Part(EVALUATION, folder / EVALUATION, manifest)


def name_base_model(parts: Mapping[str, Part], given: str | None, folder: Path) -> dict[str, Part]:
    """Set the base model of an adapter or model to its name on the Hub, so that it loads elsewhere.

    Its configuration and its settings get the name in place of a local path, and the names of
    other local inputs in place of theirs. The card that PEFT wrote is left out.

    Args:
        parts: The parts.
        given: Name of the base model on the Hub; default: that of the training.
        folder: Folder for files with other contents.

    Returns:
        The parts by name.

    Raises:
        InputError: The base model is no Hub name, or an adapter's is unknown.
    """
    if given is not None and (MODEL not in parts or not is_name(given)):
        raise InputError(f"{given} was given as base model: it is org/name, of an adapter or model")
    if MODEL not in parts:
        return dict(parts)
    trained = parts[MODEL].manifest
    base = given or base_model_of(trained)
    if not is_name(base) and _is_adapter(parts[MODEL]):
        raise InputError(
            f"it was trained from {trained.settings.get('model')}, which is no name on the Hub, "
            "and cannot be loaded without it: give the name with --base-model org/name"
        )
    named = parts.keys() & {MODEL, ADAPTER}
    return {**parts, **{name: _named(parts[name], base, folder / name) for name in named}}


def _named(part: Part, base: str, folder: Path) -> Part:
    """Return an adapter or a model whose files name its base model."""
    before, files, edited = part.manifest, dict(part.manifest.files), dict[str, Path]()
    if part.in_root:
        files.pop(CARD, None)

    def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
        public = {name: Path(value).name for name in _PATHS if (value := settings.get(name))}
        public = {name: text for name, text in public.items() if os.path.exists(settings[name])}
        if (settings.get("model"), base) != (DEFAULT_MODEL, DEFAULT_MODEL_SOURCE):
            public["model"] = base
        return {**settings, **public}

    def edit(name: str, change: Callable[[Any], Any]) -> None:
        text = (part.folder / name).read_text(encoding="utf-8")
        values = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
        if (changed := change(values)) == values:
            return
        edited[name] = folder / name
        if name.endswith(".json"):
            write_json(edited[name], changed)
        else:
            text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
            write_text(edited[name], text)
        files[name] = file_sha256(edited[name])

    if _is_adapter(part):
        edit(_ADAPTER_CONFIG, lambda config: {**config, "base_model_name_or_path": base})
    for name in _SETTINGS:
        if part.in_root and name in files:
            edit(name, without_paths)
    settings = without_paths(before.settings)
    manifest = before.model_copy(update={"files": files, "settings": settings})
    if manifest != before:
        edited |= {name: folder / name for name in (MANIFEST, FINISHED)}
        write_json(edited[MANIFEST], manifest.model_dump(mode="json"))
        write_text(edited[FINISHED], file_sha256(edited[MANIFEST]) + "\n")
    return replace(part, manifest=manifest, edited=edited, base_model=base)


def _is_adapter(part: Part) -> bool:
    """Return whether a part is an adapter that needs its base model."""
    return part.in_root and _ADAPTER_CONFIG in part.manifest.files


def base_model_of(manifest: Manifest) -> str:
    """Return the name of the model that an adapter or a model was trained from.

    It is the name on the Hub, or that of a local folder without its path.
    """
    model = str(manifest.settings.get("model"))
    if model == DEFAULT_MODEL:
        return DEFAULT_MODEL_SOURCE
    local = os.path.exists(model) or not is_name(model)
    return Path(model).name if local else model


def mix_ratios(parts: Mapping[str, Part], ratios: Iterable[float], folder: Path) -> dict[str, Part]:
    """Mix the task with the cache at each ratio, with the default settings of `mix`.

    Returns:
        The mixtures by name.

    Raises:
        InputError: The task or the cache is missing, or a mixture was given as a folder too.
        RatioError: A ratio is invalid, or the cache is too small for it.
    """
    mixtures: dict[str, Part] = {}
    for ratio in ratios:
        if missing := [name for name in (TASK, CACHE) if name not in parts]:
            raise InputError(
                f"a ratio mixes a task with a cache, and the folder of the "
                f"{' and of the '.join(missing)} is missing: give it as well"
            )
        rows, name = read_task_rows(parts[TASK].folder), config_name(parse_ratio(ratio))
        if name in parts:
            raise InputError(f"{name} was given as a folder and as a ratio: leave one out")
        mixture = mix(rows, parts[CACHE].folder, ratio=ratio)
        mixtures[name] = Part(name, folder / name, save_mixture(mixture, folder / name))
    return mixtures


def check_weights(parts: Mapping[str, Part], before: Manifest | None) -> None:
    """Check that an evaluation is that of the model which is given, or else published.

    Evaluations of earlier versions do not tell whose weights they evaluated.

    Raises:
        InputError: The evaluation is that of other weights.
    """
    evaluation = parts.get(EVALUATION)
    evaluated = None if evaluation is None else evaluation.manifest.inputs.get("weights")
    if evaluation is None or evaluated is None:
        return
    if MODEL in parts:
        weights = weights_sha256(parts[MODEL].manifest)
    elif before is not None and MODEL in before.details:
        files = files_of(before, [MODEL])
        weights = weights_sha256(part_manifest(before, MODEL).model_copy(update={"files": files}))
    else:
        return
    if weights != evaluated:
        raise InputError(
            f"{evaluation.folder} evaluates other weights than those of the "
            f"{'given' if MODEL in parts else 'published'} model, which may be trained again: "
            "rerun delia evaluate into a new folder, or leave this one out"
        )


def check_evaluation(parts: Mapping[str, Part], before: Manifest, repo: str) -> None:
    """Check that the evaluation of a model, and its LoRA, do not stay with another model.

    Raises:
        InputError: The given model differs from the published one, and they are not given.
    """
    if MODEL not in parts:
        return
    old, new = row_files(files_of(before, [MODEL])), row_files(parts[MODEL].hashes())
    if old and old != new:
        for name in (ADAPTER, EVALUATION):
            if name in before.details and name not in parts:
                raise InputError(
                    f"{repo} holds the {name} of another model than the given one: give its "
                    "folder too, or give --replace-all to remove what is not given"
                )


def train_shards(folder: Path) -> list[Path]:
    """Return the Parquet files of a mixture's training rows, in their order."""
    return sorted(folder.glob("train*.parquet"))


def pair_shards(folder: Path) -> list[Path]:
    """Return the Parquet shards of a cache folder, in their order."""
    return sorted(folder.glob("pairs*.parquet"))


def cache_ids(folder: Path) -> pa.ChunkedArray:
    """Return the content ids of the pairs of a cache, in their order."""
    columns = [pq.read_table(f, columns=["source_id"])["source_id"] for f in pair_shards(folder)]
    chunks = [chunk for column in columns for chunk in column.chunks]
    return pa.chunked_array(chunks, pa.string())


def check_mixture(part: Part, task: TaskRows | None, ids: pa.ChunkedArray | None) -> int:
    """Check row by row that a mixture was made from a task and a cache.

    Returns:
        The number of the mixture's pairs that are in the cache.

    Raises:
        InputError: A row is in neither of them.
    """
    columns = ["source", "source_id", "wording_id"]
    rows = pa.concat_tables([pq.read_table(f, columns=columns) for f in train_shards(part.folder)])
    pairs = rows.filter(pc.equal(rows["source"], "cache"))["source_id"]
    shared = pc.sum(pc.is_in(pairs, ids)).as_py() or 0 if ids is not None else 0
    if ids is not None and shared != len(pairs):
        raise InputError(
            f"{part.folder} has {len(pairs) - shared} pairs that the cache does not have: "
            "mix it again from this cache, or publish it with its own cache"
        )
    if task is not None:
        of_task = {(row.record.id, row.wording_id) for row in task.train}
        of_contrast = {(row.record.id, None) for row in task.contrast}
        for source, expected in (("task", of_task), ("contrast", of_contrast)):
            some = rows.filter(pc.equal(rows["source"], source)).select(columns[1:])
            keys = (tuple(row.values()) for row in some.to_pylist())
            if missing := sum(key not in expected for key in keys):
                raise InputError(
                    f"{part.folder} has {missing} {source} rows that the task does not have: "
                    "mix it again from this task, or publish it with its own task"
                )
    return int(shared)


def part_of(path: str) -> str:
    """Return the name of the part that a path in the repository belongs to."""
    first, slash, rest = path.partition("/")
    if not slash:
        return MODEL
    return rest.removesuffix(".parquet") if first == LEAN else first


def is_part_path(path: str, *, in_root: bool) -> bool:
    """Return whether a path is within the folder of a part, without hidden files or `..`.

    Args:
        path: The path in the repository.
        in_root: Whether a part may have its files at the top of the repository.
    """
    return bool(_PATH.fullmatch(path) or (in_root and _ROOT_PATH.fullmatch(path)))


def files_of(manifest: Manifest, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the files of some parts, by path."""
    wanted = set(names)
    return {path: sha for path, sha in manifest.files.items() if part_of(path) in wanted}


def row_files(files: Mapping[str, str]) -> dict[str, str]:
    """Return the files with content: two publications with equal ones have the same content.

    These are the rows of data, and the files of models except their manifests.
    """
    markers = (MANIFEST, FINISHED)
    return {
        path: sha
        for path, sha in sorted(files.items())
        if path.endswith((".parquet", ".jsonl"))
        or (part_of(path) in MODELS and path.rsplit("/", 1)[-1] not in markers)
    }


def publication_manifest(
    parts: Mapping[str, Part],
    staying: Manifest | None,
    *,
    license: str,
    citation: str | None,
    allowed: Mapping[str, int],
    pairs_in_cache: Mapping[str, int],
) -> Manifest:
    """Make the manifest of a publication, except for its version."""
    before = staying.details if staying else {}
    stay = [name for name in (*NAMED, *before.get("mixtures", ())) if name not in parts]
    files = files_of(staying, stay) if staying else {}
    for part in parts.values():
        files |= part.hashes()
    details: dict[str, Any] = {
        name: _part_details(parts[name]) if name in parts else before[name]
        for name in NAMED
        if name in parts or name in before
    }
    mixtures = dict(before.get("mixtures", {}))
    for name in parts.keys() - set(NAMED):
        entry = {"form": "plain", **_part_details(parts[name])}
        mixtures[name] = {**entry, "pairs_in_cache": pairs_in_cache[name]}
    details["mixtures"] = dict(sorted(mixtures.items(), key=lambda m: m[1]["settings"]["ratio"]))
    details["citation"] = citation or before.get("citation")
    details["allowed"] = dict(allowed)
    details["shared"] = {
        "once_bytes": sum(details[name]["bytes"] for name in SOURCES if name in details),
        "plain_copies_bytes": sum(m["bytes"] for m in mixtures.values()),
        "pairs_in_mixtures": sum(m["rows"].get("cache", 0) for m in mixtures.values()),
        "of_these_in_cache": sum(m["pairs_in_cache"] for m in mixtures.values()),
    }
    rows = {
        f"{name}_{key}": count
        for name in NAMED
        for key, count in details.get(name, {}).get("rows", {}).items()
    }
    mixed = {name: [m["form"], m["settings"]] for name, m in details["mixtures"].items()}
    content = {"licence": license, "files": row_files(files), "mixtures": mixed}
    return Manifest(
        kind="publication",
        settings={"licence": license},
        inputs={"content": hashlib.sha256(canonical_json(content)).hexdigest()},
        rows={**rows, "mixtures": len(mixtures)},
        details=details,
        files=dict(sorted(files.items())),
    )


def _part_details(part: Part) -> dict[str, Any]:
    """Return the entry of a part in the publication's manifest."""
    details = part.manifest.model_dump(mode="json", exclude={"kind", "files"})
    if part.name == MODEL:
        details |= {"kind": part.manifest.kind, "base_model": part.base_model}
        details["is_adapter"] = _is_adapter(part)
    elif part.name == EVALUATION:
        written = json.loads((part.folder / _NUMBERS).read_text(encoding="utf-8"))
        details["numbers"] = written["numbers"]["model"]
        details["card"] = (part.folder / CARD).read_text(encoding="utf-8")
    elif part.name == TASK:
        details["examples"] = [row.record.query for row in read_task_rows(part.folder).train[:3]]
    return {**details, "bytes": sum(file.stat().st_size for file in part.sources().values())}


class _PartDetails(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    settings: dict[str, Any]
    inputs: dict[str, str] = {}
    rows: dict[str, int] = {}
    dropped: dict[str, int] = {}
    details: dict[str, Any] = {}
    examples: list[str] = []
    code_version: str
    bytes: int


class _ModelDetails(_PartDetails):
    kind: Literal["adapter", "model"]
    base_model: str
    is_adapter: bool


class _Number(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    value: float


class _EvaluationDetails(_PartDetails):
    numbers: dict[str, _Number]
    card: str


class _Counted(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    tokens: dict[str, int] = {}


class _MixtureDetails(_PartDetails):
    details: _Counted = _Counted()  # type: ignore[assignment]
    form: Literal["plain", "lean"]
    pairs_in_cache: int


class _Details(BaseModel):
    model_config = ConfigDict(strict=True)

    cache: _PartDetails | None = None
    task: _PartDetails | None = None
    model: _ModelDetails | None = None
    adapter: _PartDetails | None = None
    evaluation: _EvaluationDetails | None = None
    mixtures: dict[str, _MixtureDetails]
    citation: str | None = None


def check_publication(manifest: Manifest) -> None:
    """Check the parts of a downloaded manifest that this package relies on.

    Raises:
        FormatError: A path leaves the folders of the parts, or an entry has another form.
        pydantic.ValidationError: An entry is missing, or has another type.
    """
    details = _Details.model_validate(manifest.details)
    in_root = details.model is not None
    if strange := [path for path in manifest.files if not is_part_path(path, in_root=in_root)]:
        raise FormatError(f"a publication does not have files such as {strange[0]!r}")
    for key in ("content", "version", "licence"):
        value = (manifest.inputs if key == "content" else manifest.settings).get(key)
        if not isinstance(value, str):
            raise FormatError(f"the publication has no {key}")
    for name, mixture in details.mixtures.items():
        if config_name(parse_ratio(mixture.settings.get("ratio"))) != name:
            raise FormatError(f"{name} has another ratio in its settings")
        if not isinstance(mixture.settings.get("format"), str):
            raise FormatError(f"{name} has no format in its settings")


def part_manifest(manifest: Manifest, name: str) -> Manifest:
    """Return the manifest of a part from the manifest of its publication."""
    mixture = manifest.details["mixtures"].get(name)
    entry = mixture or manifest.details[name]
    kind = "mixture" if mixture else entry.get("kind", name)
    keys = ("settings", "inputs", "rows", "dropped", "details", "code_version")
    return Manifest.model_validate({"kind": kind, **{k: entry[k] for k in keys if k in entry}})


def refuse_lean(where: str, manifest: Manifest, names: Iterable[str]) -> None:
    """Refuse mixtures that version 0.1.0 published as indexes, which nothing reads anymore.

    Raises:
        InputError: One of the parts is such a mixture.
    """
    mixtures = manifest.details["mixtures"]
    if lean := [name for name in names if mixtures.get(name, {}).get("form") == "lean"]:
        raise InputError(
            f"{where} holds {', '.join(lean)} in the lean form of delia_data 0.1, which this "
            "version does not read: run delia pull with delia_data 0.1, and push that folder with "
            "this version"
        )
