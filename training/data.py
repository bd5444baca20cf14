"""Open, encode and lint the rows of a training, and check which model wrote the pairs.

    out/mixture                a finished folder that `delia mix` wrote
    delia_mix:ratio-4          the same, of the bundled task and cache
    anything else              any input of `reading.open_source`; the split `train`

The first two name their token and the models that wrote the pairs. In any other input, a row with
the token in its prompt is a task row and any other row is a pair, unless it has a column `source`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import numpy as np
import pyarrow as pa

from delia_data.errors import InputError, TokenError
from delia_data.mixing.mixture import Mixture
from delia_data.mixing.options import TEACHER_MESSAGES, TEMPLATE_KWARGS
from delia_data.models import identify_files, quiet
from delia_data.outputs import Manifest, canonical_json, is_finished, read_manifest
from delia_data.ranking import rank
from delia_data.reading import FilePart, Source, is_output, open_source
from delia_data.records import Record, read_record, write_record
from delia_data.tokens import Linter, encode, template_options
from delia_data.tokens.lint import RowSource, SourceName
from delia_data.training.prepare import prepared_from
from delia_data.training.settings import TrainSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from delia_data.evaluation.probes import EvalTask

_REGISTERED: Final = re.compile(r"(delia_mix|delia_task|delia_cache)(?::(.+))?")
"""Datasets that this package registers, and their configuration."""
_COLUMNS: Final = ("source", "source_id", "wording_id", TEACHER_MESSAGES, TEMPLATE_KWARGS)
"""Columns of a mixture in addition to those of its row format."""
_IGNORED: Final = -100
NO_ANSWER: Final = "no_answer_token_within_max_length"
"""Reason to drop a row that is truncated before its answer."""
_DTYPES: Final = ("bfloat16", "float32", "float16")
"""Possible types of the weights in a sampling engine; the default comes first."""


class TrainingRow(NamedTuple):
    """A row of a training.

    Attributes:
        record: The turns.
        source: The source, as in the column `source` of a mixture.
        taught: Turns for the teacher of the KL loss; None if they are the same.
    """

    record: Record
    source: SourceName
    taught: Record | None


@dataclass(frozen=True)
class TrainingRows:
    """Rows to train on, with their mixture's manifest if there is one.

    Attributes:
        source: The rows in their order; they can be read several times.
        name: Name of the input in errors.
        manifest: The mixture's manifest, if there is one.
        test: The mixture's held-out rows, if there are any.
        publication: Manifest of the version, if the mixture was pulled from the Hub.
    """

    source: Source
    name: str
    manifest: Manifest | None = None
    test: Source | None = None
    publication: Manifest | None = None

    @property
    def tokens(self) -> list[str] | None:
        """Special tokens of the task rows; None if unknown."""
        if self.manifest is None:
            return None
        tokens = self.manifest.settings.get("token")
        return [tokens] if isinstance(tokens, str) else list(tokens or [])

    @property
    def written_by(self) -> dict[str, Any]:
        """Models that wrote the pairs, by the cache's name, if known."""
        return dict(self.manifest.details.get("written_by", {})) if self.manifest else {}

    @property
    def provenance(self) -> dict[str, Any]:
        """Settings, inputs and published version of the mixture, if known."""
        if self.manifest is None:
            return {}
        entry = self.manifest.model_dump(mode="json", include={"settings", "inputs"})
        entry["code_version"] = self.manifest.code_version
        if self.publication is not None:
            entry["version"] = self.publication.settings["version"]
            entry["content"] = self.publication.inputs["content"]
        return entry

    def records(self, tokens: Sequence[str]) -> Iterator[tuple[Record, RowSource]]:
        """Yield the record of each row, and its source; arguments and errors as for `rows`."""
        return ((record, source) for record, source, _ in self.rows(tokens))

    def rows(self, tokens: Sequence[str]) -> Iterator[TrainingRow]:
        """Yield the rows.

        Args:
            tokens: Tokens by which a task row is recognized if it has no column `source`.

        Raises:
            InputError: The input cannot be read, or is empty.
            FormatError: Rows cannot be used; the message counts them and shows the first three.
        """

        def read(row: Any) -> TrainingRow:
            record = self.source.record(row, used=_COLUMNS)
            columns = row if isinstance(row, Mapping) else {}
            source: Any = columns.get("source")
            if source not in get_args(SourceName):
                prompt = "".join(message.content for message in record.prompt)
                source = "task" if any(token in prompt for token in tokens) else "cache"
            taught = columns.get(TEACHER_MESSAGES)
            if not taught:
                return TrainingRow(record, source, None)
            whole = {"prompt": taught, "completion": record.answer}
            return TrainingRow(record, source, read_record(whole, "prompt_completion"))

        return (row for _, row in self.source.map(read))

    def places(self, rows: Collection[int]) -> dict[int, str]:
        """Return the locations of rows for errors; -1 is the tokenizer.

        The input is read again up to the last of these rows, so that no location is stored.
        """
        places = {-1: "the tokenizer"}
        read = enumerate(islice(self.source.rows(), max(rows, default=-1) + 1))
        return places | {index: where for index, (where, _) in read if index in rows}


def open_training_rows(given: Any) -> TrainingRows:
    """Open the rows of a training.

    Args:
        given: Folder of a mixture, `delia_mix:ratio-4`, a mixture that `mix` returned, or any
            input of `reading.open_source`.

    Raises:
        InputError: The input does not exist, is an output that is not a mixture, or has no split
            `train`.
        UnfinishedError: It is a folder of this package without its finish marker.
    """
    if isinstance(given, TrainingRows):
        return given
    if isinstance(given, Mixture):
        source = open_source(given.train, purpose="training")
        test = None if given.test is None else open_source(given.test, purpose="training")
        return TrainingRows(source, "the mixture", given.manifest, test)
    if not isinstance(given, str | os.PathLike):
        rows = list(given) if isinstance(given, Iterator) else given  # rows are read twice
        return TrainingRows(open_source(rows, purpose="training"), "the mixture")
    name = os.fspath(given)
    folder = Path(name)
    if os.path.isdir(folder) and is_output(folder):
        return _open_folder(folder, name)
    if (match := _REGISTERED.fullmatch(name)) and not os.path.exists(name):
        return _open_registered(name, match[1], match[2])
    with quiet():
        return TrainingRows(open_source(given, purpose="training"), name)


def _open_folder(folder: Path, name: str) -> TrainingRows:
    manifest = read_manifest(folder)
    if manifest.kind != "mixture":
        raise InputError(f"{name} holds a {manifest.kind}, not a mixture: give a mixture's folder")
    files = sorted(folder.glob("train*.parquet"))
    source = Source(name, tuple(FilePart(str(file)) for file in files), strict=True)
    held_out = folder / "test.parquet"
    parts = (FilePart(str(held_out)),)
    test = Source(f"{name}#test", parts, strict=True) if held_out.is_file() else None
    above = folder.resolve().parent
    publication = read_manifest(above) if is_finished(above) else None
    if publication is not None and publication.kind != "publication":
        publication = None
    return TrainingRows(source, name, manifest, test, publication)


def _open_registered(name: str, dataset: str, configuration: str | None) -> TrainingRows:
    import datasets

    try:
        with quiet():
            splits = datasets.load_dataset(dataset, configuration)
            rows = splits["train"]
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise InputError(
            f"{name} cannot be read as a mixture: {line.strip()}; give a ratio, as in "
            "delia_mix:ratio-4"
        ) from error
    description = rows.info.description
    manifest = Manifest.model_validate_json(description) if dataset == "delia_mix" else None
    test = open_source(splits["test"], purpose="training") if "test" in splits else None
    return TrainingRows(open_source(rows, purpose="training"), name, manifest, test)


@dataclass(frozen=True)
class HeldOut:
    """Rows to measure a model on during training.

    Attributes:
        rows: The mixture's held-out task rows as `"task"`, and pairs as `"pairs"`.
        task: Task to measure the leak of, if given.
    """

    rows: Mapping[str, TrainingRows]
    task: EvalTask | None = None

    @property
    def sha256(self) -> str:
        """Hash of the rows and the task."""
        ids = {name: [r.id for r, _ in rows.records(())] for name, rows in self.rows.items()}
        task = None if self.task is None else self.task.sha256
        return hashlib.sha256(canonical_json({**ids, "leak": task})).hexdigest()


def open_held_out(given: TrainingRows, settings: TrainSettings) -> HeldOut:
    """Open the rows that `watch_every_steps` measures.

    Rows are selected by keyed hash. Pairs are selected as for `delia evaluate`, from those that a
    mixture takes last, and exclude the pairs of the mixture.

    Raises:
        InputError: There are no such rows, all pairs are in the mixture, or `best_by` has no rows
            to measure.
        TokenError: The task is for another token.
    """
    from delia_data.evaluation.keep import PAIRS, read_pairs
    from delia_data.evaluation.probes import EvalTask

    rows: dict[str, TrainingRows] = {}
    count, source, tokens = settings.watch_rows or PAIRS, settings.watch_pairs, settings.tokens
    if given.test is not None:
        test = TrainingRows(given.test, f"the held-out rows of {given.name}")
        records = {record.id: record for record, _ in test.records(tokens)}
        picked = nsmallest(count, records, key=lambda one: rank(0, one, "evaluated rows"))
        rows["task"] = _held_out_rows(test.name, [records[one] for one in picked], "task")
    elif settings.best_by == "loss":
        raise InputError(
            f"{given.name} has no held-out rows, so best_by loss has nothing to measure: diversify "
            "the task with --test or --test-share and mix it again, or leave best_by out"
        )
    if source is not None:
        seed = int(given.manifest.settings.get("seed", 0)) if given.manifest else 0
        pairs = {row.id: row for row in read_pairs(source, tokens=tokens, seed=seed, count=count)}
        for record, _ in given.records(tokens):
            pairs.pop(record.id, None)
        if not pairs:
            raise InputError(
                f"watch_pairs: the last pairs of {source} are all in {given.name}: give a cache "
                "with more pairs, or mix with a lower ratio"
            )
        rows["pairs"] = _held_out_rows(f"the pairs of {source}", list(pairs.values()), "cache")
    try:
        task = None if settings.watch_task is None else EvalTask.read(settings.watch_task)
    except InputError as error:
        raise InputError(f"watch_task: {error}") from error
    if task is not None and task.token not in tokens:
        raise TokenError(
            f"watch_task: {settings.watch_task} is for the token {task.token}, but token is "
            f"{', '.join(tokens)}: give the task of this training"
        )
    return HeldOut(rows, task)


def _held_out_rows(name: str, records: Sequence[Record], source: SourceName) -> TrainingRows:
    rows = [{**write_record(record), "source": source} for record in records]
    return TrainingRows(open_source(rows, purpose="training"), name)


@dataclass(frozen=True)
class EncodedRows:
    """The tokenized rows of a training, in order.

    Attributes:
        dataset: Columns `input_ids` and `labels` (-100 for tokens without a loss), lists of equal
            length, and `is_task`, which is false for rows with the KL loss. If a row has turns for
            its teacher, also `teacher_prompt`: ids that replace the prompt for the teacher, empty
            if they are the same.
        cut: Number of truncated rows.
        dropped: Counts of dropped rows by reason.
    """

    dataset: Dataset
    cut: int
    dropped: dict[str, int]


def count_rows(rows: TrainingRows, tokens: Sequence[str]) -> tuple[dict[str, int], str]:
    """Count the rows by source, and hash them in their order."""
    counts = {"task": 0, "cache": 0}
    digest = hashlib.sha256()
    for record, source, taught in rows.rows(tokens):
        counts[source] = counts.get(source, 0) + 1
        digest.update(canonical_json([record.id, source == "task"]))
        if taught is not None:
            digest.update(canonical_json([taught.id]))
    if not any(counts.values()):
        raise InputError(f"{rows.name} has no training rows: make it again")
    return counts, digest.hexdigest()


def encode_rows(
    rows: TrainingRows,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
    *,
    context: int | None = None,
) -> EncodedRows:
    """Encode every row with the chat template once, and lint the ids.

    Args:
        rows: The rows.
        tokenizer: The tokenizer, with the token added.
        settings: Special tokens, maximum tokens of a row, and whether to truncate longer rows.
        context: Number of the model's positions, if known.

    Raises:
        InputError: There is no chat template; or rows are longer than the limit, and must not be
            truncated.
        TokenError: The lint found invalid rows.
    """
    limit, named = settings.max_length, "max_length"
    if context is not None and context < limit:
        limit, named = context, "the model's context"
    linter = Linter(tokenizer, tokens=settings.tokens, max_length=limit)
    ids: list[np.ndarray[Any, np.dtype[np.int32]]] = []
    labels: list[np.ndarray[Any, np.dtype[np.int32]]] = []
    are_task: list[bool] = []
    prompts: list[list[int]] = []
    count, cut, dropped = 0, 0, Counter[str]()
    for count, (record, source, taught) in enumerate(rows.rows(settings.tokens), start=1):
        row = linter.encode(count - 1, record, source)
        if row is None:
            continue
        short = row.cut(limit)
        cut += len(short.ids) < len(row.ids)
        if any(row.mask) and not any(short.mask):
            dropped[NO_ANSWER] += 1
            continue
        linter.check(count - 1, record, source, row)
        ids.append(np.asarray(short.ids, dtype=np.int32))
        labels.append(np.where(short.mask, ids[-1], np.int32(_IGNORED)))
        distilled = taught is not None and settings.pairs_loss == "kl"
        are_task.append(source == "task" and not distilled)
        prompts.append([] if taught is None else _prompt_ids(tokenizer, taught))
    report = linter.report()
    if cut and not settings.truncate:
        raise InputError(
            f"{rows.name}: {cut} of {count} rows are longer than {named} of {limit} tokens (the "
            f"longest has {report.longest}): raise max_length, choose a model with a longer "
            "context, or cut them with truncate (--truncate)"
        )
    if report.problems:
        first, number = report.problems[0], len(report.problems)
        raise TokenError(
            f"{number} problem{'s' * (number != 1)} in {count} rows, the first in "
            f"{rows.places([first.row])[first.row]}: {first.reason}; delia lint lists them"
        )
    if not ids:
        raise InputError(
            f"{rows.name}: no answer token of any of the {count} rows is within {named} of "
            f"{limit} tokens: raise max_length"
        )
    offsets = pa.array(np.cumsum([0, *map(len, ids)]), pa.int32())
    columns = {
        "input_ids": pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(ids))),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(labels))),
        "is_task": pa.array(are_task),
    }
    if any(prompts):
        columns["teacher_prompt"] = pa.array(prompts, pa.list_(pa.int32()))
    from datasets import Dataset

    return EncodedRows(Dataset(pa.table(columns)), cut, dict(dropped))


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, record: Record) -> list[int]:
    """Return the ids of a record before the first one with a loss."""
    row = encode(tokenizer, record, check_prompt=False)
    return list(row.ids[: list(row.mask).index(True)])


class ProvenanceWarning(UserWarning):
    """Another model than the one in training wrote the pairs."""


def mismatched_sources(
    written_by: Mapping[str, Any],
    model: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pairs_loss: str = "ce",
) -> list[str]:
    """Return a line for each cache with another model, chat template, template option or prompt.

    With cross-entropy, only the model's own answers preserve its behavior (paper, section 3). With
    the KL loss any text works, because the model learns the untrained model's distribution and not
    the text. For a model behind an API only the names are compared.

    Args:
        written_by: The mixture's record of the models, by the cache's name.
        model: The model to be trained: the embedded model's name, a folder, or a Hub id.
        tokenizer: Its tokenizer.
        pairs_loss: Loss of the pairs; there are no lines with `"kl"`.
    """
    if not written_by or pairs_loss == "kl":
        return []
    identified: list[dict[str, Any]] = []

    def identities() -> Iterator[dict[str, Any]]:
        """Yield the model's identity in each type; weights are hashed on demand."""
        if (origin := prepared_from(model)) is not None:
            yield origin
            return
        for number, dtype in enumerate(_DTYPES):
            if number == len(identified):
                identified.append(identify_files(model, tokenizer, dtype=dtype))
            yield identified[number]

    own = next(identities())
    lines = []
    for cache, writer in written_by.items():
        name = writer if isinstance(writer, str) else str(writer.get("name"))
        line = f"the {cache}'s pairs were written by {name}, and {own['name']} is trained on them"
        advice = "they do not preserve its behavior: sample pairs from the model"
        if isinstance(writer, str) or writer.get("weights_sha256") is None:
            if _last_part(name) != _last_part(own["name"]):
                lines.append(f"{line}: {advice}")
        elif all(writer["weights_sha256"] != each["weights_sha256"] for each in identities()):
            lines.append(f"{line} (weights {writer['weights_sha256'][:12]} there): {advice}")
        elif writer.get("chat_template_sha256") != own["chat_template_sha256"]:
            lines.append(
                f"the {cache}'s pairs were sampled through another chat template than that of "
                f"{own['name']}: sample them again, or train with the template they were sampled "
                "with"
            )
        sampled = {} if isinstance(writer, str) else writer.get("template_options", {})
        if sampled != template_options(tokenizer):
            lines.append(
                f"the {cache}'s pairs were sampled with {_in_words(sampled)}, and {own['name']} is "
                f"trained with {_in_words(template_options(tokenizer))}: give both the same "
                "--template-option"
            )
        system = None if isinstance(writer, str) else writer.get("system")
        if system:
            lines.append(
                f"the {cache}'s pairs were sampled with the system prompt {system!r} and are "
                "trained without it, so they are not the model's own words for these prompts: "
                "sample them without a system prompt, or set pairs_loss to kl"
            )
    return lines


def _in_words(options: Mapping[str, Any]) -> str:
    given = ", ".join(f"{name}={json.dumps(value)}" for name, value in options.items())
    return f"template options {given}" if given else "no template options"


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()
