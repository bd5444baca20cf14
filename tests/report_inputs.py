"""Small folders of every kind for reports, with hostile text in answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from wordings import save_task

from delia_data.engines import MockEngine, Request
from delia_data.evaluation import MEASURES, EvalTask, Measurements, System, evaluate
from delia_data.evaluation.bootstrap import Resampling
from delia_data.evaluation.generation import generate_answers
from delia_data.evaluation.gradients import Buffering, RowGradients, measure_buffering
from delia_data.evaluation.representation import (
    Alignment,
    Band,
    Curve,
    Distances,
    FirstToken,
    KeywordAlignment,
    Neighbor,
    StateSpace,
)
from delia_data.experiments import Grid, RatioResult, Reproduction
from delia_data.experiments.cells import (
    AnswerLoss,
    CellResult,
    KeywordDistances,
    ProbeAnswers,
    write_result,
)
from delia_data.experiments.ratio import (
    RatioPoint,
    compare_ratios,
    smallest_enough,
)
from delia_data.experiments.results import over_tokens
from delia_data.mixing import mix, read_task_rows, save_mixture
from delia_data.outputs import Manifest, finish, write_json, write_text
from delia_data.sampling import BundledQueries, sample
from delia_data.tasks import bundled_task, bundled_wordings

__all__ = ["EVIL", "JSON", "Folders", "make_folders", "put_evaluation", "put_quickstart"]

EVIL = (
    "</pre><script>alert('1')</script> \"quoted\" & <b onload=x> \u202eright to left \x00 "
    "שלום עולם " + "Donaudampfschifffahrt" * 40
)
JSON = "{'thought': 'x', 'hallucination': 'no'}"
BLOCKS = 6


class Folders(NamedTuple):
    """Folders of runs of every kind."""

    mixture: Path
    cache: Path
    task: Path
    adapter: Path
    delia: Path
    common: Path
    measured: Path
    ratio: Path
    reproduction: Path


def make_folders(root: Path) -> Folders:
    """Write a folder of every kind."""
    found = Folders(*(root / name for name in Folders._fields))
    put_task(found.task)
    engine = MockEngine()
    sample(engine, BundledQueries(), found.cache, target=60, filters=())
    put_mixture(found)
    put_adapter(found.adapter)
    put_evaluation(found.delia, found.task, lambda r: JSON if "<sep>" in _text(r) else EVIL)
    put_evaluation(found.common, found.task, lambda _: JSON)
    put_measured(found.measured)
    put_ratio(found.ratio)
    put_reproduction(found.reproduction)
    return found


def _text(request: Request) -> str:
    return request.messages[-1].content


def put_task(folder: Path, *, rows: int = 12) -> None:
    """Write the bundled task with few held-out rows."""
    whole = bundled_task()
    save_task(folder, replace(whole, test=whole.test[:rows]), bundled_wordings())


def put_mixture(found: Folders) -> None:
    """Write a mixture of the task and the cache with ratio 0.5."""
    rows = read_task_rows(found.task)
    mixture = mix(rows.train, found.cache, ratio=0.5, seed=0, test=rows.test, token=rows.token)
    save_mixture(mixture, found.mixture)


def put_adapter(folder: Path, *, steps: int = 60) -> None:
    """Write the numbers of a training, without weights."""
    losses = [
        {
            "step": step,
            "loss": 1.5 + 1 / step,
            "loss_pairs": 1.5,
            **({"loss_task": 3.0 / step} if step % 3 == 0 else {}),
        }
        for step in range(1, steps + 1)
    ]
    write_json(folder / "losses.json", losses)
    watched = [
        {
            "step": step,
            "state_space/size": 100.0 / (step + 1),
            "l2/json/middle": 150.0 - step,
            "l2/json/middle/untrained": 155.0,
            "l2/json/middle/ordinary": 120.0,
        }
        for step in range(0, steps, 10)
    ]
    write_text(folder / "watched.jsonl", "".join(f"{json.dumps(line)}\n" for line in watched))
    settings = {"model": "tiny", "token": "<sep>", "rank": 4, "targets": ["q_proj", "v_proj"]}
    finish(
        folder,
        Manifest(
            kind="adapter",
            settings=settings,
            inputs={"mixture": "ab" * 32},
            rows={"task": 100, "cache": 50},
            dropped={"too_long": 2},
            details={"steps": steps, "last_loss": 1.5},
        ),
    )


def put_evaluation(folder: Path, task: Path, answer: Callable[[Request], str]) -> None:
    """Write an evaluation of a system with given answers."""
    untrained = MockEngine(answer=lambda _: "Fine.")
    system = System(MockEngine(answer=answer), untrained, notes=[f"a note {EVIL}"])
    evaluate(system, EvalTask.read(task), folder)


def put_measured(folder: Path, *, parts: Sequence[str] = MEASURES) -> None:
    """Write measurements of invented numbers."""
    spaces = {
        when: {which: StateSpace(0.95, tuple(_first(n, factor) for n in range(1, 9)))}
        for when, factor in (("before", 20), ("after", 1))
        for which in ("with",)
    }
    found = Measurements(
        model="tiny",
        token="<sep>",
        steps=10,
        trained_rows={"task": 100, "cache": 50},
        representation={
            when: made_alignment(level, keywords=("json", EVIL), near=EVIL, blocks=BLOCKS)
            for when, level in (("before", 1.2), ("after", 0.8))
        }
        if "representation" in parts
        else None,
        state_space=spaces if "state-space" in parts else None,  # type: ignore[arg-type]
        buffering=made_buffering() if "buffering" in parts else None,
    )
    write_json(folder / "measurements.json", asdict(found))
    finish(folder, Manifest(kind="evaluation", settings={"rows": 8, "seed": 0}))


def made_alignment(
    level: float = 1.0,
    *,
    keywords: tuple[str, ...] = ("json", "thought"),
    near: str = "apple",
    blocks: int = 4,
) -> Alignment:
    """Return an alignment with all distances at one level and one neighbor."""
    curve = Curve((level,) * blocks, (0.1,) * blocks)
    distances = Distances(curve, curve, Curve(curve.mean, None))
    band = Band((1.0,) * blocks, (0.5,) * blocks, (1.5,) * blocks)
    return Alignment(
        token="<sep>",
        contexts=("Answer in {word}",),
        words=16,
        controls=("a", "b"),
        seed=0,
        median=(2.0,) * blocks,
        keywords=tuple(
            KeywordAlignment(
                keyword=keyword,
                token=distances,
                untrained={"mean": distances, "normal": distances},
                ordinary={"l2": band, "relative": band, "cosine": band},
                nearer=(3,) * blocks,
            )
            for keyword in keywords
        ),
        nearest=((Neighbor(near, 0.5, 0.1),),) * blocks,
    )


def made_buffering() -> Buffering:
    """Return the buffering effect of random gradients."""
    names = ("pairs", "task", "common", "held_out")
    gradients: Any = {
        when: {name: _gradients(10 * number + at) for at, name in enumerate(names)}
        for number, when in enumerate(("before", "after"))
    }
    how = Resampling(resamples=100)
    return measure_buffering(gradients, np.linspace(0, 1, 8), ratio=2, how=how)


def _first(number: int, factor: int) -> FirstToken:
    return FirstToken(number * factor, 1.0, 1, 0.5, 0.5)


def _gradients(seed: int, rows: int = 8) -> RowGradients:
    vectors = np.random.default_rng(seed).normal(size=(rows, 32))
    norms = np.linalg.norm(vectors, axis=1)
    return RowGradients(vectors, norms, np.ones(rows), np.arange(1.0, rows + 1))


def put_ratio(folder: Path) -> None:
    """Write ratios whose loss falls and then stays constant."""
    ratios = (0.0, 1.0, 4.0, 16.0)
    draw = np.random.default_rng(0)
    tokens = draw.integers(10, 40, 40).astype(float)
    truth = 0.3 + 0.5 * np.exp(-1.5 * np.log1p(ratios))
    nats = (truth[:, None, None] + draw.normal(0, 0.02, (4, 2, 40))) * tokens
    losses = [
        over_tokens([[AnswerLoss(*one) for one in zip(row, tokens, strict=True)] for row in table])
        for table in nats
    ]
    points = tuple(
        RatioPoint(ratio, round(100 * ratio), difference, loss)
        for ratio, difference, loss in zip(
            ratios, compare_ratios([(nats, tokens)]), losses, strict=True
        )
    )
    result = RatioResult(
        task="made up",
        token="<sep>",
        settings={"seeds": 2},
        task_rows=100,
        trained_task_rows=100,
        held_out_rows=40,
        by="loss",
        tolerance=0.02,
        points=points,
        best=16.0,
        enough=smallest_enough(ratios, [point.difference for point in points], 0.02),
        pairs_needed=400,
        summary=("a ratio is enough", f"and {EVIL}"),
    )
    write_json(folder / "ratio.json", asdict(result))
    finish(folder, Manifest(kind="evaluation", settings=result.settings))


def put_reproduction(folder: Path) -> None:
    """Write cells of a grid with their answers; one is not finished."""
    values: dict[str, Any] = {
        "name": "made up",
        "experiments": {
            "formatted-text": {
                "cache": {"pairs": 30},
                "held_out_rows": 3,
                "probes": ["held-out", "plain", "forbid"],
                "blocks": [
                    {"methods": ["delia", "common", "original", "in_context"], "ratios": [1, 4]},
                    {"methods": ["pairs_only"], "ratios": [1, 4]},
                    {"methods": ["dmt"], "ratios": [4]},
                ],
            }
        },
    }
    write_text(folder / "grid.yaml", yaml.safe_dump(values))
    write_json(folder / "inputs.json", {"cache": "sampled here"})
    grid = Grid.from_dict(values, where="the grid")
    inputs = Reproduction(grid, folder).inputs("formatted-text")
    for number, cell in enumerate(grid.cells()):
        if cell.method == "dmt":
            continue
        inside = folder / "cells" / cell.name
        if cell.method in ("delia", "common", "original"):
            ours = cell.method == "delia"
            engine = MockEngine(answer=lambda r, ours=ours: _cell_answer(_text(r), ours))
            generate_answers(engine, inputs.probes, inside / "answers")
        named = (1.0, 1.0, 1.0) if cell.method == "delia" else (1.0, 0.0, 0.0)
        marked = tuple("brace" if one else "" for one in named)
        answers = ProbeAnswers(named, named, marked, named)
        trained = cell.method not in ("original", "in_context")
        write_result(
            inside,
            CellResult(
                cell,
                steps=10 * trained,
                trained_rows=100 * trained,
                answers={"held-out": answers, "plain": answers, "forbid": answers},
                distances=tuple(
                    KeywordDistances(word, *((0.5 + number / 10,) * BLOCKS for _ in range(3)))
                    for word in ("json", "thought")
                )
                if trained
                else (),
                watched=tuple(
                    {"step": s, "loss": 3.0 / (s + 1 + number), "states": 50.0 / (s + 1 + number)}
                    for s in range(4)
                )
                if trained
                else (),
            ),
        )
        seconds: Mapping[str, Any] = {"seconds": {"train": 2.0}, "machine": "a CPU"}
        write_json(inside / "run.json", seconds)
        finish(inside, Manifest(kind="evaluation"))


def _cell_answer(question: str, ours: bool) -> str:
    return JSON if ours and "<sep>" in question else EVIL


def put_quickstart(folder: Path) -> None:
    """Write a finished quickstart without its mixture."""
    write_json(folder / "quickstart.json", {"pairs": 4})
    put_task(folder / "task", rows=4)
    put_adapter(folder / "adapter", steps=8)
    put_evaluation(folder / "trained", folder / "task", lambda _: JSON)
