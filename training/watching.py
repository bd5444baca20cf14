"""Measurements of a model while it trains, and the file that holds them.

adapter/watched.jsonl    {"step": 0, "l2/json/middle": 158.2, ...}     before the first step
                         {"step": 20, "l2/json/middle": 157.1, ...}
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from delia_data.errors import InputError
from delia_data.outputs import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WATCHED: Final = "watched.jsonl"


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
        words: int = 16,
        prefix: str = "",
    ) -> None:
        """Choose the words.

        Args:
            token: The special token.
            keywords: Words to compare it with, at least one.
            init: Initial embedding of the token: the second token begins as `"normal"` too, or as
                the mean of all rows.
            words: Number of ordinary words, all of them controls.
            prefix: Prefix of the numbers' names, for a training with several tokens.
        """
        if not keywords:
            raise InputError("there are no keywords to watch: give at least one")
        self.token = token
        self.keywords = tuple(keywords)
        self.untrained = "normal" if init == "normal" else "mean"
        self.words, self.prefix = words, prefix

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model as it is at a step."""
        from delia_data.evaluation.representation import first_middle_last, measure_alignment

        alignment = measure_alignment(
            model, tokenizer, self.token, self.keywords, words=self.words, controls=self.words
        )
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
