"""Constraints on answers that code verifies, and tasks of lm-eval: what a training may cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delia_data._optional import require
from delia_data.errors import InputError


def satisfies(answer: str, constraints: Mapping[str, Any]) -> bool:
    """Return whether an answer satisfies all constraints of a request.

    `sentences`, `bullets`: exactly so many. `most_words`, `least_words`: bounds. `contains`,
    `forbids`: words. `lowercase`, `uppercase`: the case of all letters. `starts_with`,
    `ends_with`: texts; a final period or exclamation mark may differ.

    Raises:
        InputError: A constraint is unknown.
    """
    return all(_holds(name, value, answer.strip()) for name, value in constraints.items())


def _holds(name: str, value: Any, text: str) -> bool:
    words = re.findall(r"[\w'’-]+", text)
    lower = {word.casefold() for word in words}
    match name:
        case "sentences":
            return bool(len(re.findall(r"[.!?]+[\"'”’)]*(?=\s|$)", text)) == value)
        case "bullets":
            return bool(len(re.findall(r"^\s*[-*•]\s+\S", text, re.M)) == value)
        case "most_words":
            return bool(0 < len(words) <= value)
        case "least_words":
            return bool(len(words) >= value)
        case "contains":
            return lower >= set(value)
        case "forbids":
            return bool(words) and not lower & set(value)
        case "lowercase":
            return bool(words) and text == text.lower()
        case "uppercase":
            return bool(words) and text == text.upper()
        case "starts_with":
            return text.startswith(value)
        case "ends_with":
            return text.rstrip(' .!"”').endswith(value.rstrip(".!"))
    raise InputError(f"constraint {name!r} is unknown: see general.yaml for the known ones")


def lm_eval_scores(
    names: Sequence[str], model: Any, tokenizer: Any, *, batch_size: int
) -> dict[str, tuple[float, float | None]]:
    """Return the metrics of lm-eval's tasks for one model, each with its standard error.

    Args:
        names: Names of tasks, or files with the YAML of one.
        model: A causal model.
        tokenizer: Its tokenizer.
        batch_size: Requests at once.

    Returns:
        By `"TASK METRIC"`: the value, and its standard error if lm-eval computes one.

    Raises:
        MissingExtraError: lm-eval is not installed.
        InputError: There is no such task.
    """
    lm_eval = require("lm_eval", extra="general")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    files = [Path(name) for name in names if name.endswith((".yaml", ".yml"))]
    manager = TaskManager(include_path=[str(file.resolve().parent) for file in files] or None)
    known = [Path(name).stem if Path(name) in files else name for name in names]
    if missing := [name for name in known if name not in manager.all_tasks]:
        raise InputError(
            f"lm-eval has no task {missing[0]!r}: see lm-eval ls tasks, or give a YAML file whose "
            "name is that of its task"
        )
    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=known,
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=False,
    )
    scores: dict[str, tuple[float, float | None]] = {}
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")
            if isinstance(value, float | int) and kind and not metric.endswith("_stderr"):
                error = metrics.get(f"{metric}_stderr,{kind}")
                spread = float(error) if isinstance(error, float | int) else None
                scores[f"{task} {metric}"] = (float(value), spread)
    return scores
