"""The cache folder: finished rows on disk, while a run samples them and afterwards.

    folder/
        plan.json                 settings of the run; a rerun with other settings is refused
        sampled-00000-000.jsonl   log of finished rows, accepted or rejected, while a run samples
        pairs-00000.parquet       accepted pairs of a finished run
        rejected-00000.parquet    rejected rows of a finished run, with the reasons
        unjudged.jsonl            log of answers that wait for a judge, while a run samples
        queries/                  queries written by a model, if any
        manifest.json
        FINISHED

A finished cache can grow. A run that adds pairs writes the next generation,
`pairs-00001.parquet`; existing Parquet files never change. The log of a generation is deleted once
its Parquet files are complete.

A cache can also continue with a higher token limit or with fewer filters. All rows of a generation
have the same settings: the change ends the generation, and `plan.json` lists the earlier settings
under `earlier`. Accepted pairs stay. Rejected rows that the change may accept are reopened: they
are judged again if their texts are stored, and requested again otherwise. The new row counts in
place of the old one, whose tokens stay counted.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data._batches import batches
from delia_data.bundled_cache import cache_path
from delia_data.engines.base import Completion, Finish
from delia_data.errors import InputError, OutputError
from delia_data.outputs import (
    FINISHED,
    LOCK,
    MANIFEST,
    JsonlLog,
    Manifest,
    atomic_path,
    check_folder_is_ours,
    check_same_settings,
    finish,
    folder_lock,
    is_finished,
    read_manifest,
    write_json,
)
from delia_data.reading import read_records
from delia_data.records import Message, Record, Role, encodable, read_record, write_record
from delia_data.sampling.filters import are_looser, reasons_of

_PLAN: Final = "plan.json"
_HISTORY: Final = ("extended", "earlier")  # keys of a plan that no setting has
_LIMITS: Final = ("max_tokens", "max_thinking_tokens")
_CUT_OFF: Final = {"truncated", "reasoning"}  # reasons that may not apply with a higher limit
_UNJUDGED: Final = "unjudged.jsonl"
_PAIRS: Final = "pairs-*.parquet"
_REJECTED: Final = "rejected-*.parquet"
_GLOBS: Final = (_PAIRS, _REJECTED, "sampled-*.jsonl", _UNJUDGED)

_FOLLOWUP_ROLES: Final[tuple[Role, Role]] = ("user", "assistant")
_REASONING: Final = b"reasoning"  # key of Parquet metadata: pairs whose reasoning was removed
_GROUP: Final = 10_000  # rows of a Parquet row group
_MESSAGE: Final = pa.struct([("role", pa.string()), ("content", pa.string())])
_USAGE_COLUMNS: Final = [
    ("row_id", pa.string()),
    ("tokens", pa.int64()),
    ("prompt_tokens", pa.int64()),
    ("cost", pa.float64()),
]
_PAIR_SCHEMA: Final = pa.schema(
    [("messages", pa.list_(_MESSAGE)), ("source_id", pa.string()), *_USAGE_COLUMNS]
)
_REJECTED_SCHEMA: Final = pa.schema(
    [
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("error", pa.string()),
        ("query", pa.string()),
        ("answer", pa.string()),
        ("had_reasoning", pa.bool_()),
        *_USAGE_COLUMNS,
    ]
)


@dataclass(slots=True)
class SampledRow:
    """One finished request.

    Attributes:
        number: Position in the order in which the run requests its rows, from 0.
        id: Content id of the query. For the second answer to a query and later ones, followed by
            a colon and the answer's number.
        query: The query.
        answer: The model's answer.
        tokens: Number of generated tokens; like the other two, 0 if the row was judged again from
            its stored answer.
        prompt_tokens: Number of prompt tokens; 0 if the engine does not report it.
        cost: Cost in dollars; None if the price is unknown.
        rejected: Reason why the pair was rejected; None if it was accepted.
        error: Error message, if the request failed.
        reasoning: Whether reasoning was removed from the answer.
        system: System prompt of the query itself, if any; the run's is in the plan.
        thoughts: The reasoning, if the run keeps it; None otherwise.
        detail: Details of the reason, if the filter gives some.
        followups: Turns after the first answer, the user's and the model's in alternation.
    """

    number: int
    id: str
    query: str
    answer: str
    tokens: int
    prompt_tokens: int = 0
    cost: float | None = 0.0
    rejected: str | None = None
    error: str | None = None
    reasoning: bool = False
    system: str | None = None
    thoughts: str | None = None
    detail: str | None = None
    followups: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All turns after the query, by which filters compare pairs."""
        return "\n".join([self.answer, *self.followups])

    def add_cost(self, dollars: float | None) -> None:
        """Add to the cost; it is unknown once a part is."""
        self.cost = None if self.cost is None or dollars is None else self.cost + dollars

    @property
    def last_exchange(self) -> tuple[str, str]:
        """The user's last turn and the answer to it, or an empty answer."""
        turns = [self.query, self.answer, *self.followups]
        return (turns[-2], turns[-1]) if len(turns) % 2 == 0 else (turns[-1], "")


@dataclass
class Counts:
    """Totals over the finished rows of a cache, those of earlier runs included.

    Attributes:
        accepted: Number of accepted pairs.
        dropped: Number of rejected rows by reason.
        tokens: Number of generated tokens.
        prompt_tokens: Number of prompt tokens.
        dollars: Cost of the rows whose price is known.
        unpriced: Number of rows whose price is unknown.
        reasoning: Number of accepted pairs whose answers had reasoning, which was removed.
    """

    accepted: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    prompt_tokens: int = 0
    dollars: float = 0.0
    unpriced: int = 0
    reasoning: int = 0

    @property
    def finished(self) -> int:
        """Number of finished rows."""
        return self.accepted + self.dropped.total()

    @property
    def cost(self) -> float | None:
        """Cost in dollars; None if the price of a row is unknown."""
        return None if self.unpriced else self.dollars

    def add(self, row: SampledRow) -> None:
        """Count a finished row."""
        if row.rejected is None:
            self.accepted += 1
            self.reasoning += row.reasoning
        else:
            self.dropped[row.rejected] += 1
        self.add_usage(row.tokens, row.prompt_tokens, row.cost)

    def add_usage(self, tokens: int, prompt_tokens: int, cost: float | None) -> None:
        """Count the tokens and the cost of a row."""
        self.tokens += tokens
        self.prompt_tokens += prompt_tokens
        if cost is None:
            self.unpriced += 1
        else:
            self.dollars += cost


class PairStore:
    """An open cache folder; create one with `PairStore.open`.

    Attributes:
        folder: The folder.
        row_ids: Ids of the rows that are finished and are not requested again. Failed rows are
            requested again until the run is finished, and are not among them.
        counts: Totals over all finished rows.
        earlier: Earlier settings of the cache, each with the number of pairs accepted until then.
    """

    def __init__(
        self,
        folder: Path,
        plan: dict[str, Any],
        *,
        keep_rejected: bool = False,
        keep_reasoning: bool = False,
    ) -> None:
        """Read the rows that the locked folder holds; `begin` writes the plan."""
        self.folder = folder
        self.earlier: list[dict[str, Any]] = plan.get("earlier", [])
        self._plan = plan
        self._keep_rejected, self._keep_reasoning = keep_rejected, keep_reasoning
        generation = len(list(folder.glob(_PAIRS)))
        self.row_ids: set[str] = set()
        self.counts = Counts()
        self._generation = generation
        self._logs = _logs(folder, generation)
        hint = "and its query is asked again"
        self._unjudged = JsonlLog(folder / _UNJUDGED, Completion, if_damaged=hint)
        self._lines = array("q")  # of each logged row: number, log, start, length, accepted
        self._failed: dict[str, tuple[int, str]] = {}  # latest failure by row id: line, reason
        self._superseded: list[int] = []  # lines of failures whose rows were requested again
        self._reopened: dict[str, str] = {}  # reason by row id, until the row is finished again
        columns = ["row_id", "tokens", "prompt_tokens", "cost"]
        for number in range(generation):
            table = pq.read_table(_pairs_file(folder, number), columns=columns)
            self.counts.accepted += table.num_rows
            metadata = pq.read_metadata(_pairs_file(folder, number)).metadata or {}
            self.counts.reasoning += int(metadata.get(_REASONING, 0))
            self._read_usage(table)
            table = pq.read_table(_rejected_file(folder, number), columns=[*columns, "reason"])
            reasons = table["reason"].to_pylist()
            self.counts.dropped.update(reasons)
            self._read_usage(table)
            reopened = self._changes("ask", number) | self._changes("judge", number)
            if reopened:
                rows = zip(table["row_id"].to_pylist(), reasons, strict=True)
                self._reopened.update((row, reason) for row, reason in rows if reason in reopened)
                self.row_ids -= self._reopened.keys()
        self._reasoning_before = self.counts.reasoning
        for log, logged in enumerate(self._logs):
            self._end = 0  # of the complete lines of the log
            for row, start, length in logged.read():
                self._count(row, log, start, length)
                self._end = start + length

    @classmethod
    @contextmanager
    def open(
        cls,
        folder: str | os.PathLike[str],
        plan: dict[str, Any],
        *,
        begin_from: str | os.PathLike[str] | None = None,
        extend: bool = False,
        keep_rejected: bool = False,
        keep_reasoning: bool = False,
    ) -> Iterator[PairStore]:
        """Open a cache folder for sampling, and resume from what it holds; options as of `sample`.

        Raises:
            ForeignFolderError: The folder holds other files.
            SettingsError: The folder, or `begin_from`, was sampled with another plan.
            LockedError: Another process is sampling into the folder.
            OutputError: The folder is damaged, or the disk is full or gone.
        """
        root = Path(folder)
        names = {_PLAN, "queries"}.union(path.name for glob in _GLOBS for path in root.glob(glob))
        check_folder_is_ours(root, frozenset(names), sign=LOCK)
        with folder_lock(root):
            if is_finished(root):
                read_manifest(root, verify=True)  # a lost shard would shift the following numbers
            plan = json.loads(json.dumps(plan))
            if not (root / _PLAN).is_file():
                if begin_from is not None:
                    _copy(Path(cache_path(begin_from)), root, plan)
                elif any(root.glob(_PAIRS)):
                    raise OutputError(
                        f"{root} holds pairs but no {_PLAN}, because copying another cache was "
                        "interrupted: repeat it (--from), or sample into another folder"
                    )
            earlier = _read_plan(root / _PLAN)
            if earlier is None:
                earlier = plan
                write_json(root / _PLAN, plan)
            following = _next_plan(root, earlier, plan, extend=extend)
            for finished in range(len(list(root.glob(_PAIRS)))):
                _delete_logs(root, finished)  # a kill left them after compaction
            store = cls(root, earlier, keep_rejected=keep_rejected, keep_reasoning=keep_reasoning)
            if following != earlier:
                store = store._changed(following)
            with store._logs[-1], store._unjudged:
                yield store

    @property
    def finished(self) -> bool:
        """Whether the folder is a finished cache."""
        return is_finished(self.folder)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the first query of each accepted pair and all that follows, oldest first."""
        for file in sorted(self.folder.glob(_PAIRS)):
            for batch in pq.ParquetFile(file).iter_batches(1_000, columns=["messages"]):
                for row in batch.to_pylist():
                    yield query_and_rest(read_record(row, "messages"))
        for log in self._logs:
            for row, *_ in log.read():
                if row.rejected is None:
                    yield row.query, row.text

    def stored_answers(self) -> dict[str, Completion]:
        """Return the stored answers of rows that need not be requested again, by row id.

        They are those that wait for a judge, and those of reopened rows. Thoughts are not stored
        with rejected rows, and conversations end where they are rejected, so a run that keeps
        thoughts or has several turns has no answers of the second kind.
        """
        waiting = (completion for completion, *_ in self._unjudged.read())
        answers = {each.id: each for each in waiting if each.id not in self.row_ids}
        needs_more = self._keep_reasoning or "turns" in self._plan
        for number in range(0 if needs_more else self._generation):
            judged = self._changes("judge", number) - self._changes("ask", number)
            file = _rejected_file(self.folder, number)
            if not judged or "had_reasoning" not in pq.read_schema(file).names:
                continue
            columns = ["row_id", "reason", "answer", "had_reasoning"]
            for batch in pq.ParquetFile(file).iter_batches(1_000, columns=columns):
                for row in batch.to_pylist():
                    key, reason = row["row_id"], row["reason"]
                    if self._reopened.get(key) != reason or reason not in judged:
                        continue
                    if row["answer"] is not None:
                        finish: Finish = "length" if reason == "truncated" else "stop"
                        answers[key] = Completion(
                            key, row["answer"], 0, finish, reasoning=row["had_reasoning"]
                        )
        return answers

    def begin(self) -> None:
        """Remove the finish marker and write the plan before the cache grows."""
        for name in (FINISHED, MANIFEST):
            (self.folder / name).unlink(missing_ok=True)
        if _read_plan(self.folder / _PLAN) != self._plan:
            write_json(self.folder / _PLAN, self._plan)

    def append(self, row: SampledRow) -> None:
        """Add a finished row. It survives a kill at once and a crash within a second.

        Raises:
            OutputError: The disk is full or gone. Rows written before stay.
        """
        length = self._logs[-1].append(row)
        self._count(row, len(self._logs) - 1, self._end, length)
        self._end += length

    def put_aside(self, completion: Completion) -> None:
        """Store an answer until its row is finished.

        Raises:
            OutputError: The disk is full or gone.
        """
        thoughts = encodable(completion.thoughts) if self._keep_reasoning else ""
        text = encodable(completion.text)
        self._unjudged.append(replace(completion, text=text, thoughts=thoughts))

    def clear_aside(self) -> None:
        """Remove the answers that were put aside; their rows are finished."""
        self._unjudged.close()
        self._unjudged.path.unlink(missing_ok=True)

    def finish(self, manifest: Manifest) -> Manifest:
        """Write this generation as Parquet, then the manifest and the finish marker.

        Raises:
            OutputError: The disk is full or gone.
        """
        self._end_generation()
        return finish(self.folder, manifest)

    def _end_generation(self) -> None:
        self._logs[-1].close()
        self.clear_aside()
        if self._lines:
            self._compact()
        _delete_logs(self.folder, self._generation)

    def _changed(self, plan: dict[str, Any]) -> PairStore:
        """End the generation if the settings of rows differ; return the store under a new plan."""
        old: dict[str, Any] = {name: self._plan.get(name) for name in ("sampling", "filters")}
        if any(plan.get(name) != value for name, value in old.items()):
            self._end_generation()
            reasons = set(+self.counts.dropped)
            requested = reasons & {"failed"}
            if plan["sampling"] != old["sampling"]:
                requested |= reasons & _CUT_OFF
            judged: set[str] = set()
            if plan["filters"] != old["filters"]:
                unchanged = [each for each in plan["filters"] if each in old["filters"]]
                judged = reasons - requested - reasons_of(unchanged)
            entry = {
                **old,
                "pairs": self.counts.accepted,
                "generations": len(list(self.folder.glob(_PAIRS))),
                "ask": sorted(requested),
                "judge": sorted(judged),
            }
            plan = {**plan, "earlier": [*self.earlier, entry]}
        return PairStore(
            self.folder,
            plan,
            keep_rejected=self._keep_rejected,
            keep_reasoning=self._keep_reasoning,
        )

    def _changes(self, name: str, generation: int) -> set[str]:
        """Return the reasons under a name of all changes after a generation."""
        later = (each for each in self.earlier if each["generations"] > generation)
        return {reason for change in later for reason in change[name]}

    def _read_usage(self, table: Any) -> None:
        ids = table["row_id"].to_pylist()
        self.row_ids.update(ids)
        if self._reopened:
            for row in ids:
                self._supersede(row)
        usage = (table[name].to_pylist() for name in ("tokens", "prompt_tokens", "cost"))
        for tokens, prompt_tokens, cost in zip(*usage, strict=True):
            self.counts.add_usage(tokens, prompt_tokens, cost)

    def _count(self, row: SampledRow, log: int, start: int, length: int) -> None:
        """Count a finished row whose line is at an offset of a log."""
        line = len(self._lines) // 5
        self._lines.extend((row.number, log, start, length, row.rejected is None))
        self.counts.add(row)
        self._supersede(row.id)
        if row.id in self._failed:
            earlier, reason = self._failed.pop(row.id)
            self.counts.dropped[reason] -= 1
            self._superseded.append(earlier)
        if row.error is not None and row.rejected is not None:
            self._failed[row.id] = line, row.rejected
        else:
            self.row_ids.add(row.id)

    def _supersede(self, row_id: str) -> None:
        """Stop counting the reason of a reopened row, which is finished again."""
        if (reason := self._reopened.pop(row_id, None)) is not None:
            self.counts.dropped[reason] -= 1

    def _compact(self) -> None:
        """Write the logs as Parquet, sorted by row number.

        The pairs are written last; their file marks the generation as complete. The rows are read
        from the logs again, one row group at a time.
        """
        table = np.frombuffer(self._lines, np.int64).reshape(-1, 5)
        table = np.delete(table, self._superseded, axis=0)
        table = table[np.argsort(table[:, 0], kind="stable")]
        accepted = table[:, 4] == 1
        with ExitStack() as stack:
            files = [stack.enter_context(log.path.open("rb")) for log in self._logs]

            def read(selected: np.ndarray[Any, Any]) -> Iterator[SampledRow]:
                for first in range(0, len(selected), _GROUP):
                    for _, log, start, length, _ in selected[first : first + _GROUP].tolist():
                        line = os.pread(files[log].fileno(), length, start)
                        yield self._logs[log].parse(line, start)

            rejected = (
                _rejected_columns(row, self._keep_rejected) for row in read(table[~accepted])
            )
            file = _rejected_file(self.folder, self._generation)
            _write_parquet(file, _REJECTED_SCHEMA, rejected)
            pairs = (_pair_columns(row) for row in read(table[accepted]))
            reasoning = self.counts.reasoning - self._reasoning_before
            schema = _PAIR_SCHEMA
            if self._keep_reasoning:
                schema = schema.append(pa.field("reasoning", pa.string()))
            schema = schema.with_metadata({_REASONING: str(reasoning)} if reasoning else None)
            _write_parquet(_pairs_file(self.folder, self._generation), schema, pairs)


def query_and_rest(record: Record) -> tuple[str, str]:
    """Return the first query of a pair and all turns after it, as filters compare pairs."""
    query, *rest = (turn.content for turn in record.messages if turn.role != "system")
    return query, "\n".join(rest)


def read_cache(path: str | os.PathLike[str]) -> list[Record]:
    """Read the pairs of a cache folder, or of any other input of pairs.

    Args:
        path: The folder or input, or `"bundled"` for the cache that comes with the package.

    Raises:
        InputError: The path does not exist or cannot be read.
        UnfinishedError: The folder has no finish marker.
    """
    return list(read_records(cache_path(path)))


def read_usage(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read what each row of a finished cache took.

    Returns:
        `accepted` (1 or 0), `tokens`, `prompt_tokens` and `cost` (NaN if unknown) as floats, each
        of shape (rows,).
    """
    columns = ["tokens", "prompt_tokens", "cost"]
    parts = []
    for glob, accepted in ((_PAIRS, 1.0), (_REJECTED, 0.0)):
        for file in sorted(folder.glob(glob)):
            table = pq.read_table(file, columns=columns)
            parts.append(table.append_column("accepted", pa.array(np.full(len(table), accepted))))
    usage = pa.concat_tables(parts)
    return {name: usage[name].to_numpy().astype(float) for name in usage.column_names}


def read_plan(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings that a finished cache was sampled with.

    Args:
        folder: The cache folder, or `"bundled"` for the cache that comes with the package.

    Raises:
        InputError: The folder is not a cache that `sample` wrote.
        UnfinishedError: The cache has no finish marker, or its files have changed.
    """
    return _verified(Path(cache_path(folder)))[1]


def check_is_cache(folder: Path, manifest: Manifest) -> None:
    """Refuse a finished folder that holds something else.

    Raises:
        InputError: The manifest is not that of a cache.
    """
    if manifest.kind != "cache":
        raise InputError(f"{folder} holds a {manifest.kind}, not a cache: give a cache folder")


def _verified(root: Path) -> tuple[Manifest, dict[str, Any]]:
    """Return the manifest and the plan of a finished cache after checking the file hashes."""
    manifest = read_manifest(root, verify=True)
    if manifest.kind != "cache" or not (root / _PLAN).is_file():
        raise InputError(f"{root} was not written by delia sample: give a cache folder")
    return manifest, json.loads((root / _PLAN).read_text(encoding="utf-8"))


def _copy(source: Path, root: Path, plan: dict[str, Any]) -> None:
    """Copy a finished cache; the plan is written last and marks the copy as complete.

    Raises:
        SettingsError: The cache was sampled with another plan.
        OutputError: The disk is full or gone.
    """
    manifest, earlier = _verified(source)
    _next_plan(source, earlier, plan, extend=True)
    try:
        for name in manifest.files:
            (root / name).parent.mkdir(exist_ok=True)
            if name != _PLAN:
                shutil.copyfile(source / name, root / name)
    except OSError as error:
        raise OutputError(f"{root} cannot be written: {error.strerror}") from error
    write_json(root / _PLAN, earlier)


def _read_plan(file: Path) -> dict[str, Any] | None:
    """Read a plan; None if there is no file."""
    if not file.is_file():
        return None
    try:
        plan: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{file} is damaged ({error}): sample into another folder") from error
    return plan


def _next_plan(
    root: Path, earlier: dict[str, Any], plan: dict[str, Any], *, extend: bool
) -> dict[str, Any]:
    """Return the plan of a run that continues a cache.

    Raises:
        SettingsError: A setting differs that may not change.
    """
    history: dict[str, Any] = {name: earlier[name] for name in _HISTORY if name in earlier}
    before = {name: value for name, value in earlier.items() if name not in _HISTORY}
    sampling: dict[str, Any] = dict(before.get("sampling", {}))
    for name, limit in plan.get("sampling", {}).items():
        if name in _LIMITS and name in sampling:
            sampling[name] = max(sampling[name], limit)
    compared = {**before, "sampling": sampling} if sampling else {**before}
    if are_looser(before.get("filters", []), plan.get("filters", [])):
        compared["filters"] = plan.get("filters")
    if extend:
        compared["queries"] = plan["queries"]
    hint = "; max_tokens can rise and filters can be left out"
    if not extend:
        hint += "; other queries can be added with extend (--extend)"
    check_same_settings(root, compared, plan, hint=hint)
    if before["queries"] != plan["queries"]:
        history["extended"] = [*history.get("extended", []), before["queries"]]
    return {**plan, **history}


def _pairs_file(folder: Path, generation: int) -> Path:
    return folder / f"pairs-{generation:05}.parquet"


def _rejected_file(folder: Path, generation: int) -> Path:
    return folder / f"rejected-{generation:05}.parquet"


def _logs(folder: Path, generation: int) -> list[JsonlLog[SampledRow]]:
    """Return the logs of a generation in the order they were written; append to the last one.

    Version 0.1.0 started a new log every 100,000 rows and in every run.
    """
    stem = f"sampled-{generation:05}-"
    files = sorted(
        folder.glob(f"{stem}*.jsonl"), key=lambda path: int(path.stem.removeprefix(stem))
    )
    hint = "and its query is asked again; or sample into another folder"
    return [
        JsonlLog(file, SampledRow, if_damaged=hint)
        for file in files or [folder / f"{stem}000.jsonl"]
    ]


def _delete_logs(folder: Path, generation: int) -> None:
    for log in _logs(folder, generation):
        log.path.unlink(missing_ok=True)


def _write_parquet(path: Path, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> None:
    with atomic_path(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for group in batches(rows, _GROUP):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _usage_columns(row: SampledRow) -> dict[str, Any]:
    return {
        "row_id": row.id,
        "tokens": row.tokens,
        "prompt_tokens": row.prompt_tokens,
        "cost": row.cost,
    }


def _pair_columns(row: SampledRow) -> dict[str, Any]:
    pair = Record.pair(row.query, row.answer, system=row.system)
    turns = zip(cycle(_FOLLOWUP_ROLES), row.followups, strict=False)
    record = Record((*pair.messages, *(Message(role, text) for role, text in turns)))
    columns = {**write_record(record), "source_id": record.id, **_usage_columns(row)}
    return {**columns, "reasoning": row.thoughts}


def _rejected_columns(row: SampledRow, with_texts: bool) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    if with_texts:
        query, answer = row.last_exchange
        texts = {"query": query, "answer": answer, "had_reasoning": row.reasoning}
    reasons = {"reason": row.rejected, "detail": row.detail, "error": row.error}
    return {**reasons, **texts, **_usage_columns(row)}
