"""Run one cell: train, load, evaluate, measure, write the result. A killed cell resumes.

cell/
adapter/        trained weights, deleted at the end unless they are to be kept
answers/        every answer, written when it is generated
result.json     everything that tables and figures need
run.json        seconds by step, machine, versions, date
manifest.json, FINISHED
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import FormatError, InputError, MissingExtraError
from delia_data.evaluation.generation import MODEL, UNTRAINED, SwitchedOffEngine, generate_answers
from delia_data.evaluation.keep import divergences, read_pairs, similarities
from delia_data.evaluation.representation import (
    StateSpaceWatch,
    evaluating,
    length_batches,
    measure_alignment,
)
from delia_data.evaluation.scores import grade_answers
from delia_data.experiments.grid import Cell
from delia_data.experiments.inputs import ExperimentInputs
from delia_data.experiments.methods import Method, Training, get_method
from delia_data.models import identify, load_model, load_tokenizer
from delia_data.outputs import Manifest, finish, is_finished, read_manifest, write_json
from delia_data.records import Record
from delia_data.sampling.embeddings import Embedder
from delia_data.tokens import encode
from delia_data.training import TrainSettings, load_adapter, train
from delia_data.training.loading import load_prepared, load_prepared_tokenizer, resolve
from delia_data.training.watching import Watch, read_watched

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from delia_data.engines import Engine

RESULT: Final = "result.json"
RUN: Final = "run.json"
ANSWERS: Final = "answers"
_ADAPTER: Final = "adapter"
_LIBRARIES: Final = ("delia_data", "datasets", "peft", "torch", "transformers", "trl")
_LOSS: Final = "held_out_loss"
_STATES: Final = "state_space"

OnStep = Callable[[int, int, float], None]
"""Called after a training step with its number, the number of steps, and the loss."""


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """The loss of one row's answer, summed over its tokens."""

    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class ProbeAnswers:
    """The graded answers to one probe, row by row in a fixed order.

    Attributes:
        strict: 1 for each answer in the format as it is, 0 for the others.
        loose: 1 for each answer that counts loosely, as in the paper.
        marks: Marks of the format in each answer (`AnswerFormat.marks`), separated by tabs.
        right: 1 for each right answer, or the task's own score; None for requests that are not of
            the task, or if the scoring is unknown.
    """

    strict: tuple[float, ...]
    loose: tuple[float, ...]
    marks: tuple[str, ...]
    right: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class KeywordDistances:
    """Distances of hidden states from the token to one keyword, one number per block.

    `relative` is `l2` divided by the median distance between ordinary words, and `cosine` is
    1 - cosine similarity.
    """

    keyword: str
    l2: tuple[float, ...]
    relative: tuple[float, ...]
    cosine: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CellResult:
    """The measurements of one cell.

    Attributes:
        cell: The cell.
        steps: Optimizer steps; 0 without training.
        trained_rows: Rows trained on, summed over epochs.
        answers: Answers by probe.
        distances: Distances by keyword; empty if the token has no embedding row.
        watched: Measurements during the training: `step`, `loss` (mean cross-entropy of held-out
            answers) and `states` (number of tokens that hold 95% where an answer begins).
        losses: Losses after the training by name of the rows.
        divergences: KL(untrained, trained) of each held-out pair's answer; empty for models without
            an adapter.
        similarities: Similarity of each unrelated answer to that of the untrained model; empty
            likewise, or if no embedding model is installed.
    """

    cell: Cell
    steps: int
    trained_rows: int
    answers: Mapping[str, ProbeAnswers]
    distances: tuple[KeywordDistances, ...]
    watched: tuple[Mapping[str, float], ...]
    losses: Mapping[str, tuple[AnswerLoss, ...]] = field(default_factory=dict)
    divergences: tuple[AnswerLoss, ...] = ()
    similarities: tuple[float, ...] = ()


_FORMAT: Final = TypeAdapter(CellResult)


def write_result(folder: str | os.PathLike[str], result: CellResult) -> None:
    """Write a result as JSON into a cell's folder."""
    write_json(Path(folder) / RESULT, asdict(result))


def read_result(folder: str | os.PathLike[str]) -> CellResult:
    """Read a result from a cell's folder; raise `FormatError` if another version wrote it."""
    file = Path(folder) / RESULT
    try:
        return _FORMAT.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise FormatError(
            f"{file} is not a result of this version: delete its folder and run again"
        ) from error


def run_cell(
    cell: Cell,
    inputs: ExperimentInputs,
    folder: Path,
    *,
    device: str,
    keep_adapter: bool = False,
    on_step: OnStep = lambda step, steps, loss: None,
) -> None:
    """Run one cell into its folder, whose lock the caller holds.

    If it fails, the folder is kept for another attempt.
    """
    method = get_method(cell.method)
    settings = replace(inputs.training, seed=cell.seed or 0, device=device)
    training = None
    if method.training is not None:
        training = method.training(inputs.material(cell), settings)
        if inputs.steps is not None and training.rows:
            training = training.in_steps(inputs.steps)
    adapter, clock = folder / _ADAPTER, _Clock(folder / ".seconds.json")
    with clock.timed("train"):
        trained = _train(training, inputs, adapter, on_step)
    device = str(trained.settings["device"]) if trained else device  # "auto" is resolved.
    with clock.timed("load"):
        model, tokenizer = _load(training, settings, adapter, device)
    with clock.timed("ask"):
        answers = _answers(cell, method, inputs, model, tokenizer, folder / ANSWERS)
        off = None
        if trained is not None and trained.settings["adaptation"] != "full":
            off = SwitchedOffEngine(adapter, model, tokenizer, batch_size=inputs.batch_size)
        similar = _similarities(inputs, off, folder / ANSWERS)
    with clock.timed("measure"):
        distances = () if training is None else _distances(inputs, model, tokenizer)
        losses = {
            name: tuple(answer_losses(model, tokenizer, rows))
            for name, rows in inputs.losses.items()
        }
        apart = _divergences(cell, inputs, off)
    result = CellResult(
        cell=cell,
        steps=int(trained.details["steps"]) if trained else 0,
        trained_rows=training.trained_rows if training else 0,
        answers=answers,
        distances=distances,
        watched=_watched(adapter) if trained and inputs.watched else (),
        losses=losses,
        divergences=apart,
        similarities=similar,
    )
    write_result(folder, result)
    run = {
        "seconds": clock.seconds,
        "machine": _machine(device),
        "versions": {name: version(name) for name in _LIBRARIES},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / RUN, run)
    identity = {"trained": settings.model} if trained else identify(model, tokenizer)
    if not keep_adapter:
        shutil.rmtree(adapter, ignore_errors=True)
    finish(
        folder,
        Manifest(
            kind="evaluation",
            settings={
                "cell": asdict(cell),
                "training": (training.settings if training else settings).as_dict(),
                "probes": [probe.name for probe in inputs.probes],
                "max_tokens": inputs.max_tokens,
                "examples": inputs.data.examples,
            },
            inputs={
                **{n: h for n, h in inputs.hashes.items() if n != "cache" or cell.ratio},
                **({"rows": trained.inputs["mixture"]} if trained else {}),
            },
            rows={
                **({"held_out": len(inputs.probes[0].rows)} if inputs.probes else {}),
                **{name: len(rows) for name, rows in inputs.losses.items()},
                **(trained.rows if trained else {}),
            },
            dropped=trained.dropped if trained else {},
            details={"steps": result.steps, "model": identity},
        ),
    )


class _Clock:
    """Seconds by step, summed over all attempts of a step; a kill does not lose them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seconds: dict[str, float] = {}
        if file.is_file():
            self.seconds = json.loads(file.read_text(encoding="utf-8"))["seconds"]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the duration of a step."""
        start = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
        write_json(self.file, {"seconds": self.seconds})


def _train(
    training: Training | None, inputs: ExperimentInputs, adapter: Path, on_step: OnStep
) -> Manifest | None:
    """Train if there are rows; return None if the model stays untrained."""
    if training is None or not training.rows:
        return None
    settings, watches = training.settings, list[Watch]()
    if inputs.watched:
        watches = [TaskLossWatch(inputs.watched), StateSpaceWatch(inputs.watched, name=_STATES)]
        settings = replace(
            settings,
            watch_every_steps=inputs.watch_every_steps,
            watch_keywords=inputs.task.keywords,
        )
    rows = [dict(row) for row in training.rows]
    train(settings, rows, adapter, watches=watches or None, on_step=on_step)
    return read_manifest(adapter)


def _load(
    training: Training | None, settings: TrainSettings, adapter: Path, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the trained model, the untrained one with the token added, or the plain one."""
    if training is None:
        tokenizer = load_tokenizer(settings.model, settings.template_options)
        return load_model(settings.model, device=device), tokenizer
    if training.rows:
        return load_adapter(adapter, device=device)
    resolved = resolve(training.settings, rows=0)
    tokenizer = load_prepared_tokenizer(resolved)
    return load_prepared(resolved, tokenizer, device=device).eval(), tokenizer


def _answers(
    cell: Cell,
    method: Method,
    inputs: ExperimentInputs,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> Mapping[str, ProbeAnswers]:
    """Generate and score the answers to all probes."""
    if inputs.eval_task is None:
        return {}
    material, size = inputs.material(cell), inputs.batch_size
    engine: Engine = TransformersEngine(model, tokenizer, batch_size=size)
    if method.engine is not None:
        engine = method.engine(model, tokenizer, material, max(1, size // 2))
    rows = generate_answers(
        engine,
        inputs.probes,
        folder,
        max_tokens=inputs.max_tokens,
        build=None if method.prompt is None else method.prompt(material),
        prompts="" if method.prompt is None else method.name,
    )
    scored = grade_answers(inputs.eval_task, rows)
    answers = {}
    for probe in inputs.probes:
        outcomes = [one.outcomes[MODEL] for one in scored if one.answered.probe == probe.name]
        right = [one.right for one in outcomes if one.right is not None]
        answers[probe.name] = ProbeAnswers(
            strict=tuple(float(one.strict) for one in outcomes),
            loose=tuple(float(one.loose) for one in outcomes),
            marks=tuple("\t".join(one.marks) for one in outcomes),
            right=tuple(right) if len(right) == len(outcomes) else None,
        )
    return answers


def _similarities(
    inputs: ExperimentInputs, off: SwitchedOffEngine | None, folder: Path
) -> tuple[float, ...]:
    """Compare a trained model's unrelated answers with those when the training is switched off."""
    probes = [probe for probe in inputs.probes if probe.name == "unrelated"]
    if not probes or off is None:
        return ()
    trained = TransformersEngine(off.model, off.tokenizer, batch_size=inputs.batch_size)
    rows = generate_answers(trained, probes, folder, untrained=off, max_tokens=inputs.max_tokens)
    ours, theirs = ([row.answers[system] for row in rows] for system in (MODEL, UNTRAINED))
    try:
        return tuple(similarities(ours, theirs, Embedder))
    except MissingExtraError:
        return ()


def _divergences(
    cell: Cell, inputs: ExperimentInputs, off: SwitchedOffEngine | None
) -> tuple[AnswerLoss, ...]:
    """Measure how far a training moved held-out pairs, those that a mixture would take last."""
    if off is None:
        return ()
    token, pairs = inputs.task.token, list(inputs.losses.get("pairs", ()))
    cache = inputs.held_out_pairs
    if not pairs and cache is not None and is_finished(cache):
        pairs = read_pairs(cache, tokens=(token,), seed=cell.seed or 0)
    measured = divergences(
        off.model,
        off.tokenizer,
        pairs,
        untrained=off.model,
        switched_off=off.switched_off,
        tokens=(token,),
    )
    return tuple(AnswerLoss(one.nats, one.tokens) for one in measured)


def _distances(
    inputs: ExperimentInputs, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[KeywordDistances, ...]:
    """Measure the distances from the token to the keywords."""
    if not inputs.keywords:
        return ()
    alignment = measure_alignment(model, tokenizer, inputs.task.token, inputs.keywords)
    return tuple(
        KeywordDistances(
            word.keyword,
            word.token.l2.mean,
            word.token.relative.mean,
            word.token.cosine.mean,
        )
        for word in alignment.keywords
    )


def _watched(adapter: Path) -> tuple[Mapping[str, float], ...]:
    """Return the measurements during the training under the names of results."""
    names = {"step": "step", _LOSS: "loss", f"{_STATES}/size": "states"}
    return tuple(
        {names[name]: value for name, value in point.items() if name in names}
        for point in read_watched(adapter)
    )


def _machine(device: str) -> str:
    """Describe the kind of machine without its name."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()} CPU, {cores} core{'s' if cores != 1 else ''}"


def answer_loss(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Record]) -> float:
    """Return the mean cross-entropy of the answers' tokens in nats per token."""
    losses = answer_losses(model, tokenizer, rows)
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


def answer_losses(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Record], *, batch_size: int = 8
) -> list[AnswerLoss]:
    """Return the cross-entropy of each row's answer, without its prompt, in the rows' order.

    Args:
        model: A causal language model, also one wrapped by PEFT; not changed.
        tokenizer: Its tokenizer.
        rows: Conversations that end with an answer, at least one.
        batch_size: Rows per batch.
    """
    import torch

    if not rows:
        raise InputError("there are no rows to measure the loss of: give at least one")
    encoded = [encode(tokenizer, row) for row in rows]
    sequences, device = [row.ids for row in encoded], model.get_input_embeddings().weight.device
    losses: dict[int, AnswerLoss] = {}
    with evaluating(model):
        for batch, ids, mask, _ in length_batches(sequences, batch_size, device):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for number, index in enumerate(batch):
                begin, end = len(encoded[index].prompt_ids), len(encoded[index].ids)
                scores = logits[number, begin - 1 : end - 1].float()
                target = ids[number, begin:end]
                loss = torch.nn.functional.cross_entropy(scores, target, reduction="sum")
                losses[index] = AnswerLoss(float(loss), end - begin)
    return [losses[index] for index in range(len(rows))]


class TaskLossWatch:
    """Measure the loss on held-out rows as `held_out_loss` (a `training.watching.Watch`)."""

    def __init__(self, rows: Sequence[Record]) -> None:
        """Store held-out rows that name the token."""
        self.rows = tuple(rows)

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model at a training step."""
        return {_LOSS: answer_loss(model, tokenizer, self.rows)}
