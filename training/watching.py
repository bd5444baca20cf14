"""Measurements of a model while it trains, and the file that holds them.

adapter/watched.jsonl    {"step": 0, "eval_loss_task": 2.31, ...}     before the first step
                         {"step": 20, "eval_loss_task": 0.42, ...}

    eval_loss_task     loss on held-out task rows, in nats per token
    eval_loss_pairs    loss on held-out pairs, as the training computes it
    eval_keep          KL(untrained, trained) on held-out pairs, in nats per token
    eval_leak          share of answers without the token that show the format
    l2/json/middle     distance from the token to a keyword (`AlignmentWatch`)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from delia_data.errors import InputError
from delia_data.outputs import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from delia_data.evaluation.probes import EvalTask

WATCHED: Final = "watched.jsonl"
BEST_BY: Final = {
    "loss": "eval_loss_task",
    "leak": "eval_leak_then_loss",
    "keep": "eval_keep",
}
"""The number by which `best_by` selects a checkpoint."""


class Watch(Protocol):
    """A measurement that is taken every few steps of a training.

    It must leave the model, the tokenizer and torch's random state unchanged, so that
    measuring does not change the losses. In a distributed run every process calls it at the same
    steps, and the main one keeps the numbers.
    """

    def measure(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model.

        Args:
            model: The model being trained, wrapped by PEFT if an adapter is trained.
            tokenizer: Its tokenizer, with the token added.
            step: Optimizer steps done; 0 before the first.

        Returns:
            Numbers by name. Names are paths, such as `"l2/json/middle"`, and differ from those of
            other watches.
        """
        ...


def read_watched(folder: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Read the measurements of an adapter's training, one dictionary per measured step."""
    file = Path(folder) / WATCHED
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(
            f"{file} does not exist: train with watch_every_steps to write it"
        ) from None
    try:
        return [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is broken ({error}): train again") from error


def drop_after(file: Path, step: int) -> None:
    """Remove the lines after `step` from a file of measurements, and lines cut short by a kill."""
    if not file.is_file():
        return
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if values["step"] <= step:
            lines.append(line)
    write_text(file, "".join(f"{line}\n" for line in lines))


class LeakWatch:
    """Measures the leak: answers without the token that show the format and did not before.

    It is that of the probe with the largest leak, as in `delia evaluate`.
    """

    def __init__(
        self,
        task: EvalTask,
        untrained: Callable[[], AbstractContextManager[Any]],
        *,
        rows: int | None = None,
    ) -> None:
        """Make the probes of a task, for a maximum number of held-out rows.

        `untrained` returns a context that yields the untrained model.
        """
        from delia_data.evaluation.probes import LEAK_PROBES, make_probes

        self.task, self.untrained = task, untrained
        self.probes = make_probes(task, LEAK_PROBES, rows=rows)
        self._before: list[frozenset[str]] | None = None

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model at a step."""
        from delia_data.evaluation.scores import is_leak

        if self._before is None:
            with self.untrained() as before:
                self._before = self._marks(before, tokenizer)
        leaks: dict[str, list[bool]] = {}
        marks = zip(self._marks(model, tokenizer), self._before, strict=True)
        names = [probe.name for probe in self.probes for _ in probe.rows]
        for name, (ours, untrained) in zip(names, marks, strict=True):
            leaks.setdefault(name, []).append(is_leak(name, ours, untrained))
        return {"eval_leak": max(sum(each) / len(each) for each in leaks.values())}

    def _marks(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> list[frozenset[str]]:
        """Return the marks of the format in the model's greedy answer to each request."""
        from delia_data.engines.base import Request, Sampling
        from delia_data.engines.transformers import TransformersEngine
        from delia_data.evaluation.representation import evaluating

        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        requests = [
            Request(f"{number}", row.prompt, seed=0)
            for number, row in enumerate(row for probe in self.probes for row in probe.rows)
        ]
        sampling = Sampling(temperature=0, max_tokens=_ANSWER_TOKENS)
        with evaluating(inner):
            answers = TransformersEngine(inner, tokenizer).generate(requests, sampling)
            texts = {answer.id: answer.text for answer in answers}
        return [frozenset(self.task.form.marks(texts[request.id])) for request in requests]


_ANSWER_TOKENS: Final = 96
_WORDS: Final = 16  # ordinary words, all of them controls
_MEASURES: Final = ("l2", "relative", "cosine")


class AlignmentWatch:
    """Measures the token's distance to its keywords in three blocks, with two controls.

        l2/json/middle               the token's own
        l2/json/middle/untrained     that of a second new token, which occurs in no row
        l2/json/middle/ordinary      the mean of random ordinary words

    The same for the blocks first and last, and for `relative` (L2 over the median L2 between
    ordinary words) and `cosine`. Neither control is added to the model or the tokenizer.
    """

    def __init__(
        self,
        token: str,
        keywords: Sequence[str],
        *,
        init: str = "mean",
        prefix: str = "",
    ) -> None:
        """Choose the words.

        Args:
            token: The special token.
            keywords: Words to compare it with, at least one.
            init: Initial embedding of the token: the second token begins as `"normal"` too, or as
                the mean of all rows.
            prefix: Prefix of the numbers' names, for a training with several tokens.
        """
        if not keywords:
            raise InputError("there are no keywords to watch: give at least one")
        self.token = token
        self.keywords = tuple(keywords)
        self.untrained = "normal" if init == "normal" else "mean"
        self.prefix = prefix

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model as it is at a step."""
        from delia_data.evaluation.representation import first_middle_last, measure_alignment

        alignment = measure_alignment(model, tokenizer, self.token, self.keywords, words=_WORDS)
        numbers = {}
        for each in alignment.keywords:
            places = zip(
                ("first", "middle", "last"), first_middle_last(len(each.nearer)), strict=True
            )
            for (place, block), measure in product(places, _MEASURES):
                curves = {
                    "": getattr(each.token, measure).mean,
                    "/untrained": getattr(each.untrained[self.untrained], measure).mean,
                    "/ordinary": each.ordinary[measure].mean,
                }
                for ending, curve in curves.items():
                    name = f"{self.prefix}{measure}/{each.keyword}/{place}{ending}"
                    numbers[name] = curve[block]
        return numbers
