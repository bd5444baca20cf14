"""One cell, run: train or not, ask, measure, write down; a killed one goes on where it stopped.

cell/
adapter/        what was trained, while it is needed
answers/        every answer, as soon as it is there
result.json     what tables and figures are made of
run.json        seconds by step, the machine, versions, when
manifest.json, FINISHED
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.evaluation.generation import generate_answers
from delia_data.evaluation.representation import measure_alignment
from delia_data.evaluation.scores import grade_answers
from delia_data.evaluation.state_space import StateSpaceWatch
from delia_data.models import identify, load_model, load_tokenizer
from delia_data.outputs import MANIFEST, Manifest, file_sha256, finish, read_manifest, write_json
from delia_data.reproduction.cell import Cell
from delia_data.reproduction.ground import Ground
from delia_data.reproduction.result import (
    CellResult,
    KeywordDistances,
    ProbeAnswers,
    write_result,
)
from delia_data.reproduction.task_loss import LOSS, TaskLossWatch
from delia_data.training import TrainSettings, load_adapter, train
from delia_data.training.baselines import Baseline, Material, Training, baseline
from delia_data.training.loading import load_prepared, load_prepared_tokenizer, resolve
from delia_data.training.watching import Watch, read_watched

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from delia_data.engines import Engine

RUN: Final = "run.json"
_ADAPTER, _ANSWERS = "adapter", "answers"
_LIBRARIES: Final = ("delia_data", "datasets", "peft", "torch", "transformers", "trl")
_STATES: Final = "state_space"


def run_cell(
    cell: Cell, ground: Ground, folder: Path, *, device: str, keep_adapter: bool = False
) -> None:
    """Run one cell into its folder, which the caller holds.

    Raises:
        DeliaError: Something about the cell cannot be; the folder stays for another try.
    """
    method, experiment = baseline(cell.method), ground.experiment
    material = ground.material(cell)
    settings = experiment.settings(seed=cell.seed_or(), device=device)
    clock = _Clock(folder / ".seconds.json")
    training = None if method.training is None else method.training(material, settings)
    adapter = folder / _ADAPTER
    with clock.timed("train"):
        manifest = _train(training, ground, adapter)
    with clock.timed("load"):
        model, tokenizer = _load(training, settings, adapter, device)
    with clock.timed("ask"):
        answers = _ask(method, material, ground, model, tokenizer, folder / _ANSWERS)
    with clock.timed("measure"):
        distances = () if training is None else _distances(ground, model, tokenizer)
    result = CellResult(
        cell=cell,
        steps=0 if manifest is None else int(manifest.details["steps"]),
        trained_rows=0
        if training is None
        else round(training.settings.epochs * len(training.rows)),
        answers=answers,
        distances=distances,
        watched=() if manifest is None else _watched(adapter),
    )
    write_result(folder, result)
    write_json(
        folder / RUN,
        {
            "seconds": clock.seconds,
            "processor_seconds": clock.processor_seconds,
            "machine": _machine(device),
            "versions": {name: version(name) for name in _LIBRARIES},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    used = settings if training is None else training.settings
    inputs = {"task": ground.task.sha256}
    inputs |= {} if manifest is None else {"rows": manifest.inputs["mixture"]}
    cache = Path(str(ground.pairs)) / MANIFEST
    inputs |= {"cache": file_sha256(cache)} if cell.ratio and cache.is_file() else {}
    identity = identify(model, tokenizer) if manifest is None else {"trained": settings.model}
    if not keep_adapter:
        shutil.rmtree(adapter, ignore_errors=True)
    finish(
        folder,
        Manifest(
            kind="evaluation",
            settings={"cell": cell.as_dict(), "training": used.as_dict(), **_asked(ground)},
            inputs=inputs,
            rows={"held_out": len(ground.probes[0].rows), **(manifest.rows if manifest else {})},
            details={"steps": result.steps, "model": identity},
        ),
    )


class _Clock:
    """Seconds by step, over all tries that came to its end: they outlive a kill."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seconds: dict[str, float] = {}
        self.processor_seconds = 0.0
        if file.is_file():
            known = json.loads(file.read_text(encoding="utf-8"))
            self.seconds, self.processor_seconds = known["seconds"], known["processor_seconds"]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add what a step takes."""
        began, computed = time.monotonic(), time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
        self.processor_seconds += time.process_time() - computed
        known = {"seconds": self.seconds, "processor_seconds": self.processor_seconds}
        write_json(self.file, known)


def _train(training: Training | None, ground: Ground, adapter: Path) -> Manifest | None:
    """Train where there are rows; None where the model stays as it is."""
    if training is None or not training.rows:
        return None
    rows, experiment = ground.watched(), ground.experiment
    watches: list[Watch] = [TaskLossWatch(rows), StateSpaceWatch(rows, name=_STATES)]
    settings = replace(
        training.settings,
        watch_every_steps=experiment.watch_every_steps,
        watch_keywords=ground.task.keywords,
    )
    train(settings, [dict(row) for row in training.rows], adapter, watches=watches)
    return read_manifest(adapter)


def _load(
    training: Training | None, settings: TrainSettings, adapter: Path, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that is asked."""
    if training is None:
        return load_model(settings.model, device=device), load_tokenizer(settings.model)
    if training.rows:
        return load_adapter(adapter, device=device)
    resolved = resolve(training.settings, rows=0)
    tokenizer = load_prepared_tokenizer(resolved)
    return load_prepared(resolved, tokenizer, device=device).eval(), tokenizer


def _ask(
    method: Baseline,
    material: Material,
    ground: Ground,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> Mapping[str, ProbeAnswers]:
    from delia_data.engines.transformers import TransformersEngine

    size = ground.experiment.batch_size
    engine: Engine = TransformersEngine(model, tokenizer, batch_size=size)
    if method.engine is not None:
        engine = method.engine(model, tokenizer, material, max(1, size // 2))
    build = None if method.prompt is None else method.prompt(material)
    rows = generate_answers(
        engine,
        ground.probes,
        folder,
        max_tokens=ground.experiment.max_tokens,
        build=build,
        prompts="" if build is None else method.name,
    )
    read = grade_answers(ground.asked, rows)
    found = {}
    for probe in ground.probes:
        of_probe = [one.outcome for one in read if one.answered.probe == probe.name]
        scores = [one.score for one in of_probe if one.score is not None]
        found[probe.name] = ProbeAnswers(
            with_token=tuple(float(one.with_token) for one in of_probe),
            without_token=tuple(float(one.without_token) for one in of_probe),
            scores=tuple(scores) if len(scores) == len(of_probe) else None,
            wants_format=probe.wants_format,
        )
    return found


def _distances(
    ground: Ground, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[KeywordDistances, ...]:
    found = measure_alignment(model, tokenizer, ground.task.token, ground.task.keywords)
    return tuple(
        KeywordDistances(
            word.keyword,
            word.token.l2.mean,
            word.token.relative.mean,
            word.token.cosine.mean,
        )
        for word in found.keywords
    )


def _watched(adapter: Path) -> tuple[Mapping[str, float], ...]:
    """What was watched, under the names of results."""
    names = {"step": "step", LOSS: "loss", f"{_STATES}/size": "states"}
    return tuple(
        {names[name]: value for name, value in point.items() if name in names}
        for point in read_watched(adapter)
    )


def _asked(ground: Ground) -> dict[str, Any]:
    experiment = ground.experiment
    return {
        "probes": list(experiment.probes),
        "max_tokens": experiment.max_tokens,
        "examples": experiment.examples,
    }


def _machine(device: str) -> str:
    """The kind of machine, in words; no name of it."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()} CPU, {cores} core{'s' if cores != 1 else ''}"
