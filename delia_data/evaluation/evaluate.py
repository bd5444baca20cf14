"""From a system and a task to a folder with all that was measured.

system + task ──▶ probes ──▶ answers ──▶ outcomes ──▶ scores

folder/
    asking.json       what the answers depend on; a rerun under other settings is refused
    answers.jsonl     a line for each question, as soon as it is answered
    rows.jsonl        row by row: what was asked, answered, and what it comes to
    evaluation.json   the scores with their intervals
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

    A rerun asks only for answers that are missing: after a kill, for more rows, for other probes.

    Args:
        engine: The system, with the model that is evaluated.
        task: The task.
        folder: Where all that is measured goes.
        probes: Which probes, of `PROBES`.
        rows: Held-out rows to ask at most, by keyed hash; all if not given.
        max_tokens: Tokens of an answer at most; the likeliest token is taken each time.
        build: Changes the prompts, as baselines without training do.
        prompts: What `build` is called.
        seed: Seed of the rows, of the training wordings, and of the intervals.
        metrics: Corpus scores, for translations.
        notes: What a reader should know of the system.
        on_progress: Called with the questions answered so far and their number in all.

    Returns:
        The scores, as they stand in `evaluation.json`.

    Raises:
        InputError: A probe is unknown, or cannot be put.
        SettingsError: The folder holds answers of another model, or to other prompts.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process evaluates there.
        EngineError: Some questions failed; the others' answers stay.
    """
    root, how = Path(folder), Resampling(seed=seed)
    put = make_probes(task, probes, rows=rows, seed=seed)
    check_folder_is_ours(root, frozenset({ASKING, ANSWERS, ROWS, EVALUATION}), sign=LOCK)
    with folder_lock(root):
        answered = generate_answers_unlocked(
            engine,
            put,
            root,
            max_tokens=max_tokens,
            build=build,
            prompts=prompts,
            on_progress=on_progress,
        )
        system = json.loads((root / ASKING).read_text(encoding="utf-8"))
        scored = grade_answers(task, answered)
        told = {"": notes, **{probe.name: probe.notes for probe in put}}
        found = score(scored, task, system=system, how=how, metrics=metrics, notes=told)
        (root / FINISHED).unlink(missing_ok=True)
        write_scored_rows(root / ROWS, scored)
        write_json(root / EVALUATION, found.as_dict())
        settings = {
            **system,
            "task": task.name,
            "token": task.token,
            "format": task.form.as_dict(),
            "rows": rows,
            "seed": seed,
            "intervals": asdict(how),
        }
        counts = {probe.probe: probe.rows for probe in found.probes}
        inputs = {"task": task.sha256}
        finish(root, Manifest(kind="evaluation", settings=settings, inputs=inputs, rows=counts))
    return found


def read_evaluation(folder: str | os.PathLike[str]) -> tuple[Evaluation, list[ScoredRow]]:
    """Read a finished evaluation: its scores, and its rows.

    Raises:
        InputError: The folder holds something else.
        UnfinishedError: It has no finish marker.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if manifest.kind != "evaluation" or EVALUATION not in manifest.files:
        raise InputError(
            f"{root} holds a {manifest.kind} and no {EVALUATION}: give what delia evaluate wrote"
        )
    found = Evaluation.from_dict(
        json.loads((root / EVALUATION).read_text(encoding="utf-8")), where=str(root / EVALUATION)
    )
    return found, read_scored_rows(root / ROWS)


def compare_folders(
    ours: str | os.PathLike[str],
    theirs: str | os.PathLike[str],
    *,
    seed: int = 0,
    metrics: Sequence[CorpusMetric] = (),
) -> Comparison:
    """Compare two finished evaluations of one task: the first minus the second.

    Raises:
        InputError: They are of different tasks, or have no rows in common.
        UnfinishedError: One is not finished.
    """
    (first, rows), (second, others) = read_evaluation(ours), read_evaluation(theirs)
    if (first.task, first.form) != (second.task, second.form):
        raise InputError(
            f"{ours} is of task {first.task!r} and {theirs} of {second.task!r}, or their formats "
            "differ: compare two evaluations of one task"
        )
    notes = []
    lengths = [each.system.get("max_tokens") for each in (first, second)]
    if lengths[0] != lengths[1]:
        notes.append(f"answers were cut at {lengths[0]} tokens and at {lengths[1]}")
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
    """Open what is to be evaluated.

    Args:
        model: An adapter's folder, or a model as the engine takes it.
        engine: Name of the engine.
        options: Its options.
        token: The task's token.
        add: How the token's embedding begins, where it is to be added to a model without it.
        seed: Seed of that.

    Returns:
        The engine, and what a reader should know of it.

    Raises:
        InputError: The model, the engine or an option cannot be used.
        TokenError: The adapter was trained for another token, or the model has the token already.
        UnfinishedError: The adapter's training has not come to its end.
    """
    if add is not None and add not in INITS:
        raise InputError(f"init {add!r} is unknown: use one of {', '.join(INITS[:2])}")
    if add == "description":
        raise InputError(
            "--add-token takes mean or normal: for init description, write a model with delia "
            "prepare, and evaluate that"
        )
    trained = _is_adapter(Path(model))
    if engine != "transformers":
        if trained:
            raise InputError(
                f"{model} is an adapter, and engine {engine} does not take one: merge it with "
                "delia export, and give that, or use --engine transformers"
            )
        if add is not None:
            raise InputError(
                f"--add-token is for --engine transformers: for {engine}, write a model with "
                "delia prepare, and give that"
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
            raise InputError(f"{model} is an adapter, which has its token: leave --add-token out")
        loaded, tokenizer = _load_adapter(model, device, token)
        return TransformersEngine(loaded, tokenizer, batch_size=batch_size), []
    loaded, tokenizer = load_model(model, device=device), load_tokenizer(model)
    notes = _notes_on(tokenizer, token)
    if add is not None:
        if not notes:
            raise TokenError(f"{model} has {token} already: leave --add-token out")
        init: Any = add
        add_token(loaded, tokenizer, token, init=init, seed=seed)
        notes = [f"{token} was added to the model, its embedding begun as {add}, and not trained"]
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
    """What is to be said of a token that an engine of its own loads."""
    if engine in _SERVERS:
        return [f"whether {token} is one token of the served model cannot be told from here"]
    return [] if engine == "mock" else _notes_on(load_tokenizer(model), token)


def _notes_on(tokenizer: PreTrainedTokenizerBase, token: str) -> list[str]:
    pieces = len(tokenizer.encode(token, add_special_tokens=False))
    if pieces == 1:
        return []
    return [f"{token} is no token of this model, which reads it as text of {pieces} tokens"]
