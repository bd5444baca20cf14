"""What is measured of a model while it trains: the seam, and the file that keeps the numbers.

adapter/watched.jsonl    {"step": 0, "l2/json/middle": 158.2, ...}     before the first step
                         {"step": 20, "l2/json/middle": 157.1, ...}
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from delia_data.errors import InputError
from delia_data.outputs import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
