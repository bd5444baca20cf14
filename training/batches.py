"""Rows of an optimiser step as tensors: packed into one sequence, or padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch.utils.data import Dataset

from delia_data.training.packing import MicroBatches

IGNORED: Final = -100
"""Label of a token that the loss is not taken on."""

Row = dict[str, Any]
Tensors = dict[str, Any]


def pack_rows(rows: Sequence[Row]) -> Tensors:
    """Put rows one after another into one sequence without padding.

        tokens        a0 a1 a2 | b0 b1 | c0 c1 c2
        position_ids   0  1  2 |  0  1 |  0  1  2
        cu_seq_lens    0         3       5          8

    The first token of a row is predicted from nothing, so that it has no label.

    Args:
        rows: Each with `input_ids`, `labels` and `is_task`.

    Returns:
        `input_ids`, `labels`, `is_task` and `position_ids` of shape (1, tokens), and the boundaries
        as flash attention's kernels take them: `cu_seq_lens_q`, `cu_seq_lens_k` (int32, of shape
        (rows + 1,)), `max_length_q` and `max_length_k`.
    """
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    bounds = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    labels = torch.tensor([label for row in rows for label in row["labels"]])
    labels[bounds[:-1]] = IGNORED
    longest, boundaries = int(lengths.max()), bounds.to(torch.int32)
    return {
        "input_ids": torch.tensor([i for row in rows for i in row["input_ids"]])[None],
        "labels": labels[None],
        "is_task": torch.tensor([row["is_task"] for row in rows]).repeat_interleave(lengths)[None],
        "position_ids": torch.cat([torch.arange(int(length)) for length in lengths])[None],
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def pad_rows(rows: Sequence[Row], pad_id: int) -> Tensors:
    """Put rows under one another, each padded at its end.

    Returns:
        `input_ids`, `labels`, `is_task` and `attention_mask` of shape (rows, longest row).
    """
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    labels = padded("labels", IGNORED)
    labels[:, 0] = IGNORED
    return {
        "input_ids": padded("input_ids", pad_id),
        "labels": labels,
        "is_task": torch.tensor([row["is_task"] for row in rows])[:, None].expand(-1, longest),
        "attention_mask": (torch.arange(longest)[None] < lengths[:, None]).long(),
    }


class StepBatches(Dataset):  # type: ignore[type-arg]
    """What one process computes in each optimiser step.

    An item has `micro_batches`, a list of tensors by name, and `labelled`, the number of labelled
    tokens of the step over all processes, which the loss is divided by.
    """

    def __init__(
        self,
        rows: Any,
        steps: Sequence[Sequence[MicroBatches]],
        labelled: Sequence[int],
        *,
        process: int = 0,
        packed: bool,
        pad_id: int,
    ) -> None:
        """Keep the rows and the plan.

        Args:
            rows: The tokenised rows; `rows[i]` has `input_ids`, `labels` and `is_task`.
            steps: For each step, the micro-batches of each process.
            labelled: Labelled tokens of each row.
            process: Number of this process.
            packed: Pack the rows of a micro-batch, rather than pad them.
            pad_id: Id of the padding token.
        """
        self.rows = rows
        self.steps = steps
        self.labelled = labelled
        self.process = process
        self.packed = packed
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> dict[str, Any]:
        """The micro-batches of this process in one step."""
        shares = self.steps[step]
        mine = [[self.rows[row] for row in part] for part in shares[self.process]]
        labelled = sum(self.labelled[row] for share in shares for part in share for row in part)
        return {
            "micro_batches": [self._tensors(part or [self._nothing()]) for part in mine],
            "labelled": labelled,
        }

    def _tensors(self, rows: list[Row]) -> Tensors:
        return pack_rows(rows) if self.packed else pad_rows(rows, self.pad_id)

    def _nothing(self) -> Row:
        """Stands in where others have a micro-batch and this process none; nothing is labelled."""
        return {"input_ids": [self.pad_id] * 2, "labels": [IGNORED] * 2, "is_task": False}
