"""Controls of the token's representation: words that training never touched.

    ordinary words    of the model's vocabulary, one id each, drawn by keyed hash
    untrained rows    a new token as it is before any training: the mean of the embedding's rows, or
                      a draw from a normal distribution of their mean and deviation

An untrained token is never added to the model or the tokenizer: its row takes the place of an
embedding while the model reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError
from delia_data.evaluation.hidden_states import locate
from delia_data.ranking import rank

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

UNTRAINED: Final = ("mean", "normal")
_SPACES: Final = frozenset({" ", "Ġ", "▁"})  # as tokenizers spell one
_SHORTEST: Final = 3  # letters of a word; shorter ones are mostly pieces of others


def ordinary_words(
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    contexts: Sequence[str],
    *,
    seed: int = 0,
    without: Collection[str] = (),
) -> tuple[str, ...]:
    """Draw words of the vocabulary that are one id wherever they stand in the contexts.

    A word has letters only, at least three, and takes the space before it in. The draw is by
    keyed hash of the word, so that a larger `count` adds to a smaller one.

    Args:
        tokenizer: The tokenizer.
        count: Words at most; a smaller vocabulary gives fewer.
        contexts: Texts in which `{word}` marks their place.
        seed: Seed of the draw.
        without: Words that are left out, whatever their case.

    Raises:
        InputError: The vocabulary has no two such words.
    """
    left_out = {word.strip().casefold() for word in without}
    order = sorted(set(_words(tokenizer)), key=lambda word: rank(seed, word, "ordinary word"))
    found: list[str] = []
    for word in order:
        if len(found) == count:
            break
        if word.casefold() in left_out:
            continue
        if all(_is_whole(tokenizer, context, word) for context in contexts):
            found.append(word)
    if len(found) < 2:
        raise InputError(
            f"the tokenizer's vocabulary has {len(found)} words that are one id, and distances "
            "between ordinary words need at least 2: use a model whose vocabulary holds words"
        )
    return tuple(found)


def untrained_rows(model: Any, token_id: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows that a new token could begin with, by the way they are made (see `tokens.add_token`).

    Args:
        model: The model; its rows before the token's are read.
        token_id: Id of the trained token.
        seed: Seed of the random row.

    Returns:
        For each of `UNTRAINED` a float32 row of shape (width,).
    """
    import torch

    existing = model.get_input_embeddings().weight[:token_id].detach().float()
    mean = existing.mean(0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    return {"mean": mean, "normal": mean + existing.std(0) * noise}


def _is_whole(tokenizer: PreTrainedTokenizerBase, context: str, word: str) -> bool:
    """Whether a word is one id in a context, with the space before it, where there is one.

    A piece of words, such as `ictor`, is one id as well, but leaves the space an id of its own.
    """
    found = locate(tokenizer, context, word)
    if found.pieces > 1 or not found.last:
        return found.pieces == 1
    return tokenizer.convert_ids_to_tokens(found.ids[found.last - 1]) not in _SPACES


def _words(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    special = set(tokenizer.all_special_tokens)
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    for piece, number in pieces:
        if piece in special:
            continue
        word = str(tokenizer.decode([number])).strip()
        if len(word) >= _SHORTEST and word.isalpha():
            yield word
