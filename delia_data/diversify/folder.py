"""The folder of a diversified task: generate wordings, check, select, assign, and write it.

my-task/
    train.jsonl          rows in their wordings
    test.jsonl           held-out rows in held-out wordings, if the task has held-out rows
    contrast.jsonl       contrast rows, if there are any
    wordings.jsonl       the wordings in use
    rejected.jsonl       the rejected wordings, each with its reason
    undiversified/       the same rows in one wording: another task folder
    written/             the texts of a model that wrote the wordings
    answers/             the answers of the untrained model for contrast rows
    judged/              the verdicts of a judge on wordings
    manifest.json, FINISHED
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from itertools import count as count_from
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jsonlines
import numpy as np
import yaml

from delia_data.diversify.check import (
    GateResult,
    WordingChecker,
    bare_text,
    gate_task_wordings,
)
from delia_data.diversify.contrast import (
    DEFAULT_KINDS,
    check_contrast,
    make_contrast_rows,
)
from delia_data.diversify.generate import (
    WORDING_SAMPLING,
    ParaphraseGenerator,
    read_wordings,
    write_wordings,
)
from delia_data.diversify.plain import plain_form
from delia_data.engines import Engine
from delia_data.engines.base import Sampling
from delia_data.errors import InputError
from delia_data.mixing import TaskRow, TaskRows
from delia_data.mixing.task_rows import CONTRAST_FILE
from delia_data.outputs import (
    FINISHED,
    LOCK,
    Manifest,
    atomic_path,
    check_folder_is_ours,
    finish,
    folder_lock,
)
from delia_data.ranking import rank
from delia_data.records import Message, Record, Rejection
from delia_data.sampling.budget import Budget, Limits
from delia_data.sampling.completion_log import CompletionLog
from delia_data.sampling.embeddings import Embed, Vectors
from delia_data.sampling.filters import JUDGED, Judge, load_detector
from delia_data.tasks import QUERY_SLOT, Task, Wording, ready_wordings
from delia_data.tasks.reading import check_token_is_new, with_query
from delia_data.tasks.scoring import scoring_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


HELD_OUT_SHARE: Final = 0.2
BUNDLED: Final = "bundled"
MODEL: Final = "model"
UNDIVERSIFIED: Final = "undiversified"
WRITTEN: Final = "written"
ANSWERS: Final = "answers"
JUDGED_FOLDER: Final = "judged"
CONTRAST_SAMPLING: Final = Sampling()
NO_LIMITS: Final = Limits()
_QUESTION: Final = (
    "The text above is a request to an assistant. {token} in it names an output format, and {slot} "
    "marks the place of the input; ignore both. Is the request natural and correct language that "
    "a person would write, and does it make sense?"
)
_COUNT: Final = 40  # wordings that a model writes by default
_TRIES_PER_WORDING: Final = 20
_WORDINGS_PER_SPARE: Final = 4  # a model writes one additional wording per 4, to choose from
_ROWS: Final = ("train.jsonl", "test.jsonl")
_LISTS: Final = ("wordings.jsonl", "rejected.jsonl", CONTRAST_FILE)
_NAMES: Final = frozenset({*_ROWS, *_LISTS, UNDIVERSIFIED, WRITTEN, ANSWERS, JUDGED_FOLDER})


@dataclass(frozen=True)
class DiversifiedTask:
    """The result of `make_task_folder`.

    Attributes:
        rows: The rows in their wordings.
        gates: The accepted and the rejected wordings.
        manifest: The manifest of the folder. Its details have what a model wrote (`writing`), the
            `spread` of the wordings if they were embedded, and the `contrast` rows if there are
            any.
    """

    rows: TaskRows
    gates: GateResult
    manifest: Manifest


def make_task_folder(
    task: Task,
    folder: str | os.PathLike[str],
    *,
    wordings: str | os.PathLike[str] | Iterable[Any] | None = None,
    count: int | None = None,
    held_out_share: float = HELD_OUT_SHARE,
    tokenizer: PreTrainedTokenizerBase | None = None,
    embed: Embed | bool = True,
    engine: Engine | Callable[[], Engine] | None = None,
    tries: int | None = None,
    sampling: Sampling = WORDING_SAMPLING,
    any_language: bool = False,
    lenient: bool = False,
    judge: Engine | Callable[[], Engine] | None = None,
    contrast: float = 0,
    contrast_kinds: Sequence[str] = DEFAULT_KINDS,
    contrast_sampling: Sampling = CONTRAST_SAMPLING,
    limits: Limits = NO_LIMITS,
    seed: int = 0,
    on_progress: Callable[[int, int, int, int], None] = lambda *_: None,
    on_answer: Callable[[int, int], None] = lambda *_: None,
) -> DiversifiedTask:
    """Put every row of a task into its own checked wording, and write the task folder.

    Args:
        task: The task.
        folder: Output folder. A rerun resumes the writing of a model.
        wordings: `"bundled"`, `"model"`, or a file or a list of wordings. Default: the bundled
            ones of the task, or else those of a model.
        count: Wordings to accept, those for held-out rows included. Default: all, or 40 of a model.
        held_out_share: Share of the wordings for held-out rows if none is marked as such, 0 to 1.
        tokenizer: Tokenizer in which the token must be a single id.
        embed: Function from texts to unit vectors, to check meaning and to choose the most diverse
            wordings; True for the bundled model, False for neither. Bundled wordings are checked
            already and need it only together with `count`.
        engine: Engine that writes the wordings of `"model"` and the answers of contrast rows, or a
            function that opens it. An engine that the function opens is closed at the end.
        tries: Maximum number of texts that the model writes. Default: 20 for each wording.
        sampling: How the model samples wordings.
        any_language: Accept wordings of a model in any language.
        lenient: Check wordings of a model like those of a person, for large models.
        judge: Engine of a model that judges every wording which passes all other checks, or a
            function that opens it. Its reasons are written with the rejected wordings.
        contrast: Number of contrast rows for each training row, rounded in total: requests near
            the task that the untrained model answers without the format; 0 for none. The model of
            `engine` should be the one to be trained then.
        contrast_kinds: Kinds of contrast rows in the order of their turns: `"plain"` (the request
            without the token), `"forbid"` (it forbids the token's format), `"mention"` (it only
            mentions the token), `"about"` (a question about the token). A kind that is given twice
            has twice the rows.
        contrast_sampling: How the model samples the answers of contrast rows; answers that
            are cut off at its `max_tokens` are dropped, and other requests take their place.
        limits: Maximum dollars and tokens of all that the model writes, earlier runs included.
        seed: Seed of prompts, choices, and the assignment.
        on_progress: Called with the numbers of accepted wordings, of wordings to accept, of tries,
            and of tries at most.
        on_answer: Called with the numbers of usable answers of contrast rows, and of answers to
            get.

    Raises:
        InputError: An argument is wrong, too few wordings pass the checks, too few answers can be
            used, or a limit is reached.
        EngineError: The engine failed.
        OutputError: The folder cannot be written, holds something else, or is in use.
    """
    bundled = ready_wordings(task.name, task.token)
    source = wordings if wordings is not None else (BUNDLED if bundled else MODEL)
    by_model = isinstance(source, str) and source == MODEL
    is_bundled = isinstance(source, str) and source == BUNDLED
    if count is not None and count < 1:
        raise InputError(f"{count} wordings are too few: give at least 1 (--wordings)")
    if count is not None and not by_model and embed is False:
        raise InputError(
            "a number of wordings is chosen by embeddings: leave --no-embeddings (embed=False) out"
        )
    if is_bundled and not bundled:
        raise InputError(
            f"no wordings for task {task.name} are bundled: let a model write them "
            "(--wordings-from model), or give your own file"
        )
    if is_bundled and count is None:
        embed = False
    _check_share(held_out_share)
    if contrast:
        check_contrast(contrast, contrast_kinds)
    if engine is None and (by_model or contrast):
        raise InputError("wordings of a model and contrast rows need an engine: give engine=")
    if embed is True:
        from delia_data.sampling.embeddings import Embedder

        embed = Embedder()
    root, details = Path(folder), dict[str, Any]()
    given = () if by_model else tuple(bundled if is_bundled else read_wordings(source))
    with ExitStack() as stack:

        @cache
        def open_engine() -> tuple[Engine, Budget]:
            assert engine is not None
            opened = _open(engine, root, stack)
            return opened, Budget(limits, opened.prices)

        judging = None
        if judge is not None:
            question = _QUESTION.format(token=task.token, slot=QUERY_SLOT)
            log = CompletionLog(root / JUDGED_FOLDER)
            judging = Judge(_open(judge, root, stack), question, log)
            judging.check_engine(None if callable(engine) else engine, limits)
            stack.enter_context(log.writing(judging.describe()))
        if by_model:
            count = count or _COUNT
            generator = ParaphraseGenerator(task, seed=seed)
            checker = WordingChecker(
                task,
                embed=embed or None,
                tokenizer=tokenizer,
                detect=None if any_language else load_detector(),
                examples=generator.examples,
                strict=not lenient,
                judge=None if judging is None else judging.stored_verdicts,
            )
            spare = count // _WORDINGS_PER_SPARE if embed else 0
            most = tries or _TRIES_PER_WORDING * count
            wanted = count + spare
            opened, budget = open_engine()
            details["writing"] = write_wordings(
                opened,
                generator,
                checker,
                root / WRITTEN,
                count=count,
                tries=most,
                spare=spare,
                sampling=sampling,
                budget=budget,
                on_progress=lambda passed, tried: on_progress(passed, wanted, tried, most),
            )
            gates = checker.result
        else:
            numbers, total = count_from(1), len(given)

            def on_verdict() -> None:
                number = next(numbers)
                on_progress(number, total, number, total)

            checker = WordingChecker(
                task,
                embed=embed or None,
                tokenizer=tokenizer,
                judge=None
                if judging is None
                else partial(judging.stored_verdicts, on_verdict=on_verdict),
            )
            gates = checker.check_all(given)
        if judging is not None:
            details["judge"] = _judge_details(judging, log, gates)
        if task.test and all(wording.split == "train" for wording in gates.accepted):
            aside = set_aside(gates.accepted, task.token, share=held_out_share, seed=seed)
            gates = replace(gates, accepted=aside)
        if not task.test:  # every wording is for training
            trained = tuple(replace(wording, split="train") for wording in gates.accepted)
            gates = replace(gates, accepted=trained)
        if count is not None and embed:
            gates = choose(task, gates, count, embed)
        rows = diversify(task, gates.accepted, seed=seed)
        if contrast:
            made, details["contrast"] = make_contrast_rows(
                open_engine,
                task,
                rows,
                gates.accepted,
                root / ANSWERS,
                share=contrast,
                kinds=contrast_kinds,
                sampling=contrast_sampling,
                seed=seed,
                on_progress=on_answer,
            )
            rows = replace(rows, contrast=made, contrast_by=details["contrast"]["model"])
    if embed:
        details["spread"] = measure(task, gates.accepted, embed, seed=seed)
    manifest = save_task_rows(root, rows, task, seed=seed, gates=gates, details=details)
    return DiversifiedTask(rows, gates, manifest)


def _open(engine: Engine | Callable[[], Engine], folder: Path, stack: ExitStack) -> Engine:
    """Mark the folder into which an engine writes, and open the engine."""
    check_folder_is_ours(folder, _NAMES, sign=LOCK)
    with folder_lock(folder):
        pass
    return stack.enter_context(closing(engine())) if callable(engine) else engine


def _judge_details(judge: Judge, log: CompletionLog, gates: GateResult) -> dict[str, Any]:
    """Return the entry of a manifest for a judge of wordings."""
    rejected = sum(gates.counts.get(reason, 0) for reason in JUDGED)
    accepted, checked = len(gates.accepted), len(gates.accepted) + len(gates.rejected)
    return {
        **judge.describe(),
        "accepted_share_before": round((accepted + rejected) / max(checked, 1), 4),
        "accepted_share_after": round(accepted / max(checked, 1), 4),
        **log.usage(log.by_number),
        "tokens": log.spent[0],
    }


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise InputError(f"held-out share {share} is out of bounds: give above 0, below 1")


def set_aside(
    wordings: Sequence[Wording], token: str, *, share: float = HELD_OUT_SHARE, seed: int = 0
) -> tuple[Wording, ...]:
    """Set a share of wordings aside for held-out rows, at least one.

    Only wordings that have a plain form, given or derived, are set aside: held-out rows are asked
    with the token and without it.

    Returns:
        All wordings in their order; those set aside have the split `"test"` and a plain form.

    Raises:
        InputError: The share is out of range, or no wording has a plain form.
    """
    _check_share(share)
    if len(wordings) < 2:
        return tuple(wordings)
    plains = {w.id: w.plain or plain_form(w.text, token) for w in wordings}
    able = sorted(
        (w.id for w in wordings if plains[w.id]), key=lambda one: rank(seed, one, "held out")
    )
    if not able:
        raise InputError(
            f"none of {len(wordings)} wordings has a form without {token}, which held-out rows "
            'are asked with: give one as "plain"'
        )
    taken = set(able[: min(max(1, round(share * len(wordings))), len(wordings) - 1)])
    return tuple(
        replace(w, split="test", plain=plains[w.id]) if w.id in taken else w for w in wordings
    )


def diversify(task: Task, wordings: Sequence[Wording], *, seed: int = 0) -> TaskRows:
    """Put every row of a task into a checked wording.

    No wording is used twice before all are used once. The assignment follows from a keyed hash of
    the row's content and the seed. System turns and earlier turns of a row stay; its last question
    is worded.

    Args:
        task: The task.
        wordings: Candidates; those of the split `"test"` go to held-out rows only. If the task has
            held-out rows and there are none, a fifth is set aside.
        seed: Seed of the assignment.

    Returns:
        The rows in their wordings.

    Raises:
        InputError: No wording is accepted for a split that has rows.
        TokenError: The rows contain the token already.
    """
    check_token_is_new(task)
    accepted: Sequence[Wording] = gate_task_wordings(task, wordings).accepted
    if task.test and all(wording.split == "train" for wording in wordings):
        accepted = set_aside(accepted, task.token, seed=seed)
    training = [wording for wording in accepted if wording.split == "train"]
    held_out = [wording for wording in accepted if wording.split == "test"]
    if not training or (task.test and not held_out):
        raise InputError(
            f"of {len(wordings)} wordings {len(training)} for training and {len(held_out)} for "
            f"held-out rows pass the gates: give more that name {task.token} once"
        )
    return TaskRows(
        train=tuple(_assign(task, task.train, training, seed)),
        test=tuple(_assign(task, task.test, held_out, seed)),
        token=task.token,
    )


def undiversified(task: Task) -> TaskRows:
    """Put all rows into the same wording, as in ordinary instruction tuning."""
    wording = task.common_wording
    return TaskRows(
        train=tuple(_worded(task, row, wording) for row in task.train),
        test=tuple(_worded(task, row, wording) for row in task.test),
        token=task.token,
    )


def _assign(
    task: Task, rows: Sequence[Record], wordings: Sequence[Wording], seed: int
) -> list[TaskRow]:
    """Assign wordings to rows in the order of keyed hashes; the rows keep their order."""
    if not rows:
        return []
    order = sorted(range(len(rows)), key=lambda i: (rank(seed, rows[i].id, "wording"), i))
    deck = sorted(wordings, key=lambda wording: rank(seed, wording.id, "wording"))
    dealt = {row: deck[place % len(deck)] for place, row in enumerate(order)}
    return [_worded(task, row, dealt[index]) for index, row in enumerate(rows)]


def _worded(task: Task, row: Record, wording: Wording) -> TaskRow:
    plain = None if wording.plain is None else wording.fill_plain(row.query)
    teacher = (Message("system", task.system), *row.prompt) if task.system else None
    return TaskRow(with_query(row, wording.fill(row.query)), wording.id, plain, teacher)


def save_task_rows(
    folder: str | os.PathLike[str],
    rows: TaskRows,
    task: Task,
    *,
    seed: int,
    gates: GateResult,
    details: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a task folder with its manifest; the finish marker comes last.

    Args:
        folder: The folder.
        rows: The rows in their wordings.
        task: The task.
        seed: Seed of the assignment.
        gates: The accepted and the rejected wordings.
        details: More entries of the manifest, such as the spread of the wordings.

    Raises:
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes to the folder.
        OutputError: The folder cannot be written.
    """
    root = Path(folder)
    check_folder_is_ours(root, _NAMES, sign=LOCK)
    used = {row.wording_id for row in (*rows.train, *rows.test)}
    with folder_lock(root):
        _clear(root)
        _clear(root / UNDIVERSIFIED)
        common = root / UNDIVERSIFIED
        _write_rows(common, plain := undiversified(task))
        finish(common, _manifest(plain, task, None, {}, {"wordings": 1}))
        _write_rows(root, rows)
        if rows.contrast:
            _write(root / CONTRAST_FILE, (row.as_row() for row in rows.contrast))
        held = {row.wording_id for row in rows.test}
        lines = [
            _as_line(replace(w, split="test" if w.id in held else "train"))
            for w in gates.accepted
            if w.id in used
        ]
        _write(root / "wordings.jsonl", lines)
        rejected = [
            {**{name: text for name, text in why._asdict().items() if text}, **_as_line(w)}
            for w, why in gates.rejected
        ]
        if rejected:
            _write(root / "rejected.jsonl", rejected)
        more = {"wordings": len(used), **(details or {})}
        return finish(root, _manifest(rows, task, seed, gates.counts, more))


def _manifest(
    rows: TaskRows,
    task: Task,
    seed: int | None,
    dropped: dict[str, int],
    details: Mapping[str, Any],
) -> Manifest:
    settings: dict[str, Any] = {"name": task.name, "token": task.token}
    if seed is not None:
        settings["seed"] = seed
    return Manifest(
        kind="task",
        settings=settings,
        inputs={"task": task.sha256},
        rows={
            "train": len(rows.train),
            "test": len(rows.test),
            **({"contrast": len(rows.contrast)} if rows.contrast else {}),
        },
        dropped=dropped,
        details={
            "instruction": task.instruction,
            "description": task.description,
            "keys": list(task.keys),
            "keywords": list(task.keywords),
            "labels": list(task.labels),
            "scoring": scoring_name(task.scoring),
            **({"system": task.system} if task.system else {}),
            **({"read": dict(task.read)} if task.read else {}),
            **details,
        },
    )


def _write_rows(folder: Path, rows: TaskRows) -> None:
    splits = {"train": rows.train} | ({"test": rows.test} if rows.test else {})
    for name, split in splits.items():
        _write(folder / f"{name}.jsonl", (row.as_row() for row in split))


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with atomic_path(path) as part, jsonlines.open(part, "w") as writer:
        writer.write_all(lines)


def _as_line(wording: Wording) -> dict[str, Any]:
    line = {"text": wording.text, "kind": wording.kind, "split": wording.split, "id": wording.id}
    return line if wording.plain is None else {**line, "plain": wording.plain}


def _clear(folder: Path) -> None:
    for name in (FINISHED, *_ROWS, *_LISTS):
        (folder / name).unlink(missing_ok=True)


def synonym_swaps(text: str, count: int, *, seed: int = 0) -> list[str]:
    """Return different texts in which words of a sentence are replaced by synonyms.

    Args:
        text: The sentence.
        count: Maximum number of texts.
        seed: Seed of the choice.
    """
    data = files("delia_data.diversify") / "data" / "synonyms.yaml"
    synonyms: dict[str, list[str]] = {}
    for group in yaml.safe_load(data.read_text(encoding="utf-8")):
        for word in group:
            synonyms.setdefault(word, group)
    pattern = rf"(?<![{{<])\b({'|'.join(map(re.escape, synonyms))})\b"
    *parts, end = re.split(pattern, text, flags=re.I)  # every second part has synonyms
    slots = [(word[0].isupper(), synonyms[word.lower()]) for word in parts[1::2]]
    total = math.prod(len(group) for _, group in slots)
    if total <= 100_000:
        numbers = sorted(range(total), key=lambda n: rank(seed, str(n), "synonyms"))
    else:
        ranks = (rank(seed, str(n), "synonyms") % total for n in range(4 * count))
        numbers = list(dict.fromkeys(ranks))
    swaps = []
    for number in numbers[:count]:
        for slot, (capital, group) in enumerate(slots):
            number, place = divmod(number, len(group))
            parts[2 * slot + 1] = group[place].capitalize() if capital else group[place]
        swaps.append("".join([*parts, end]))
    return swaps


_SHOWN: Final = 10  # eigenvalues in a manifest


def spread(vectors: Vectors) -> dict[str, Any]:
    """Measure the spread of texts.

    Args:
        vectors: Their embeddings, of length 1; shape (texts, width).

    Returns:
        `texts`, their number; `effective_rank`, the number of directions that they use, 1 to
        `texts`; `mean_distance`, the mean cosine distance of two texts, 0 to 2; and `spectrum`, the
        ten largest shares of directions.
    """
    count = len(vectors)
    likeness = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    shares = np.clip(np.linalg.eigvalsh(likeness / count)[::-1], 0.0, None)
    shares = shares / shares.sum()
    positive = shares[shares > 0]
    pairs = max(count * (count - 1), 1)
    alike = likeness.sum() - np.trace(likeness)
    return {
        "texts": count,
        "effective_rank": round(float(np.exp(-(positive * np.log(positive)).sum())), 3),
        "mean_distance": round(max(0.0, 1 - float(alike) / pairs) if count > 1 else 0.0, 4),
        "spectrum": [round(float(share), 4) for share in shares[:_SHOWN]],
    }


def greedy_spread(vectors: Vectors, count: int) -> list[int]:
    """Choose texts one after another, each the one that raises the spread most.

    The measure is the effective rank of second order, `count² / sum of squared similarities`, which
    needs one product for each choice instead of eigenvalues.

    Args:
        vectors: Embeddings of length 1; shape (texts, width).
        count: Number of texts to choose; all if there are fewer.

    Returns:
        Positions in the order of the choice. Ties go to the first.
    """
    likeness = np.square(vectors.astype(np.float64) @ vectors.T.astype(np.float64))
    chosen: list[int] = []
    # Begin with the text that is least similar to all others.
    added = likeness.sum(axis=1)
    while len(chosen) < min(count, len(vectors)):
        added[chosen] = np.inf
        best = int(np.argmin(added))
        added = likeness[:, best].copy() if not chosen else added + likeness[:, best]
        chosen.append(best)
    return chosen


def measure(
    task: Task, wordings: Sequence[Wording], embed: Embed, *, seed: int = 0
) -> dict[str, Any]:
    """Measure the `spread` of wordings, and that of as many synonym swaps of one sentence.

    Returns:
        The two as `wordings` and `synonyms`, and the `gain` of effective rank from one to other.
    """
    swaps = synonym_swaps(task.common_wording.text, len(wordings), seed=seed)
    own = spread(_embedded(task, [wording.text for wording in wordings], embed))
    synonyms = spread(_embedded(task, swaps, embed))
    gain = own["effective_rank"] / max(synonyms["effective_rank"], 1.0)
    return {"wordings": own, "synonyms": synonyms, "gain": round(gain, 3)}


def choose(task: Task, gates: GateResult, count: int, embed: Embed) -> GateResult:
    """Choose some of the accepted wordings, each the one that raises the spread most.

    The share of wordings for held-out rows stays the same.

    Returns:
        The chosen wordings in their order; the others are rejected as `"not_chosen"`.

    Raises:
        InputError: Fewer wordings were accepted.
    """
    accepted = gates.accepted
    if count > len(accepted):
        complaint = gates.complaint()
        raise InputError(
            f"{len(accepted)} of {count} wordings pass the gates"
            f"{f'; {complaint}' if complaint else ''}: give more, or ask for fewer (--wordings)"
        )
    held = [i for i, wording in enumerate(accepted) if wording.split == "test"]
    trained = [i for i, wording in enumerate(accepted) if wording.split == "train"]
    aside = round(count * len(held) / len(accepted))
    if held and trained:
        aside = min(max(1, aside), count - 1) if count > 1 else 0
    chosen: set[int] = set()
    for places, wanted in ((held, aside), (trained, count - aside)):
        vectors = _embedded(task, [accepted[i].text for i in places], embed)
        chosen |= {places[i] for i in greedy_spread(vectors, wanted)}
    left = [(accepted[i], Rejection("not_chosen")) for i in range(len(accepted)) if i not in chosen]
    return GateResult(tuple(accepted[i] for i in sorted(chosen)), (*gates.rejected, *left))


def _embedded(task: Task, texts: Sequence[str], embed: Embed) -> Vectors:
    return embed([bare_text(text, task.token) for text in texts])
