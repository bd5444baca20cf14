"""The pair store: what a cache is on disk, while it grows and when it is done.

    folder/
        plan.json                 settings of the run; a rerun with others is refused
        sampled-00000-000.jsonl   one finished request a line, kept or rejected, while it runs
        pairs-00000.parquet       the kept pairs, once the run is done
        rejected-00000.parquet    what was not kept, and why
        queries/                  queries that a model wrote, where one did
        manifest.json
        FINISHED

A cache can grow: what is sampled then makes the next generation, `pairs-00001.parquet`, and the
files before it stay as they are. The lines of a generation go when its Parquet files are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from delia_data.bundled_cache import cache_path
from delia_data.errors import InputError, OutputError
from delia_data.outputs import (
    FINISHED,
    LOCK,
    MANIFEST,
    JsonlLog,
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    finish,
    folder_lock,
    is_finished,
    read_manifest,
    write_json,
)
from delia_data.records import Record, read_record, read_records
from delia_data.sampling.compact import compact, journals, pairs_file, rejected_file
from delia_data.sampling.keys import KeySet
from delia_data.sampling.rows import Sampled

_PLAN: Final = "plan.json"
_PAIRS: Final = "pairs-*.parquet"
_GLOBS: Final = (_PAIRS, "rejected-*.parquet", "sampled-*.jsonl")


def row_key(row_id: str) -> int:
    """A short form of a row's id, of 64 bits, of which a million are held in memory."""
    return int.from_bytes(hashlib.md5(row_id.encode(), usedforsecurity=False).digest()[:8], "big")


class PairStore:
    """An open cache folder; `PairStore.open` gives one.

    Attributes:
        folder: The folder.
        asked: Keys of the rows that are finished and not to be asked again. Rows that failed are
            asked again where the run is not done, and are not among them.
        kept: How many pairs are kept.
        dropped: How many rows are not, by reason.
        tokens: Tokens that were generated for all of them.
        prompt_tokens: Tokens of their prompts.
        cost: Dollars; None where a price was not known.
    """

    def __init__(self, folder: Path, generation: int) -> None:
        """Begin with nothing; `open` reads what is there."""
        self.folder = folder
        self.asked = KeySet()
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.tokens = 0
        self.prompt_tokens = 0
        self.cost: float | None = 0.0
        self._failed: dict[int, str] = {}
        self._generation = generation
        self._sampled = 0  # rows of this generation
        self._journal: JsonlLog[Sampled] | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        folder: str | os.PathLike[str],
        plan: dict[str, Any],
        *,
        begin_from: str | os.PathLike[str] | None = None,
        extend: bool = False,
    ) -> Iterator[PairStore]:
        """Open a folder to sample into, and go on with what is there.

        Args:
            folder: The cache folder; made where it is not there.
            plan: Every setting that a pair depends on; `"queries"` describes what is asked.
            begin_from: A finished cache, with whose pairs a new one begins.
            extend: Go on with other queries than those that it was begun with.

        Raises:
            ForeignFolderError: The folder holds something else.
            SettingsError: It, or what it begins with, was begun with another plan.
            LockedError: Another process samples into it.
            OutputError: What is there is damaged, or the disk is full or gone.
        """
        root = Path(folder)
        names = {_PLAN, "queries"}.union(path.name for glob in _GLOBS for path in root.glob(glob))
        check_folder_is_ours(root, frozenset(names), sign=LOCK)
        with folder_lock(root):
            plan = json.loads(json.dumps(plan))
            if not (root / _PLAN).is_file():
                if begin_from is not None:
                    _copy(Path(cache_path(begin_from)), root, plan)
                elif any(root.glob(_PAIRS)):
                    raise OutputError(
                        f"{root} holds pairs and no {_PLAN}: begin it again (--from), or sample "
                        "into another folder"
                    )
            _keep_plan(root, plan, extend)
            store = cls(root, _settle_generations(root))
            store._read()
            store._journal = journals(root, store._generation)[-1]
            with store._journal:
                yield store

    @property
    def failed(self) -> int:
        """How many rows failed and were not answered since."""
        return len(self._failed)

    @property
    def finished(self) -> bool:
        """Whether the folder is a finished cache, as it lies."""
        return is_finished(self.folder)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The queries and answers that are kept, those of earlier generations first."""
        for file in sorted(self.folder.glob(_PAIRS)):
            for batch in pq.ParquetFile(file).iter_batches(1_000, columns=["messages"]):
                for row in batch.to_pylist():
                    record = read_record(row, "messages")
                    yield record.query, record.answer
        for row in self._logged():
            if row.rejected is None:
                yield row.query, row.answer

    def begin(self) -> None:
        """Take the finish marker away, as the cache is about to grow."""
        for name in (FINISHED, MANIFEST):
            (self.folder / name).unlink(missing_ok=True)

    def append(self, rows: Sequence[Sampled]) -> None:
        """Add finished requests: safe from a kill at once, from a crash within a second.

        Raises:
            OutputError: The disk is full or gone. What was on disk before stays.
        """
        assert self._journal is not None, "a store is written to while it is open"
        self._journal.append(*rows)
        for row in rows:
            self._count(row)

    def finish(self, manifest: Manifest, *, keep_rejected: bool = False) -> Manifest:
        """Write this generation as Parquet, then the manifest and the finish marker.

        Args:
            manifest: What is known of the cache.
            keep_rejected: Keep the texts of what is rejected too, and not its reasons alone.

        Raises:
            OutputError: The disk is full or gone.
        """
        assert self._journal is not None, "a store is finished while it is open"
        self._journal.close()
        if self._sampled:
            compact(self.folder, self._generation, keep_rejected=keep_rejected)
        for log in journals(self.folder, self._generation):
            log.path.unlink(missing_ok=True)
        return finish(self.folder, manifest)

    def _logged(self) -> Iterator[Sampled]:
        for log in journals(self.folder, self._generation):
            for row, *_ in log.read():
                yield row

    def _read(self) -> None:
        """Count what is there, and learn what was asked."""
        columns = ["row_id", "tokens", "prompt_tokens", "cost"]
        for generation in range(self._generation):
            table = pq.read_table(pairs_file(self.folder, generation), columns=columns)
            self.kept += table.num_rows
            self._take_up(table)
            table = pq.read_table(
                rejected_file(self.folder, generation), columns=[*columns, "reason"]
            )
            self.dropped.update(table["reason"].to_pylist())
            self._take_up(table)
        for row in self._logged():
            self._count(row)

    def _take_up(self, table: Any) -> None:
        self.asked.update(row_key(row_id) for row_id in table["row_id"].to_pylist())
        self.tokens += sum(table["tokens"].to_pylist())
        self.prompt_tokens += sum(table["prompt_tokens"].to_pylist())
        for cost in table["cost"].to_pylist():
            self._pay(cost)

    def _count(self, row: Sampled) -> None:
        key = row_key(row.id)
        self._sampled += 1
        self.tokens += row.tokens
        self.prompt_tokens += row.prompt_tokens
        self._pay(row.cost)
        if key in self._failed:
            self.dropped[self._failed.pop(key)] -= 1
        if row.error is not None and row.rejected is not None:
            self._failed[key] = row.rejected
        else:
            self.asked.add(key)
        if row.rejected is None:
            self.kept += 1
        else:
            self.dropped[row.rejected] += 1

    def _pay(self, cost: float | None) -> None:
        self.cost = None if cost is None or self.cost is None else self.cost + cost


def read_cache(path: str | os.PathLike[str]) -> list[Record]:
    """Read the pairs of a cache folder, or of a JSON Lines or JSON file in any row format.

    Args:
        path: Where they lie; `"bundled"` is the cache that comes with the package.

    Raises:
        InputError: There is nothing there, or it cannot be read.
        UnfinishedError: The folder has no finish marker.
    """
    source = Path(cache_path(path))
    if source.is_file():
        return list(read_records(source))
    if not source.exists():
        raise InputError(f"{source} is not there: give a cache folder, or a .jsonl or .json file")
    manifest = read_manifest(source)
    if manifest.kind != "cache":
        raise InputError(f"{source} holds a {manifest.kind}, not a cache: give a cache folder")
    return [
        read_record(row, "messages")
        for file in sorted(source.glob(_PAIRS))
        for row in pq.read_table(file, columns=["messages"]).to_pylist()
    ]


def read_plan(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings that a finished cache was sampled with.

    Args:
        folder: The cache; `"bundled"` is the one that comes with the package.

    Raises:
        InputError: It is no cache that `sample` wrote.
        UnfinishedError: It has no finish marker, or was changed since.
    """
    return _verified(Path(cache_path(folder)))[1]


def _verified(root: Path) -> tuple[Manifest, dict[str, Any]]:
    """The manifest and the plan of a finished cache, its files hashed again."""
    manifest = read_manifest(root, verify=True)
    if manifest.kind != "cache" or not (root / _PLAN).is_file():
        raise InputError(f"{root} is no cache of delia sample: give a cache folder")
    return manifest, json.loads((root / _PLAN).read_text(encoding="utf-8"))


def _copy(source: Path, root: Path, plan: dict[str, Any]) -> None:
    """Begin with all that a finished cache holds; its plan, which is there last, says that it is.

    Raises:
        SettingsError: It was sampled with another plan.
        OutputError: The disk is full or gone.
    """
    manifest, earlier = _verified(source)
    check_same_settings(source, _but_queries(earlier), _but_queries(plan))
    try:
        for name in manifest.files:
            (root / name).parent.mkdir(exist_ok=True)
            if name != _PLAN:
                shutil.copyfile(source / name, root / name)
    except OSError as error:
        raise OutputError(f"{root} cannot be written: {error.strerror}") from error
    write_json(root / _PLAN, earlier)


def _keep_plan(root: Path, plan: dict[str, Any], extend: bool) -> None:
    """Write the plan of a new cache, or compare it with the one that is there."""
    file = root / _PLAN
    if not file.is_file():
        write_json(file, plan)
        return
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{file} is damaged ({error}): sample into another folder") from error
    if not extend:
        before = {name: value for name, value in earlier.items() if name != "extended"}
        check_same_settings(
            root, before, plan, hint="; other queries can be added with extend (--extend)"
        )
        return
    check_same_settings(root, _but_queries(earlier), _but_queries(plan))
    if earlier["queries"] != plan["queries"]:
        extended = [*earlier.get("extended", []), earlier["queries"]]
        write_json(file, {**plan, "extended": extended})


def _but_queries(plan: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plan.items() if name not in {"queries", "extended"}}


def _settle_generations(root: Path) -> int:
    """Give the number of the generation to write; what a kill left of the others goes."""
    generation = len(list(root.glob(_PAIRS)))
    for done in range(generation):
        for log in journals(root, done):
            log.path.unlink(missing_ok=True)
    return generation
