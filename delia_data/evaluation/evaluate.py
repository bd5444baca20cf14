"""Evaluate a system on a task, compare evaluations, and read their folders.

system + task ──▶ probes ──▶ answers ──▶ outcomes ──▶ numbers
                  pairs  ──▶ divergences ─────────────┘

folder/
    asking.json          settings that the answers depend on; a rerun with other settings fails
    answers.jsonl        one line per answer, appended as soon as it is generated
    divergences.jsonl    one line per held-out pair
    rows.jsonl           questions, answers and grades of each row
    general.json         scores on tasks of lm-eval, if there are any
    evaluation.json      numbers with their intervals
    model_card.md        the same as a table for a model card
    manifest.json, FINISHED
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.engines import Engine
from delia_data.errors import InputError, MissingExtraError, TokenError
from delia_data.evaluation.bootstrap import Resampling
from delia_data.evaluation.generation import (
    ANSWERS,
    ASKING,
    INSTRUCTED,
    MODEL,
    UNTRAINED,
    System,
    generate_answers,
    read_answer_log,
)
from delia_data.evaluation.keep import (
    Divergence,
    divergences,
    lm_eval_scores,
    read_pairs,
    similarities,
)
from delia_data.evaluation.probes import (
    DEFAULT_PROBES,
    EvalTask,
    Probe,
    make_probes,
    two_token_probe,
)
from delia_data.evaluation.scores import (
    Comparison,
    Evaluation,
    ScoredRow,
    agreement,
    compare,
    count_formats,
    count_two_formats,
    grade_answers,
    read_scored_rows,
    score,
    write_scored_rows,
)
from delia_data.evaluation.tables import model_card
from delia_data.evaluation.translation import CorpusMetric
from delia_data.outputs import (
    FINISHED,
    LOCK,
    JsonlLog,
    Manifest,
    check_folder_is_ours,
    finish,
    folder_lock,
    read_manifest,
    write_json,
    write_text,
)
from delia_data.records import Record
from delia_data.sampling.embeddings import Embedder
from delia_data.tokens import encode

if TYPE_CHECKING:
    from delia_data.sampling.embeddings import Embed

EVALUATION: Final = "evaluation.json"
ROWS: Final = "rows.jsonl"
DIVERGENCES: Final = "divergences.jsonl"
CARD: Final = "model_card.md"
_GENERAL: Final = "general.json"
_NAMES: Final = frozenset({ASKING, ANSWERS, ROWS, EVALUATION, CARD, DIVERGENCES, _GENERAL})


def evaluate(
    system: Engine | System,
    task: EvalTask,
    folder: str | os.PathLike[str],
    *,
    probes: Sequence[str] = DEFAULT_PROBES,
    rows: int | None = None,
    max_tokens: int = 96,
    max_thinking_tokens: int | None = None,
    pairs: str | os.PathLike[str] | Sequence[Record] | None = "bundled",
    general_tasks: Sequence[str] = (),
    others: Sequence[EvalTask] = (),
    reuse: Sequence[str | os.PathLike[str]] = (),
    embed: Embed | None = None,
    seed: int = 0,
    metrics: Sequence[CorpusMetric] = (),
    on_progress: Callable[[float, float], None] = lambda done, of: None,
) -> Evaluation:
    """Evaluate a system on a task: follow, leak, obey, keep, right and save, with two bounds.

    A rerun generates only missing answers: after a kill, for more rows, or for other probes.

    Args:
        system: The system (`open_system`), or an engine alone, without an untrained model.
        task: The task.
        folder: Output folder.
        probes: Names of probes, of `PROBES`.
        rows: Maximum number of held-out rows, selected by keyed hash; default: all.
        max_tokens: Maximum number of tokens in an answer. Decoding is greedy.
        max_thinking_tokens: Maximum number of tokens in the thoughts before it (`Sampling`).
        pairs: Held-out pairs for the divergence: a cache, a file, or the rows (`read_pairs`). None
            measures none.
        general_tasks: Tasks of lm-eval for the trained and the untrained model.
        others: Tasks of the model's other tokens, whose held-out rows are asked too: which format
            do answers have under each token (`Evaluation.confusion`), and under two of them
            (`Evaluation.combined`)?
        reuse: Evaluations of the same system on other tasks: answers to equal requests, and the
            divergence of equal pairs, are copied from them.
        embed: Turns answers into vectors; default: all-MiniLM-L6-v2 if it is installed.
        seed: Seed of the rows, the pairs, and the intervals.
        metrics: Corpus scores of translations.
        on_progress: Called with the number of questions done and in all; then with that of pairs.

    Returns:
        The numbers, which are also in `evaluation.json`.

    Raises:
        InputError: A probe is unknown, a row has no plain form, or tasks have the same token.
        TokenError: The adapter was not trained for the token of another task.
        SettingsError: The folder, or one of `reuse`, has answers of another model, or to other
            prompts.
        ForeignFolderError: The folder contains something else.
        LockedError: Another process evaluates into the folder.
        EngineError: Some questions failed; the other answers are kept.
        MissingExtraError: lm-eval is not installed, and some of its tasks are given.
    """
    opened = system if isinstance(system, System) else System(system)
    root, how = Path(folder), Resampling(seed=seed)
    requested = make_probes(task, probes, rows=rows, seed=seed)
    under_tokens = _held_out_by_token([task, *others], opened, rows, seed) if others else {}
    by_token = sorted([task, *others], key=lambda one: one.token)
    under_two = [
        (*two, two_token_probe(*two, rows=rows, seed=seed)) for two in combinations(by_token, 2)
    ]
    if general_tasks and opened.models is None:
        raise InputError(
            "tasks of lm-eval need a model that is loaded here and its untrained model: evaluate "
            "an adapter, or a model with --untrained MODEL, by the engine transformers"
        )
    check_output(root)
    with folder_lock(root):
        ask = partial(
            generate_answers,
            opened.engine,
            folder=root,
            max_tokens=max_tokens,
            max_thinking_tokens=max_thinking_tokens,
            locked=True,
            reuse=reuse,
            on_progress=on_progress,
        )
        answered = ask(requested, untrained=_reference(opened.untrained, max_tokens))
        described = json.loads((root / ASKING).read_text(encoding="utf-8"))
        unknown: dict[str, str] = {}
        scored = _with_saved(grade_answers(task, answered), requested, opened)
        scored = _with_cosines(scored, task, embed, unknown)
        if task.system:
            unknown["right"] = "answers to a system prompt have no score but the agreement"
        measured = _diverge(opened, task, root, pairs, seed, unknown, on_progress, reuse)
        (root / FINISHED).unlink(missing_ok=True)
        evaluation = score(
            scored,
            task,
            system=described,
            how=how,
            metrics=metrics,
            divergences=measured,
            unknown=unknown,
            notes=opened.notes,
        )
        texts = {
            token: [row.answers[MODEL] for row in ask([probe])]
            for token, probe in under_tokens.items()
        }
        evaluation = replace(
            evaluation,
            general_tasks=_general(opened, root, general_tasks),
            confusion=count_formats([task, *others], texts),
            combined={
                f"{one.token} {two.token}": count_two_formats(
                    one, two, [row.answers[MODEL] for row in ask([probe])]
                )
                for one, two, probe in under_two
            },
        )
        write_scored_rows(root / ROWS, scored)
        write_json(root / EVALUATION, asdict(evaluation))
        write_text(root / CARD, model_card(evaluation))
        settings = {
            **described,
            "task": task.name,
            "token": task.token,
            "format": task.form.as_dict(),
            "rows": rows,
            "seed": seed,
            "intervals": asdict(how),
        }
        counts = {**evaluation.rows, **({"pairs": len(measured)} if measured else {})}
        inputs = {"task": task.sha256, **({"weights": w} if (w := opened.weights) else {})}
        finish(root, Manifest(kind="evaluation", settings=settings, inputs=inputs, rows=counts))
    return evaluation


def check_output(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder with other content (`ForeignFolderError`), before a model is loaded."""
    check_folder_is_ours(folder, _NAMES, sign=LOCK)


def _held_out_by_token(
    tasks: Sequence[EvalTask], system: System, rows: int | None, seed: int
) -> dict[str, Probe]:
    """Return the held-out rows of each task by its token."""
    tokens = [task.token for task in tasks]
    if len(set(tokens)) < len(tokens):
        raise InputError(f"tasks with tokens {', '.join(tokens)}: give tasks of different tokens")
    if untrained := [token for token in tokens if system.tokens and token not in system.tokens]:
        raise TokenError(
            f"the adapter was trained for {', '.join(system.tokens)}, not for {untrained[0]}: give "
            "tasks that it was trained on"
        )
    return {task.token: make_probes(task, ("held-out",), rows=rows, seed=seed)[0] for task in tasks}


def _reference(untrained: Engine | Path | None, max_tokens: int) -> Any:
    """Return the untrained model's engine, or its answers from an evaluation's folder."""
    if not isinstance(untrained, Path):
        return untrained
    settings = json.loads((untrained / ASKING).read_text(encoding="utf-8"))
    if settings["max_tokens"] != max_tokens:
        raise InputError(
            f"the answers in {untrained} have at most {settings['max_tokens']} tokens: give "
            f"--max-tokens {settings['max_tokens']}, or evaluate the untrained model again"
        )
    return read_answer_log(untrained / ANSWERS, MODEL)


def _with_saved(
    rows: Sequence[ScoredRow], probes: Sequence[Probe], system: System
) -> list[ScoredRow]:
    """Add the prompt tokens saved against the full instruction, if there is a tokenizer."""
    requests = {(probe.name, row.id): row for probe in probes for row in probe.rows}
    scored = []
    for row in rows:
        request = requests[row.answered.probe, row.answered.id]
        if system.tokenizer is not None and request.full:
            full, short = map(system.prompt_tokens, (request.full, request.prompt))
            row = replace(row, saved=full - short)
        scored.append(row)
    return scored


def _with_cosines(
    rows: Sequence[ScoredRow], task: EvalTask, embed: Embed | None, unknown: dict[str, str]
) -> list[ScoredRow]:
    """Add the similarity of unrelated answers to those of the untrained model.

    If the token stands for a system prompt, also add the agreement of held-out answers with those
    to the system prompt.
    """
    scored = list(rows)
    compared: dict[tuple[int, str], tuple[str, str]] = {}  # by place, and system or "similar"
    for place, row in enumerate(rows):
        probe, answers = row.answered.probe, row.answered.answers
        if probe == "unrelated" and {MODEL, UNTRAINED} <= answers.keys():
            compared[place, "similar"] = answers[MODEL], answers[UNTRAINED]
        if task.system and probe == "held-out" and INSTRUCTED in answers:
            target, values = answers[INSTRUCTED], {}
            for name, text in {**answers, INSTRUCTED: row.answered.expected}.items():
                value = agreement(task.form, text, target)
                if value is None:
                    compared[place, name] = text, target
                else:
                    values[name] = value
            scored[place] = replace(row, agreement=values)
    ours, theirs = ([pair[side] for pair in compared.values()] for side in (0, 1))
    try:
        cosines = similarities(ours, theirs, lambda: embed or Embedder())
    except MissingExtraError as error:
        numbers = ("similar" if name == "similar" else "agree" for _, name in compared)
        unknown.update(dict.fromkeys(numbers, str(error)))
        return scored
    for (place, name), value in zip(compared, cosines, strict=True):
        row = scored[place]
        if name == "similar":
            scored[place] = replace(row, similarity=value)
        else:
            scored[place] = replace(row, agreement={**row.agreement, name: max(0.0, value)})
    return scored


def _diverge(
    system: System,
    task: EvalTask,
    root: Path,
    source: str | os.PathLike[str] | Sequence[Record] | None,
    seed: int,
    unknown: dict[str, str],
    on_progress: Callable[[float, float], None],
    reuse: Sequence[str | os.PathLike[str]],
) -> list[Divergence]:
    """Measure the divergence of each pair that is not in the log yet; return all of the pairs."""
    if source is None:
        unknown["kl"] = "no pairs were given (--pairs)"
        return []
    if system.models is None:
        if isinstance(system.untrained, Path):
            unknown["kl"] = "an evaluation of the untrained model holds no distributions"
        elif system.untrained is not None:
            unknown["kl"] = "the engine gives no distributions: use --engine transformers"
        return []
    if isinstance(source, str | os.PathLike):
        pairs: Iterable[Record] = read_pairs(source, tokens=(task.token,), seed=seed)
    else:
        pairs = source
    wanted = {pair.id: pair for pair in pairs}
    trained, untrained = system.models
    if untrained.tokenizer is not trained.tokenizer and any(
        encode(trained.tokenizer, pair).ids != encode(untrained.tokenizer, pair).ids
        for pair in wanted.values()
    ):
        unknown["kl"] = "the untrained model reads pairs as other tokens"
        return []
    log: JsonlLog[Divergence] = JsonlLog(
        root / DIVERGENCES, Divergence, if_damaged="and its pair is measured again"
    )
    done = {one.id: one for one, *_ in log.read()}
    # Without `system.tokens` the token of the task is left out, so that divergences differ.
    reusable = [one for folder in reuse if system.tokens for one in read_divergences(folder)]
    shared = {one.id: one for one in reusable if one.id in wanted and one.id not in done}
    done |= shared
    missing = [pair for pair_id, pair in wanted.items() if pair_id not in done]
    with log:
        if shared:
            log.append(*shared.values())
        for number, one in enumerate(
            divergences(
                trained.model,
                trained.tokenizer,
                missing,
                untrained=untrained.model,
                switched_off=system.switched_off,
                tokens=system.tokens or (task.token,),
            ),
            len(wanted) - len(missing) + 1,
        ):
            log.append(one)
            done[one.id] = one
            on_progress(number, len(wanted))
    return [done[pair_id] for pair_id in wanted]


def _general(
    system: System, root: Path, names: Sequence[str]
) -> Mapping[str, Mapping[str, tuple[float, float | None]]]:
    """Return the scores on tasks of lm-eval; those of an earlier run with these names count."""
    if not names or system.models is None:
        return {}
    file = root / _GENERAL
    if file.is_file() and (earlier := json.loads(file.read_text("utf-8")))["names"] == list(names):
        return {
            name: {k: (v[0], v[1]) for k, v in s.items()} for name, s in earlier["scores"].items()
        }
    scores = {}
    for name, engine in zip((MODEL, UNTRAINED), system.models, strict=True):
        with system.switched_off() if name == UNTRAINED else nullcontext():
            scores[name] = lm_eval_scores(
                names, engine.model, engine.tokenizer, batch_size=engine.batch_size
            )
    write_json(file, {"names": list(names), "scores": scores})
    return scores


def read_evaluation(folder: str | os.PathLike[str]) -> tuple[Evaluation, list[ScoredRow]]:
    """Read the numbers and the rows of a finished evaluation.

    Raises:
        InputError: The folder contains something else, or an earlier version wrote it.
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


def read_divergences(folder: str | os.PathLike[str]) -> list[Divergence]:
    """Read the divergences of an evaluation; empty if it measured none."""
    log = JsonlLog(Path(folder) / DIVERGENCES, Divergence, if_damaged="and evaluate again")
    return [one for one, *_ in log.read()]


def compare_folders(
    ours: str | os.PathLike[str],
    theirs: str | os.PathLike[str],
    *,
    seed: int = 0,
    metrics: Sequence[CorpusMetric] = (),
) -> Comparison:
    """Subtract the numbers of a finished evaluation from those of another one of the same task.

    Raises:
        InputError: The tasks differ, there are no rows in common, or an earlier version wrote one.
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
    return compare(
        rows,
        others,
        Resampling(seed=seed),
        metrics=metrics,
        divergences=(read_divergences(ours), read_divergences(theirs)),
        notes=notes,
    )
