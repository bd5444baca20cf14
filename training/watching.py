"""What is measured of a model while it trains: the seam, and the file that keeps the numbers.

adapter/watched.jsonl    {"step": 0, "l2/json/middle": 158.2, ...}     before the first step
                         {"step": 20, "l2/json/middle": 157.1, ...}
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from delia_data.errors import InputError
from delia_data.outputs import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from delia_data.evaluation.representation import Distances, KeywordAlignment

WATCHED: Final = "watched.jsonl"


class Watch(Protocol):
    """Something that is measured every so many steps of a training.

    It must leave the model, the tokenizer and torch's random state as they were, so that a
    watched run has the losses of one that is not. In a distributed run every process calls it
    at the same steps, and the main one keeps the numbers.
    """

    def measure(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model.

        Args:
            model: The model being trained, wrapped by peft where an adapter is trained.
            tokenizer: Its tokenizer, with the token added.
            step: Optimiser steps done; 0 before the first.

        Returns:
            Numbers by name. Names are paths, such as `"l2/json/middle"`, and no other watch's.
        """
        ...


def read_watched(folder: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Read what was watched while an adapter was trained, a dictionary a measured step.

    Raises:
        InputError: The folder holds no such file, or a line in it is no JSON object.
    """
    file = Path(folder) / WATCHED
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(
            f"{file} is not there: train with watch_every_steps, and it will be"
        ) from None
    try:
        return [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is broken ({error}): train again") from error


def drop_after(file: Path, step: int) -> None:
    """Cut a file of watched numbers to the steps up to `step`, as a run that goes on from there.

    A line that a kill cut short goes as well.
    """
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if values["step"] <= step:
            kept.append(line)
    write_text(file, "".join(f"{line}\n" for line in kept))


_MEASURES: Final = ("l2", "relative", "cosine")


class AlignmentWatch:
    """Measures where the token stands (a `training.watching.Watch`), in three blocks.

    The numbers of the first, the middle and the last block are given by name, as
    `measure_alignment` has them: `l2`, `relative` (L2 over the median L2 between ordinary words)
    and `cosine`.
    """

    def __init__(
        self, token: str, keywords: Sequence[str], *, init: str = "mean", words: int = 16
    ) -> None:
        """Keep what is measured.

        Args:
            token: The special token.
            keywords: Words to compare it with.
            init: How the token began; `"normal"` takes a second token that began so, any other a
                mean of all rows.
            words: Ordinary words that are read; all are controls.

        Raises:
            InputError: There are no keywords.
        """
        if not keywords:
            raise InputError("there are no keywords to watch: give at least one")
        self.token = token
        self.keywords = tuple(keywords)
        self.untrained = "normal" if init == "normal" else "mean"
        self.words = words

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model as it is at a step."""
        from delia_data.evaluation.representation import measure_alignment

        found = measure_alignment(
            model, tokenizer, self.token, self.keywords, words=self.words, controls=self.words
        )
        return {
            name: value for each in found.keywords for name, value in self._numbers(each).items()
        }

    def _numbers(self, found: KeywordAlignment) -> dict[str, float]:
        from delia_data.evaluation.summary import first_middle_last

        blocks = first_middle_last(len(found.nearer))
        places = dict(zip(("first", "middle", "last"), blocks, strict=True))
        numbers = {}
        for measure in _MEASURES:
            curves = {
                "": _curve(found.token, measure),
                "/untrained": _curve(found.untrained[self.untrained], measure),
                "/ordinary": found.ordinary[measure].mean,
            }
            for place, block in places.items():
                for ending, curve in curves.items():
                    numbers[f"{measure}/{found.keyword}/{place}{ending}"] = curve[block]
        return numbers


def _curve(distances: Distances, measure: str) -> tuple[float, ...]:
    mean: tuple[float, ...] = getattr(distances, measure).mean
    return mean
