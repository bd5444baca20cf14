"""Measuring an adapter: every measure before training and after it, each finished before the next.

    adapter ── at its start ──▶ representation, state space, gradients     "before"
            ── as trained   ──▶ the same                                   "after"

What is finished lies in `out/.parts` until all of it is; a killed run goes on with the measure, and
with the group of gradients, that it was at.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from delia_data._optional import require
from delia_data.errors import InputError, TokenError
from delia_data.evaluation._plain import to_plain
from delia_data.evaluation.measured_adapter import MeasuredAdapter
from delia_data.evaluation.measured_rows import MeasuredTask, read_measured_task
from delia_data.evaluation.measurement_figures import FIGURES, draw_measurements
from delia_data.evaluation.measurements import (
    MEASUREMENTS,
    MEASURES,
    Measurements,
    MeasureName,
    MeasureSettings,
    check_measures,
    read_measurements,
)
from delia_data.outputs import (
    FINISHED,
    MANIFEST,
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    file_sha256,
    finish,
    folder_lock,
    is_finished,
    read_manifest,
    write_json,
)
from delia_data.sampling.coverage import Embed
from delia_data.sampling.embeddings import LazyEmbedder

OnProgress = Callable[[MeasureName, int, int], None]

_PLAN: Final = "measuring.json"
_PARTS: Final = ".parts"


def measure(
    adapter: str | os.PathLike[str],
    task: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    what: Sequence[str] = ("representation", "state-space"),
    settings: MeasureSettings | None = None,
    device: str = "cpu",
    embed: Embed | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Measurements:
    """Measure an adapter before its training and after it.

    A killed run goes on when it is called again; a finished one is added to where more is asked.

    Args:
        adapter: What `delia train` wrote: LoRA, with the token's row.
        task: What `delia diversify` wrote.
        out: Where the measurements, the figures and the manifest go.
        cache: Pairs, a cache folder or a file; for buffering.
        what: Names of `MEASURES`.
        settings: The settings; the defaults when not given.
        device: Where to compute.
        embed: Turns texts into vectors of length 1, for buffering; all-MiniLM-L6-v2 when not
            given.
        on_progress: Called with what is being measured, how much of it is done and how much there
            is.

    Returns:
        All that the folder holds, as it is written.

    Raises:
        InputError: What is given cannot be measured.
        TokenError: The adapter is for another token than the task.
        SettingsError: The folder was begun with other settings or inputs.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process measures there.
        UnfinishedError: The adapter, the task or the cache is not finished.
        MissingExtraError: A library or the embedding model is not installed.
    """
    names = check_measures(tuple(what))
    settings = settings or MeasureSettings()
    root, source = Path(out), Path(adapter)
    rows = read_measured_task(task, rows=settings.rows, seed=settings.seed)
    keywords = settings.keywords or rows.keywords
    _check(source, rows, keywords, names, cache)
    if "buffering" in names and embed is None:
        embed = LazyEmbedder()
    require("matplotlib", extra="train")  # the last step needs it, and the others take minutes
    plan = {**settings.as_dict(), **_inputs(source, rows, cache if "buffering" in names else None)}
    check_folder_is_ours(root, frozenset({_PLAN, MEASUREMENTS, FIGURES}), sign=_PLAN)
    with folder_lock(root):
        planned = _planned(root, plan)
        found = _found(root) if planned else {}
        if is_finished(root) and not set(names) - set(found):
            return read_measurements(root)
        parts = root / _PARTS
        for name, values in found.items():
            write_json(parts / f"{name}.json", values)
        (root / FINISHED).unlink(missing_ok=True)
        write_json(root / _PLAN, planned | plan)
        opened = MeasuredAdapter(source, rows, settings, parts, device=device)

        def tell(name: MeasureName) -> Callable[[int, int], None]:
            return lambda done, total: on_progress(name, done, total)

        for name in names:
            if name in found:
                continue
            if name == "representation":
                made: Any = opened.representation(keywords, tell(name))
            elif name == "state-space":
                made = opened.state_space(tell(name))
            else:
                assert cache is not None
                assert embed is not None
                made = opened.buffering(cache, embed, tell(name))
            found[name] = to_plain(made)
            write_json(parts / f"{name}.json", found[name])
        return _finish(root, source, rows, settings, found, planned | plan)


def _check(
    adapter: Path,
    task: MeasuredTask,
    keywords: Sequence[str],
    names: Sequence[MeasureName],
    cache: str | os.PathLike[str] | None,
) -> None:
    """Find what is wrong with what was given before anything is loaded or written."""
    from delia_data.training.adapter import adapter_settings

    trained = adapter_settings(adapter)
    if trained.token != task.token:
        raise TokenError(
            f"{adapter} was trained for the token {trained.token}, and the task names "
            f"{task.token}: give the task that it was trained on"
        )
    if trained.adaptation == "full":
        raise InputError(
            f"{adapter} holds a whole model: what it was before its training, and LoRA's "
            "gradients, can be told of an adapter alone"
        )
    if "representation" in names and not keywords:
        raise InputError(
            "the task does not say what the token comes near: give keywords (--keyword)"
        )
    if "buffering" in names and cache is None:
        raise InputError("buffering is measured on pairs: give a cache (--cache)")


def _inputs(
    adapter: Path, task: MeasuredTask, cache: str | os.PathLike[str] | None
) -> dict[str, str]:
    """Hashes of what is measured; that of the cache where it is read."""
    inputs = {"adapter_sha256": file_sha256(adapter / MANIFEST), "task_sha256": task.sha256}
    if cache is not None:
        given = Path(cache)
        inputs["cache_sha256"] = file_sha256(given / MANIFEST if given.is_dir() else given)
    return inputs


def _planned(root: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder was begun with; refused where that is something else.

    A cache that a measure did not read is no difference.
    """
    file = root / _PLAN
    if not file.is_file():
        return {}
    planned = dict(json.loads(file.read_text(encoding="utf-8")))
    shared = [name for name in plan if name in planned or name != "cache_sha256"]
    earlier = {name: planned.get(name) for name in shared}
    check_same_settings(root, earlier, {name: plan[name] for name in shared})
    return planned


def _found(root: Path) -> dict[MeasureName, Any]:
    """What is measured already, as plain values."""
    found: dict[MeasureName, Any] = {}
    if is_finished(root):
        done = read_measurements(root)
        values = done.as_dict()
        found = {name: values[name.replace("-", "_")] for name in done.measured}
    for name in MEASURES:
        if (part := root / _PARTS / f"{name}.json").is_file():
            found[name] = json.loads(part.read_text(encoding="utf-8"))
    return found


def _finish(
    root: Path,
    adapter: Path,
    task: MeasuredTask,
    settings: MeasureSettings,
    found: Mapping[MeasureName, Any],
    plan: Mapping[str, Any],
) -> Measurements:
    """Put all measures together, draw them, and write the manifest and the marker."""
    trained = read_manifest(adapter)
    made = Measurements.from_dict(
        {
            "model": trained.settings["model"],
            "token": task.token,
            "steps": trained.details["steps"],
            "trained_rows": trained.rows,
            **{name.replace("-", "_"): values for name, values in found.items()},
        }
    )
    write_json(root / MEASUREMENTS, made.as_dict())
    draw_measurements(made, root / FIGURES)
    manifest = Manifest(
        kind="evaluation",
        settings={"measures": list(made.measured), **settings.as_dict()},
        inputs={name: str(plan[name]) for name in plan if name.endswith("_sha256")},
        rows={"held_out": len(task.held_out), "task": len(task.train)},
    )
    finish(root, manifest)
    shutil.rmtree(root / _PARTS, ignore_errors=True)
    return made
