"""Where the token stands in the model: its distance to a keyword in every transformer block.

Paper, Figure 2 and Table 1: the norm of the difference between the hidden state of `<sep>` and
that of a keyword such as `json`, block by block. Here both words stand in the same place of the
same contexts, and the numbers are means over the contexts:

    Follow the <sep> format          hidden states at <sep>    (blocks, width)
    Follow the json format           hidden states at json     (blocks, width)

L2 depends on the size of the hidden states, and so on the model: numbers of two models are not
comparable. The cosine distance is given beside it for that reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.errors import InputError, TokenError

if TYPE_CHECKING:
    import torch
    from peft import PeftMixedModel, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["DEFAULT_CONTEXTS", "WORD_SLOT", "BlockDistances", "token_distances"]

WORD_SLOT: Final = "{word}"
DEFAULT_CONTEXTS: Final = (
    "Follow the {word} format",
    "Answer in {word}",
    "Reply in the {word} format.",
    "Please write your answer as {word} and nothing else",
    "What is the capital of Iceland? Give the answer in the {word} style",
)


@dataclass(frozen=True, slots=True)
class BlockDistances:
    """How far the token is from one keyword, block by block.

    Attributes:
        keyword: The word that the token is compared with.
        l2: One L2 distance for each transformer block, first block first; not negative.
        cosine: One cosine distance (1 - cosine similarity) for each block, 0 to 2.

    Raises:
        InputError: There are no blocks, or not as many numbers of one kind as of the other.
    """

    keyword: str
    l2: tuple[float, ...]
    cosine: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.l2 or len(self.l2) != len(self.cosine):
            raise InputError(
                f"distances to {self.keyword!r} have {len(self.l2)} L2 and {len(self.cosine)} "
                "cosine numbers: give one of each for every block"
            )


def token_distances(
    model: PreTrainedModel | PeftModel | PeftMixedModel,
    tokenizer: PreTrainedTokenizerBase,
    token: str,
    keywords: Sequence[str],
    *,
    contexts: Sequence[str] = DEFAULT_CONTEXTS,
) -> list[BlockDistances]:
    """Measure how far the token is from each keyword in every block (paper, Table 1, Figure 2).

    A keyword may be several ids; the state at its last id is taken, which alone has seen the
    whole word. The place is the same in the text; in ids it may differ by a few, since a special
    token leaves the space before it an id of its own, and a keyword may take it in. The
    embedding's own output is left out, so that there is one number a block. The last block's
    state is what transformers gives out: in Llama-like models it has been through the final
    norm, and so its L2 is on another scale than those before it.

    Args:
        model: A causal language model, also one wrapped by peft. It is read in evaluation mode
            and left as it was.
        tokenizer: Its tokenizer, with the token added.
        token: The special token.
        keywords: The words to compare it with.
        contexts: Texts in which `{word}` marks the place of both, once each. They are read as
            they are, without the chat template.

    Returns:
        The distances to each keyword, in the order given.

    Raises:
        InputError: There are no keywords or contexts, a keyword is empty, or a context does not
            have `{word}` once.
        TokenError: The token is not one id of the tokenizer, or the model has no row for it.
    """
    _check(keywords, contexts)
    _check_token(model, tokenizer, token)
    torch_ = require("torch", extra="local")
    was_training = model.training
    model.eval()
    try:
        with torch_.no_grad():
            own = [_states(model, tokenizer, context, token) for context in contexts]
            return [_distances(model, tokenizer, own, word, contexts) for word in keywords]
    finally:
        model.train(was_training)


def _distances(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    own: Sequence[torch.Tensor],
    keyword: str,
    contexts: Sequence[str],
) -> BlockDistances:
    """Average the distances over the contexts; `own` has the token's states in each of them."""
    from torch.nn.functional import cosine_similarity

    l2, cosine = [], []
    for at_token, context in zip(own, contexts, strict=True):
        at_keyword = _states(model, tokenizer, context, keyword)
        l2.append((at_token - at_keyword).norm(dim=-1).tolist())
        cosine.append((1 - cosine_similarity(at_token, at_keyword, dim=-1)).clamp(0, 2).tolist())
    return BlockDistances(keyword, _means(l2), _means(cosine))


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean of each column of rows of shape (contexts, blocks)."""
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True))


def _states(
    model: Any, tokenizer: PreTrainedTokenizerBase, context: str, word: str
) -> torch.Tensor:
    """Hidden states at the last id of `word`, float32, of shape (blocks, width)."""
    import torch

    ids, position = _locate(tokenizer, context, word)
    device = model.get_input_embeddings().weight.device
    output = model(
        input_ids=torch.tensor([ids], device=device),
        attention_mask=torch.ones((1, len(ids)), dtype=torch.long, device=device),
        output_hidden_states=True,
        use_cache=False,
    )
    blocks = [block[0, position].float().cpu() for block in output.hidden_states[1:]]
    return torch.stack(blocks)


def _locate(tokenizer: PreTrainedTokenizerBase, context: str, word: str) -> tuple[list[int], int]:
    """Put the word into the context, and find the position of its last id.

    The tokenizer's own offsets tell it. Where it has none, it is where the ids of the whole text
    and the ids of the text up to the word cease to be the same.
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
        shared = _shared_start(bare, tokenizer.encode(text[:end], add_special_tokens=False))
        inside = [_find(bare[:shared], ids) + shared - 1] if shared else []
    if not inside:
        raise InputError(f"{word!r} leaves no id in {text!r}: give a word that the model can read")
    return ids, inside[-1]


def _shared_start(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two sequences have in common from their beginning."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _find(part: Sequence[int], whole: Sequence[int]) -> int:
    """Where `part` begins in `whole`: behind the tokens that the tokenizer sets before a text."""
    places = range(len(whole) - len(part) + 1)
    return next((i for i in places if whole[i : i + len(part)] == part), 0)


def _check(keywords: Sequence[str], contexts: Sequence[str]) -> None:
    if not keywords or any(not word.strip() for word in keywords):
        raise InputError(f"keywords {list(keywords)} hold no word to compare with: give some")
    if not contexts:
        raise InputError("there are no contexts: give at least one text with {word} in it")
    for context in contexts:
        if context.count(WORD_SLOT) != 1:
            raise InputError(f"context {context!r} must have {WORD_SLOT} once")


def _check_token(model: Any, tokenizer: PreTrainedTokenizerBase, token: str) -> None:
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise TokenError(f"{token} is {len(ids)} ids or unknown: add it to the tokenizer first")
    rows = int(model.get_input_embeddings().weight.shape[0])
    if ids[0] >= rows:
        raise TokenError(f"{token} has id {ids[0]}, and the model has {rows} rows: add it to both")
