"""Hidden states at a word: where it stands among the ids of a context, and what the blocks give.

    "Follow the {word} format"   ids   Follow | the | <sep> | format
                                       └── read up to here ┘
                                       one state of every transformer block: (blocks, width)

What follows the word is part of the text that is turned into ids, and is not computed: a causal
model's state at a place does not depend on what comes after it. Sequences are computed in batches,
padded on the right, which for the same reason changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

WORD_SLOT: Final = "{word}"
DEFAULT_CONTEXTS: Final = (
    "Follow the {word} format",
    "Answer in {word}",
    "Reply in the {word} format.",
    "Please write your answer as {word} and nothing else",
    "What is the capital of Iceland? Give the answer in the {word} style",
)


@dataclass(frozen=True, slots=True)
class Located:
    """A word among the ids of a text.

    Attributes:
        ids: The ids of the whole text.
        last: Place of the word's last id.
        pieces: How many ids the word is.
    """

    ids: tuple[int, ...]
    last: int
    pieces: int

    @property
    def up_to(self) -> tuple[int, ...]:
        """The ids up to and with the word's last one."""
        return self.ids[: self.last + 1]


def check_contexts(contexts: Sequence[str]) -> None:
    """Refuse contexts that do not mark the place of a word.

    Raises:
        InputError: There are none, or one does not have `{word}` once.
    """
    if not contexts:
        raise InputError("there are no contexts: give at least one text with {word} in it")
    for context in contexts:
        if context.count(WORD_SLOT) != 1:
            raise InputError(f"context {context!r} must have {WORD_SLOT} once")


def locate(tokenizer: PreTrainedTokenizerBase, context: str, word: str) -> Located:
    """Put a word into a context, and find it among the ids.

    The tokenizer's own offsets tell it. Where it has none, it is where the ids of the whole text
    and the ids of the text up to the word cease to be the same.

    Args:
        tokenizer: The tokenizer.
        context: A text with `{word}` once.
        word: The word.

    Raises:
        InputError: The word leaves no id in the text.
    """
    before, _, after = context.partition(WORD_SLOT)
    text = f"{before}{word}{after}"
    start, end = len(before), len(before) + len(word)
    if tokenizer.is_fast:
        encoded: Any = tokenizer(text, return_offsets_mapping=True)
        spans = enumerate(encoded["offset_mapping"])
        inside = [index for index, (first, last) in spans if first < end and last > start]
        ids = [int(i) for i in encoded["input_ids"]]
    else:
        ids = tokenizer.encode(text)
        bare = tokenizer.encode(text, add_special_tokens=False)
        stop = _shared_start(bare, tokenizer.encode(text[:end], add_special_tokens=False))
        begin = _shared_start(bare, tokenizer.encode(before, add_special_tokens=False))
        head = _find(bare[:stop], ids)
        inside = list(range(head + min(begin, stop - 1), head + stop)) if stop else []
    if not inside:
        raise InputError(f"{word!r} leaves no id in {text!r}: give a word that the model can read")
    return Located(tuple(ids), inside[-1], len(inside))


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Read a model in evaluation mode, without gradients, and leave it as it was."""
    torch_ = require("torch", extra="local")
    was_training = model.training
    model.eval()
    try:
        with torch_.no_grad():
            yield
    finally:
        model.train(was_training)


def backbone_of(model: Any) -> tuple[Any, Any]:
    """The part of a causal language model that gives hidden states, and its output head.

    Args:
        model: A causal language model, also one wrapped by peft.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(causal, causal.base_model_prefix), causal.get_output_embeddings()


def states_at_last(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    last_embedding: torch.Tensor | None = None,
    batch_size: int = 32,
) -> torch.Tensor:
    """Hidden states at the last id of each sequence.

    The embedding's own output is left out, so that there is one state a block. The last block's
    state is what transformers gives out: in Llama-like models it has been through the final norm,
    and so its size is on another scale than that of those before it.

    Args:
        model: A causal language model, also one wrapped by peft.
        sequences: Ids of each sequence, at least one.
        last_embedding: A row of shape (width,) that takes the place of the last id's own
            embedding, in every sequence: a token that the model need not have.
        batch_size: Sequences that are computed at once, those of like length together.

    Returns:
        float32 on the CPU, of shape (sequences, blocks, width).
    """
    import torch

    backbone, _ = backbone_of(model)
    order = sorted(range(len(sequences)), key=lambda place: len(sequences[place]))
    found: list[Any] = [None] * len(sequences)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        rows = [list(sequences[place]) for place in places]
        inputs, ends = _padded(model, rows, last_embedding)
        states = backbone(**inputs, output_hidden_states=True, use_cache=False).hidden_states[1:]
        at = torch.arange(len(rows), device=ends.device)
        block_states = torch.stack([block[at, ends].float().cpu() for block in states], dim=1)
        for place, one in zip(places, block_states, strict=True):
            found[place] = one
    return torch.stack(found)


def _padded(
    model: Any, rows: list[list[int]], last_embedding: torch.Tensor | None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of shape (rows, longest), padded on the right, and the place of each last id."""
    import torch

    embedding = model.get_input_embeddings()
    device = embedding.weight.device
    lengths = torch.tensor([len(row) for row in rows], device=device)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
    ends = lengths - 1
    if last_embedding is None:
        return {"input_ids": ids, "attention_mask": mask}, ends
    embedded = embedding(ids).clone()
    scale = getattr(embedding, "embed_scale", 1.0)  # of models that scale what a row gives
    row = (last_embedding.to(device) * scale).to(embedded.dtype)
    embedded[torch.arange(len(rows), device=device), ends] = row
    return {"inputs_embeds": embedded, "attention_mask": mask}, ends


def _shared_start(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two sequences have in common from their beginning."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _find(part: Sequence[int], whole: Sequence[int]) -> int:
    """Where `part` begins in `whole`: behind the tokens that the tokenizer sets before a text."""
    places = range(len(whole) - len(part) + 1)
    return next((i for i in places if whole[i : i + len(part)] == part), 0)
