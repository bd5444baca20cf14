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
from typing import TYPE_CHECKING, Any

from delia_data.errors import InputError, TokenError
from delia_data.evaluation.hidden_states import (
    DEFAULT_CONTEXTS,
    check_contexts,
    evaluating,
    locate,
    states_at_last,
)

if TYPE_CHECKING:
    import torch
    from peft import PeftMixedModel, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    check_keywords(keywords)
    check_contexts(contexts)
    check_token(model, tokenizer, token)
    words = (token, *keywords)
    read = [locate(tokenizer, context, word).up_to for word in words for context in contexts]
    with evaluating(model):
        states = states_at_last(model, read)
    # (words, contexts, blocks, width)
    own, *others = states.reshape(len(words), len(contexts), *states.shape[1:])
    return [_distances(own, other, word) for word, other in zip(keywords, others, strict=True)]


def _distances(at_token: torch.Tensor, at_keyword: torch.Tensor, keyword: str) -> BlockDistances:
    """Average the distances over the contexts; the states are (contexts, blocks, width)."""
    from torch.nn.functional import cosine_similarity

    l2 = (at_token - at_keyword).norm(dim=-1)
    cosine = (1 - cosine_similarity(at_token, at_keyword, dim=-1)).clamp(0, 2)
    return BlockDistances(keyword, _means(l2.tolist()), _means(cosine.tolist()))


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean of each column of rows of shape (contexts, blocks)."""
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True))


def check_keywords(keywords: Sequence[str]) -> None:
    """Refuse keywords that leave nothing to compare with.

    Raises:
        InputError: There are none, or one is empty.
    """
    if not keywords or any(not word.strip() for word in keywords):
        raise InputError(f"keywords {list(keywords)} hold no word to compare with: give some")


def check_token(model: Any, tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Give the token's id.

    Raises:
        TokenError: The token is not one id of the tokenizer, or the model has no row for it.
    """
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise TokenError(f"{token} is {len(ids)} ids or unknown: add it to the tokenizer first")
    rows = int(model.get_input_embeddings().weight.shape[0])
    if ids[0] >= rows:
        raise TokenError(f"{token} has id {ids[0]}, and the model has {rows} rows: add it to both")
    return int(ids[0])
