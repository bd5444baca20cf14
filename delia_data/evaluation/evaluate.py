"""Evaluate a system on a task, compare evaluations, and read their folders.

system + task ──▶ probes ──▶ answers ──▶ outcomes ──▶ scores

folder/
    asking.json       settings that the answers depend on; a rerun with other settings fails
    answers.jsonl     one line per answer, appended as soon as it is generated
    rows.jsonl        questions, answers and grades of each row
    evaluation.json   scores with their intervals
    manifest.json, FINISHED
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.engines import Engine, load_engine
from delia_data.errors import InputError, TokenError
from delia_data.evaluation.bootstrap import Resampling
from delia_data.evaluation.comparison import Comparison, compare
from delia_data.evaluation.generation import (
    ANSWERS,
    ASKING,
    PromptBuilder,
    generate_answers_unlocked,
)
from delia_data.evaluation.probes import PROBES, EvalTask, make_probes
from delia_data.evaluation.scores import (
    Evaluation,
    ScoredRow,
    grade_answers,
    read_scored_rows,
    score,
    write_scored_rows,
)
from delia_data.evaluation.translation import CorpusMetric
from delia_data.models import load_model, load_tokenizer
from delia_data.outputs import (
    FINISHED,
    LOCK,
    MANIFEST,
    Manifest,
    check_folder_is_ours,
    finish,
    folder_lock,
    read_manifest,
    write_json,
)
from delia_data.tokens import INITS, add_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EVALUATION: Final = "evaluation.json"
ROWS: Final = "rows.jsonl"


def evaluate(
    engine: Engine,
    task: EvalTask,
    folder: str | os.PathLike[str],
    *,
    probes: Sequence[str] = PROBES,
    rows: int | None = None,
    max_tokens: int = 96,
    build: PromptBuilder | None = None,
    prompts: str = "",
    seed: int = 0,
    metrics: Sequence[CorpusMetric] = (),
    notes: Sequence[str] = (),
    on_progress: Callable[[float, float], None] = lambda done, of: None,
) -> Evaluation:
    """Evaluate a system on a task's held-out rows.

    A rerun generates only missing answers: after a kill, for more rows, or for other probes.

    Args:
        engine: Engine with the model to evaluate.
        task: The task.
        folder: Output folder.
        probes: Names of probes, of `PROBES`.
        rows: Maximum number of held-out rows, selected by keyed hash; default: all.
        max_tokens: Maximum number of tokens in an answer. Decoding is greedy.
        build: Changes the prompts; used by baselines without training.
        prompts: Name of `build`.
        seed: Seed of the rows, the training wordings, and the intervals.
        metrics: Corpus scores of translations.
        notes: Notes on the system for the reader.
        on_progress: Called with the number of questions done, and the number in all.

    Returns:
        The scores, which are also in `evaluation.json`.

    Raises:
        InputError: A probe is unknown, or the task has no wordings for it.
        SettingsError: The folder has answers of another model, or to other prompts.
        ForeignFolderError: The folder contains something else.
        LockedError: Another process evaluates into the folder.
        EngineError: Some questions failed; the other answers are kept.
    """
    root, how = Path(folder), Resampling(seed=seed)
    asked = make_probes(task, probes, rows=rows, seed=seed)
    check_folder_is_ours(root, frozenset({ASKING, ANSWERS, ROWS, EVALUATION}), sign=LOCK)
    with folder_lock(root):
        answered = generate_answers_unlocked(
            engine,
            asked,
            root,
            max_tokens=max_tokens,
            build=build,
            prompts=prompts,
            on_progress=on_progress,
        )
        system = json.loads((root / ASKING).read_text(encoding="utf-8"))
        scored = grade_answers(task, answered)
        by_probe = {"": notes, **{probe.name: probe.notes for probe in asked}}
        evaluation = score(scored, task, system=system, how=how, metrics=metrics, notes=by_probe)
        (root / FINISHED).unlink(missing_ok=True)
        write_scored_rows(root / ROWS, scored)
        write_json(root / EVALUATION, evaluation.as_dict())
        settings = {
            **system,
            "task": task.name,
            "token": task.token,
            "format": task.form.as_dict(),
            "rows": rows,
            "seed": seed,
            "intervals": asdict(how),
        }
        counts = {probe.probe: probe.rows for probe in evaluation.probes}
        inputs = {"task": task.sha256}
        finish(root, Manifest(kind="evaluation", settings=settings, inputs=inputs, rows=counts))
    return evaluation


def read_evaluation(folder: str | os.PathLike[str]) -> tuple[Evaluation, list[ScoredRow]]:
    """Read the scores and the rows of a finished evaluation.

    Raises:
        InputError: The folder contains something else.
        UnfinishedError: The folder has no finish marker.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if manifest.kind != "evaluation" or EVALUATION not in manifest.files:
        raise InputError(
            f"{root} has no {EVALUATION}, it contains a {manifest.kind}: give a folder that "
            "delia evaluate wrote"
        )
    values = json.loads((root / EVALUATION).read_text(encoding="utf-8"))
    evaluation = Evaluation.from_dict(values, where=str(root / EVALUATION))
    return evaluation, read_scored_rows(root / ROWS)


def compare_folders(
    ours: str | os.PathLike[str],
    theirs: str | os.PathLike[str],
    *,
    seed: int = 0,
    metrics: Sequence[CorpusMetric] = (),
) -> Comparison:
    """Subtract the scores of a finished evaluation from those of another one of the same task.

    Raises:
        InputError: The tasks differ, or there are no rows in common.
        UnfinishedError: An evaluation is not finished.
    """
    (first, rows), (second, others) = read_evaluation(ours), read_evaluation(theirs)
    if (first.task, first.form) != (second.task, second.form):
        raise InputError(
            f"{ours} evaluates task {first.task!r} and {theirs} task {second.task!r}, or their "
            "formats differ: compare two evaluations of the same task"
        )
    notes = []
    lengths = [each.system.get("max_tokens") for each in (first, second)]
    if lengths[0] != lengths[1]:
        notes.append(f"answers were cut off at {lengths[0]} and at {lengths[1]} tokens")
    return compare(rows, others, Resampling(seed=seed), metrics=metrics, notes=notes)


_SERVERS: Final = ("openai", "litellm")
_ADAPTER: Final = ("adapter_config.json", "training.json")


def open_system(
    model: str,
    engine: str,
    options: Mapping[str, Any],
    *,
    token: str,
    add: str | None = None,
    seed: int = 0,
) -> tuple[Engine, list[str]]:
    """Open a system to evaluate.

    Args:
        model: Folder of an adapter, or the engine's model.
        engine: Name of the engine.
        options: Options of the engine.
        token: The task's token.
        add: Initialization of the token's embedding, to add the token to a model without it.
        seed: Seed of the initialization.

    Returns:
        The engine, and notes for the reader.

    Raises:
        InputError: The model, the engine or an option cannot be used.
        TokenError: The adapter was trained for another token, or the model has the token already.
        UnfinishedError: The adapter's training is not finished.
    """
    if add is not None and add not in INITS:
        raise InputError(f"init {add!r} is unknown: use one of {', '.join(INITS[:2])}")
    if add == "description":
        raise InputError(
            "--add-token takes mean or normal: for init description, write a model with delia "
            "prepare, and evaluate it"
        )
    trained = _is_adapter(Path(model))
    if engine != "transformers":
        if trained:
            raise InputError(
                f"{model} is an adapter, and engine {engine} does not take one: merge it with "
                "delia export and give the result, or use --engine transformers"
            )
        if add is not None:
            raise InputError(
                f"--add-token is for --engine transformers: for {engine}, write a model with "
                "delia prepare, and give it"
            )
        return load_engine(engine, model=model, **options), _notes_of(engine, model, token)
    return _open_here(model, options, trained=trained, token=token, add=add, seed=seed)


def _open_here(
    model: str,
    options: Mapping[str, Any],
    *,
    trained: bool,
    token: str,
    add: str | None,
    seed: int,
) -> tuple[Engine, list[str]]:
    from delia_data.engines.transformers import TransformersEngine

    given = dict(options)
    device, batch_size = given.pop("device", "cpu"), given.pop("batch_size", 32)
    if given:
        raise InputError(f"engine 'transformers' has no option {', '.join(sorted(given))}")
    if trained:
        if add is not None:
            raise InputError(f"{model} is an adapter, which has its token: omit --add-token")
        loaded, tokenizer = _load_adapter(model, device, token)
        return TransformersEngine(loaded, tokenizer, batch_size=batch_size), []
    loaded, tokenizer = load_model(model, device=device), load_tokenizer(model)
    notes = _notes_on(tokenizer, token)
    if add is not None:
        if not notes:
            raise TokenError(f"{model} already has {token}: omit --add-token")
        init: Any = add
        add_token(loaded, tokenizer, token, init=init, seed=seed)
        notes = [f"{token} was added to the model with embedding {add}, and not trained"]
    return TransformersEngine(loaded, tokenizer, batch_size=batch_size), notes


def _is_adapter(folder: Path) -> bool:
    if (folder / MANIFEST).is_file():
        return read_manifest(folder).kind == "adapter"
    return any((folder / name).is_file() for name in _ADAPTER)


def _load_adapter(
    folder: str, device: str, token: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from delia_data.training import load_adapter

    own = read_manifest(folder).settings.get("token")
    if own != token:
        raise TokenError(
            f"{folder} was trained for {own}, and the task's token is {token}: give the task that "
            "it was trained on"
        )
    return load_adapter(folder, device=device)


def _notes_of(engine: str, model: str, token: str) -> list[str]:
    """Return notes on a token in a model that another engine loads."""
    if engine in _SERVERS:
        return [f"unknown whether {token} is a single token of the served model"]
    return [] if engine == "mock" else _notes_on(load_tokenizer(model), token)


def _notes_on(tokenizer: PreTrainedTokenizerBase, token: str) -> list[str]:
    pieces = len(tokenizer.encode(token, add_special_tokens=False))
    if pieces == 1:
        return []
    return [f"{token} is not a token of this model, which reads it as {pieces} tokens"]
