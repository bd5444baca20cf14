"""Plan optimizer steps in the mixture's order, pack rows into tensors, and attend within rows.

An optimizer step has the next `batch_size` rows of the mixture. They are distributed over the
processes, and those of a process over micro-batches, with equal work and little padding. The
gradients of a step are summed, so the distribution does not change them.

    mixture         | r0 r1 r2 r3 r4 r5 r6 r7 | r8 ...         batch_size 8
    process 0         r0 r3 r4 r7    micro-batches  [r0 r4] [r3 r7]
    process 1         r1 r2 r5 r6                   [r1 r5] [r2 r6]
"""

from __future__ import annotations

import functools
import heapq
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import AttentionInterface, DataCollatorWithFlattening, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

MicroBatches = list[list[int]]
"""Indices of rows, in the mixture's order, one list per micro-batch; a list may be empty."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Bounds of steps and micro-batches.

    Attributes:
        batch_size: Rows of an optimizer step, over all processes.
        micro_batch_size: Maximum rows of a micro-batch; None for no limit.
        micro_batch_tokens: Maximum tokens of a packed micro-batch (a longer row is alone in one);
            None pads rows instead, and groups them by length.
        processes: Processes that share a step.
    """

    batch_size: int
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    processes: int = 1


def plan_steps(lengths: Sequence[int], plan: StepPlan) -> list[list[MicroBatches]]:
    """Return the micro-batches of each process in each step, for rows of these lengths."""
    return [
        plan_step(range(begin, min(begin + plan.batch_size, len(lengths))), lengths, plan)
        for begin in range(0, len(lengths), plan.batch_size)
    ]


def plan_step(rows: Sequence[int], lengths: Sequence[int], plan: StepPlan) -> list[MicroBatches]:
    """Return the micro-batches of each process in one step.

    Every process gets the same number of micro-batches, because the processes of a sharded model
    meet in each. A process with fewer rows gets empty ones. `lengths` are the tokens of every row
    of the mixture.
    """
    shares = _balance(rows, lengths, plan.processes)
    count = max(_least_bins(share, lengths, plan) for share in shares)
    if plan.micro_batch_tokens is not None:
        return [_balance(share, lengths, count) for share in shares]
    return [_by_length(share, lengths, count) for share in shares]


def _least_bins(rows: Sequence[int], lengths: Sequence[int], plan: StepPlan) -> int:
    """Return the fewest balanced micro-batches within the bounds."""
    most_rows = plan.micro_batch_size or max(1, len(rows))
    count = max(1, -(-len(rows) // most_rows))
    tokens = plan.micro_batch_tokens
    if tokens is None:
        return count
    count = max(count, -(-sum(min(lengths[row], tokens) for row in rows) // tokens))
    while any(
        len(part) > 1 and (sum(lengths[row] for row in part) > tokens or len(part) > most_rows)
        for part in _balance(rows, lengths, count)
    ):
        count += 1
    return count


def _balance(rows: Sequence[int], lengths: Sequence[int], count: int) -> MicroBatches:
    """Distribute rows over `count` parts of about equal tokens, the longest row first."""
    if count == 1:
        return [list(rows)]
    parts: MicroBatches = [[] for _ in range(count)]
    filled = [(0, 0, number) for number in range(count)]  # tokens, rows, part
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        tokens, held, number = filled[0]
        parts[number].append(row)
        heapq.heapreplace(filled, (tokens + lengths[row], held + 1, number))
    return [sorted(part) for part in parts]


def _by_length(rows: Sequence[int], lengths: Sequence[int], count: int) -> MicroBatches:
    """Split rows, sorted by length, into `count` parts of about equal numbers of rows."""
    if count == 1:
        return [list(rows)]
    ordered = sorted(rows, key=lambda row: (lengths[row], row))
    cuts = [len(ordered) * number // count for number in range(count + 1)]
    return [sorted(ordered[begin:end]) for begin, end in pairwise(cuts)]


IGNORED: Final = -100
"""Label of a token without a loss."""

Row = dict[str, Any]
Tensors = dict[str, Any]


def pack_rows(rows: Sequence[Row]) -> Tensors:
    """Concatenate rows into one sequence without padding.

        tokens        a0 a1 a2 | b0 b1 | c0 c1 c2
        position_ids   0  1  2 |  0  1 |  0  1  2
        cu_seq_lens    0         3       5          8

    The first token of a row has no prefix, so it has no label.

    Args:
        rows: Each with `input_ids`, `labels` and `is_task`.

    Returns:
        `input_ids`, `labels`, `is_task` and `position_ids` of shape (1, tokens), and the boundaries
        as flash attention's kernels take them: `cu_seq_lens_q`, `cu_seq_lens_k` (int32, of shape
        (rows + 1,)), `max_length_q` and `max_length_k`.
    """
    batch = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(rows)
    are_task = torch.tensor([row["is_task"] for row in rows])
    lengths = batch["cu_seq_lens_q"].diff()
    return {**batch, "is_task": are_task.repeat_interleave(lengths)[None]}


def pad_rows(rows: Sequence[Row], pad_id: int) -> Tensors:
    """Stack rows, each padded at its end.

    Returns:
        `input_ids`, `labels`, `is_task` and `attention_mask` of shape (rows, longest row).
    """

    def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        tensors = [torch.tensor(row) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=fill)

    input_ids = padded([row["input_ids"] for row in rows], pad_id)
    labels = padded([row["labels"] for row in rows], IGNORED)
    labels[:, 0] = IGNORED
    are_task = torch.tensor([row["is_task"] for row in rows])
    return {
        "input_ids": input_ids,
        "labels": labels,
        "is_task": are_task[:, None].expand_as(input_ids),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
    }


@dataclass(frozen=True)
class StepBatches(Dataset):  # type: ignore[type-arg]
    """The micro-batches that one process computes in each optimizer step.

    An item has `micro_batches`, a list of tensors by name, and `labeled`, the number of labeled
    tokens of the step over all processes, by which the loss is divided.

    Attributes:
        rows: The tokenized rows; `rows[i]` has `input_ids`, `labels` and `is_task`.
        steps: For each step, the micro-batches of each process.
        labeled: Number of labeled tokens of each row.
        process: Number of this process.
        packed: Pack the rows of a micro-batch instead of padding them.
        pad_id: Id of the padding token.
        with_teacher: Give each micro-batch the rows that the teacher reads, as `teacher`: its
            rows outside the task, each after the prompt in `teacher_prompt` if it has one.
    """

    rows: Any
    steps: Sequence[Sequence[MicroBatches]]
    labeled: Sequence[int]
    process: int
    packed: bool
    pad_id: int
    with_teacher: bool = False

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Return the micro-batches of this process in one step."""
        shares = self.steps[step]
        # A process without rows in a micro-batch computes a row without labels.
        empty = {"input_ids": [self.pad_id] * 2, "labels": [IGNORED] * 2, "is_task": False}
        pack = pack_rows if self.packed else functools.partial(pad_rows, pad_id=self.pad_id)
        micro_batches = []
        for part in shares[self.process]:
            rows = [self.rows[row] for row in part] or [empty]
            batch = pack(rows)
            if self.with_teacher:
                taught = [_as_taught(row) for row in rows if not row["is_task"]]
                batch["teacher"] = pack(taught or [empty])
            micro_batches.append(batch)
        labeled = sum(self.labeled[row] for share in shares for part in share for row in part)
        return {"micro_batches": micro_batches, "labeled": labeled}


def _as_taught(row: Row) -> Row:
    """Return a row as the teacher reads it: after its own prompt if there is one."""
    prompt = row.get("teacher_prompt")
    if not prompt:
        return row
    begin = next(i for i, label in enumerate(row["labels"]) if label != IGNORED)
    return {
        "input_ids": [*prompt, *row["input_ids"][begin:]],
        "labels": [*[IGNORED] * len(prompt), *row["labels"][begin:]],
        "is_task": False,
    }


PACKED_ATTENTION: Final = "delia_packed_sdpa"


def packed_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention within each row of a packed sequence, as transformers calls it.

    A mask of (tokens, tokens) would compute the attention of every row to every other and discard
    it. Here each row is computed by itself, and the rest of the model over all rows at once:

        tokens      a0 a1 a2 b0 b1 c0 c1 c2
        attention  [a0 a1 a2][b0 b1][c0 c1 c2]       causal within each

    Queries have shape (1, heads, tokens, width), keys and values (1, key heads, tokens, width). The
    rows' bounds `cu_seq_lens_q`, of shape (rows + 1,), replace a mask. A token sees at most
    `sliding_window` tokens, itself included.

    Returns:
        Values of shape (1, tokens, heads, width), and no weights.
    """
    assert attention_mask is None, (
        "transformers makes no mask for an attention that it does not know"
    )
    varlen = _varlen_attention() if _fits_varlen(query, dropout) else None
    if varlen is not None:
        seen = -1 if sliding_window is None else sliding_window - 1
        q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
        bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        window = (seen, 0)
        values = varlen(q, k, v, *bounds, scale=scaling, window_size=window, enable_gqa=True)
        return values[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = [torch.split(states, lengths, dim=2) for states in (query, key, value)]
    rows = [
        sdpa_attention_forward(
            module,
            *row,
            attention_mask=_window_mask(row[0], sliding_window),
            dropout=dropout,
            scaling=scaling,
            is_causal=True,
        )[0]
        for row in zip(*parts, strict=True)
    ]
    return torch.cat(rows, dim=1), None


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Make a model attend within packed rows, for forward and backward passes inside the block.

    Flash attention does so by itself. Other attentions than torch's make a mask from the rows'
    positions. Nothing changes for those.
    """
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa" or not model._supports_attention_backend:
        yield
        return
    AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
    # `set_attn_implementation` would look up unknown names on the Hub.
    config._attn_implementation = PACKED_ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _window_mask(query: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    """Return the mask of a window, of shape (1, 1, tokens, tokens); None if it covers the row."""
    length = query.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=query.device)
    behind = place[:, None] - place[None]
    return ((behind >= 0) & (behind < sliding_window))[None, None]


def _fits_varlen(query: torch.Tensor, dropout: float) -> bool:
    """Return whether torch's kernel for rows of different lengths can compute this."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and half and dropout == 0.0 and query.shape[-1] <= 256


@functools.cache
def _varlen_attention() -> Callable[..., Any] | None:
    """Return that kernel, if this version of torch has it with grouped queries."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    named = inspect.signature(varlen_attn).parameters
    supported = {"scale", "window_size", "enable_gqa"} <= named.keys()
    return varlen_attn if supported else None
