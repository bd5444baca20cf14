"""Gradients of single rows, projected so that those of many rows fit into memory.

A count sketch (Charikar, Chen and Farach-Colton 2002; Weinberger et al. 2009, feature hashing):
every coordinate is added to one of `dimensions` places, with a random sign.

    gradient    0.3  -1.2   0.7   0.1   2.0  ...        millions of numbers
    place         5     2     5     0     2             drawn anew from the seed, block by block
    sign          +     -     +     -     +
    sketch      -0.1   0   3.2   0   0   1.0  ...       `dimensions` numbers

It is linear, so that the sketch of a mean is the mean of the sketches, and keeps inner products:
the estimate of <x, y> is unbiased, its variance at most (|x|^2 |y|^2 + <x, y>^2) / dimensions. With
4,096 dimensions a norm is off by 1.1% and a cosine by at most 0.022 (one standard deviation).
Signs and places are never kept: beside the gradient itself, memory holds one block of them, about
40 MB, and the sketch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from delia_data._optional import require
from delia_data.errors import InputError
from delia_data.outputs import atomic_path
from delia_data.ranking import row_seed
from delia_data.records import Record
from delia_data.tokens import encode

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Projection:
    """A random linear map to a few thousand dimensions.

    Attributes:
        dimensions: Numbers of a sketch.
        seed: Seed of places and signs; equal seeds give equal maps on every device.

    Raises:
        InputError: There are fewer than 2 dimensions.
    """

    dimensions: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimensions < 2:
            raise InputError(f"{self.dimensions} dimensions hold no projection: give thousands")

    def __call__(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Project a vector that comes in parts, such as one gradient a parameter.

        Args:
            parts: The parts, of any shape; the order and the shapes belong to the map.

        Returns:
            float32, of shape (dimensions,), on the device of the first part.
        """
        import torch

        device = parts[0].device
        sketch = torch.zeros(self.dimensions, device=device)
        generator = torch.Generator()
        for number, part in enumerate(parts):
            flat = part.detach().reshape(-1)
            for start in range(0, flat.numel(), _BLOCK):
                block = flat[start : start + _BLOCK].to(device, torch.float32)
                generator.manual_seed(row_seed(self.seed, f"{number}:{start}", "projection"))
                drawn = torch.randint(2 * self.dimensions, (len(block),), generator=generator)
                places, signs = drawn // 2, drawn % 2 * 2 - 1
                sketch.index_add_(0, places.to(device), block * signs.to(device))
        return sketch


Numbers: TypeAlias = npt.NDArray[np.float64]

_DELTAS: Final = (".lora_B.", ".lora_embedding_B.")
_ROWS: Final = ".trainable_tokens_delta."
_FIELDS: Final = ("sketches", "norms", "losses", "tokens")


@dataclass(frozen=True, slots=True)
class RowGradients:
    """Gradients of rows.

    Attributes:
        sketches: Their projections, of shape (rows, dimensions).
        norms: Their own norms, of shape (rows,); not of the projections.
        losses: Mean loss of each row's answer tokens, of shape (rows,).
        tokens: Answer tokens of each row, of shape (rows,): its weight in a batch's loss.
    """

    sketches: Numbers
    norms: Numbers
    losses: Numbers
    tokens: Numbers

    def __len__(self) -> int:
        return len(self.norms)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as one `.npz` file, atomically."""
        with atomic_path(path) as part, part.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in _FIELDS})


def read_gradients(path: str | os.PathLike[str]) -> RowGradients:
    """Read what `RowGradients.save` wrote."""
    with np.load(Path(path), allow_pickle=False) as file:
        return RowGradients(**{name: file[name] for name in _FIELDS})


def check_gradients(gradients: RowGradients) -> None:
    """Refuse gradients that say nothing.

    Raises:
        InputError: There are none, one is not finite, or all are zero.
    """
    if not len(gradients):
        raise InputError("there are no gradients: measure at least one row")
    if not np.isfinite(gradients.sketches).all() or not np.isfinite(gradients.norms).all():
        raise InputError("a gradient is not finite: the training failed, or the type is too small")
    if not gradients.norms.any():
        raise InputError("all gradients are zero: LoRA reaches nothing that the loss depends on")


def row_gradients(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Record],
    projection: Projection,
    *,
    max_length: int | None = None,
    on_row: Callable[[int], None] = lambda done: None,
) -> RowGradients:
    """Take the gradient of every row's loss by itself.

    Args:
        model: A causal language model with LoRA, as peft wraps it; left as it was.
        tokenizer: Its tokenizer, with the token.
        rows: Conversations; the loss is taken on their last answers.
        projection: What the gradients are projected by.
        max_length: Tokens that are kept of a row; all when not given.
        on_row: Called after each row with the number of rows done.

    Raises:
        InputError: There are no rows, a row's answer is cut away, the model has no LoRA, or there
            is no chat template.
    """
    require("torch", extra="local")
    if not rows:
        raise InputError("there are no rows to take gradients of: give at least one")
    matrices = list(lora_b_matrices(model).values())
    sketches, norms, losses, tokens = [], [], [], []
    with _differentiating(model, matrices):
        for done, row in enumerate(rows, start=1):
            loss, count = _loss(model, tokenizer, row, max_length)
            parts = _gradients(loss, matrices)
            sketches.append(projection(parts).cpu().numpy())
            norms.append(sum(float(p.double().square().sum()) for p in parts) ** 0.5)
            losses.append(float(loss.detach()))
            tokens.append(float(count))
            on_row(done)
    return RowGradients(
        np.asarray(sketches, dtype=np.float64), *(np.asarray(n) for n in (norms, losses, tokens))
    )


def lora_b_matrices(model: Any) -> dict[str, torch.nn.Parameter]:
    """The matrices B of LoRA on linear modules, by name.

    Raises:
        InputError: There are none.
    """
    found = {name: p for name, p in model.named_parameters() if ".lora_B." in name}
    if not found:
        raise InputError(
            "the model has no LoRA, and gradients are taken of LoRA's parameters: "
            "give an adapter that is not merged, trained with adaptation lora or qlora"
        )
    return found


@contextmanager
def at_start(model: Any) -> Iterator[None]:
    """Put an adapter back to where its training began: B is zero, the token's row as it was.

    LoRA's A stays as trained. On the way out the trained values are put back.
    """
    import torch

    kept = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if any(part in name for part in (*_DELTAS, _ROWS))
    }
    named = dict(model.named_parameters())
    begun = {
        name.replace("_original", "_delta"): buffer
        for name, buffer in model.named_buffers()
        if ".trainable_tokens_original." in name
    }
    try:
        with torch.no_grad():
            for name in kept:
                named[name].copy_(begun[name]) if _ROWS in name else named[name].zero_()
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                named[name].copy_(value)


@contextmanager
def _differentiating(model: Any, matrices: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Without dropout, and with gradients for the matrices alone; then as it was."""
    import torch

    was_training = model.training
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    model.requires_grad_(False)
    for matrix in matrices:
        matrix.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)
        model.train(was_training)


def _loss(
    model: Any, tokenizer: PreTrainedTokenizerBase, row: Record, max_length: int | None
) -> tuple[torch.Tensor, int]:
    """Mean loss of the row's answer tokens, and their number."""
    import torch

    encoded = encode(tokenizer, row)
    ids, begin = encoded.ids[:max_length], len(encoded.prompt_ids)
    if len(ids) <= begin:
        raise InputError(
            f"a row of {len(encoded.ids)} tokens has no answer within {max_length}: "
            "leave it out, or give a larger max_length"
        )
    device = model.get_input_embeddings().weight.device
    columns = torch.arange(begin - 1, len(ids) - 1, device=device)
    output = model(
        input_ids=torch.tensor([ids], device=device),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
        logits_to_keep=columns,
        use_cache=False,
    )
    answer = torch.tensor(ids[begin:], device=device)
    return torch.nn.functional.cross_entropy(output.logits[0].float(), answer), len(answer)


def _gradients(loss: torch.Tensor, matrices: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    import torch

    found = torch.autograd.grad(loss, matrices, allow_unused=True)
    return [
        torch.zeros_like(matrix) if one is None else one
        for one, matrix in zip(found, matrices, strict=True)
    ]
