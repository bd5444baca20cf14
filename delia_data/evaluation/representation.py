"""Hidden states at a word, and the token's distances to its keywords in every block.

    "Follow the {word} format"   ids   Follow | the | <sep> | format
                                       └── read up to here ┘
                                       one state of every transformer block: (blocks, width)

What follows the word is part of the text that is turned into ids, and is not computed: a causal
model's state at a place does not depend on what comes after it. Sequences are computed in batches,
padded on the right, which for the same reason changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from delia_data._optional import require
from delia_data.errors import InputError, TokenError
from delia_data.evaluation.serialization import from_plain, to_plain
from delia_data.ranking import rank

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


Measure = Literal["l2", "relative", "cosine"]


@dataclass(frozen=True, slots=True)
class Curve:
    """A number for each block, over the contexts.

    Attributes:
        mean: Its mean, of shape (blocks,).
        sd: Its standard deviation, of shape (blocks,); None where there is one context.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Band:
    """A number for each block, over several words; each word's is a mean over the contexts.

    Attributes:
        mean: Its mean, of shape (blocks,).
        low: The least, of shape (blocks,).
        high: The greatest, of shape (blocks,).
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances from one token to one keyword: L2, L2 over the ordinary median, and cosine."""

    l2: Curve
    relative: Curve
    cosine: Curve


@dataclass(frozen=True, slots=True)
class KeywordAlignment:
    """The token beside one keyword.

    Attributes:
        keyword: The word that it is compared with.
        token: The token's distances to it.
        untrained: Those of a new token before training, by how its row was made.
        ordinary: Those of random ordinary words, by the distance's name.
        nearer: Ordinary words that are nearer to the token, by L2, than the keyword is, of shape
            (blocks,).
    """

    keyword: str
    token: Distances
    untrained: Mapping[str, Distances]
    ordinary: Mapping[str, Band]
    nearer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An ordinary word near the token: mean L2 and cosine distance over the contexts."""

    word: str
    l2: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where the token stands in one model.

    Attributes:
        token: The token.
        contexts: The texts in which it was read.
        words: Ordinary words that were looked at: a sample of the vocabulary, not all of it.
        controls: The random ordinary words of the controls, the first of the sample.
        seed: Seed of the sample and of the random row.
        median: Median L2 between two ordinary words, its mean over the contexts, of shape
            (blocks,).
        keywords: The token beside each keyword.
        nearest: The nearest of the ordinary words, by L2, of shape (blocks, some).
    """

    token: str
    contexts: tuple[str, ...]
    words: int
    controls: tuple[str, ...]
    seed: int
    median: tuple[float, ...]
    keywords: tuple[KeywordAlignment, ...]
    nearest: tuple[tuple[Neighbour, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "the alignment") -> Alignment:
        """Make it of what `as_dict` gave.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_plain(cls, values, where)


def middle_block(blocks: int) -> int:
    """Return the index of the block that the paper's tables call the middle one."""
    return blocks // 2


def first_middle_last(blocks: int) -> tuple[int, int, int]:
    """Return the indices of the blocks that the paper's tables show."""
    return 0, middle_block(blocks), blocks - 1


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


_MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)
_L2, _, _COSINE = range(3)


class _Seen(NamedTuple):
    """What one context shows; the first dimension is the measure: L2, relative, cosine.

    Once all contexts are stacked, a dimension of that length stands before the others.
    """

    median: torch.Tensor  # (blocks,)
    token: torch.Tensor  # (3, keywords, blocks)
    to_words: torch.Tensor  # (3, words, blocks)
    controls: torch.Tensor  # (3, keywords, controls, blocks)
    untrained: torch.Tensor  # (3, keywords, rows, blocks)


def measure_alignment(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    token: str,
    keywords: Sequence[str],
    *,
    contexts: Sequence[str] = DEFAULT_CONTEXTS,
    words: int = 256,
    controls: int = 16,
    nearest: int = 5,
    seed: int = 0,
    batch_size: int = 32,
) -> Alignment:
    """Measure the token's distances to its keywords, the controls', and its nearest words.

    Args:
        model: A causal language model, also one wrapped by peft; left as it was.
        tokenizer: Its tokenizer, with the token added; left as it was.
        token: The special token.
        keywords: The words to compare it with.
        contexts: Texts in which `{word}` marks the place of both, read without chat template.
        words: Ordinary words to draw; all states of one context are held at once, that is about
            `words * blocks * width` numbers.
        controls: How many of them are controls.
        nearest: Nearest words to give for each block.
        seed: Seed of the words and of the random row.
        batch_size: Sequences that are computed at once.

    Raises:
        InputError: There are no keywords or contexts, a number is too small, or the vocabulary
            has no ordinary words.
        TokenError: The token is not one id of the tokenizer, or the model has no row for it.
    """
    check_keywords(keywords)
    check_contexts(contexts)
    if words < 2 or not 1 <= controls <= words or nearest < 1 or batch_size < 1:
        raise InputError(
            f"words {words}, controls {controls}, nearest {nearest}, batch_size {batch_size}: give "
            "at least 2 words, 1 to as many controls, and at least 1 of the others"
        )
    token_id = check_token(model, tokenizer, token)
    drawn = ordinary_words(tokenizer, words, contexts, seed=seed, without=[*keywords, token])
    rows = untrained_rows(model, token_id, seed=seed)

    def look(context: str) -> _Seen:
        def read(*texts: str, row: torch.Tensor | None = None) -> torch.Tensor:
            ids = [locate(tokenizer, context, text).up_to for text in texts]
            return states_at_last(model, ids, last_embedding=row, batch_size=batch_size)

        at_untrained = [read(token, row=row)[0] for row in rows.values()]
        return _see(read(token)[0], read(*keywords), read(*drawn), at_untrained, controls)

    with evaluating(model):
        seen = _stacked([look(context) for context in contexts])
    return Alignment(
        token=token,
        contexts=tuple(contexts),
        words=len(drawn),
        controls=drawn[:controls],
        seed=seed,
        median=tuple(seen.median.mean(0).tolist()),
        keywords=tuple(
            _beside(seen, place, keyword, list(rows)) for place, keyword in enumerate(keywords)
        ),
        nearest=tuple(_nearest(seen.to_words.mean(0), drawn, nearest)),
    )


def _see(
    token: torch.Tensor,
    keywords: torch.Tensor,
    words: torch.Tensor,
    untrained: Sequence[torch.Tensor],
    controls: int,
) -> _Seen:
    """Compare states of one context.

    Args:
        token: Shape (blocks, width).
        keywords: Shape (keywords, blocks, width).
        words: Shape (words, blocks, width).
        untrained: For each untrained row, shape (blocks, width).
        controls: How many of the words are controls.
    """
    import torch

    median = _median_distance(words)
    rows = torch.stack(list(untrained))
    return _Seen(
        median=median,
        token=_distances(keywords, token, median),
        to_words=_distances(words, token, median),
        controls=torch.stack([_distances(words[:controls], k, median) for k in keywords], dim=1),
        untrained=torch.stack([_distances(rows, k, median) for k in keywords], dim=1),
    )


def _distances(many: torch.Tensor, one: torch.Tensor, median: torch.Tensor) -> torch.Tensor:
    """The three distances of each of many states to one, of shape (3, many, blocks)."""
    import torch

    l2 = (many - one).norm(dim=-1)
    similarity = torch.nn.functional.cosine_similarity(many, one[None], dim=-1)
    return torch.stack([l2, l2 / median, (1 - similarity).clamp(0, 2)])


def _median_distance(words: torch.Tensor) -> torch.Tensor:
    """Median L2 of all pairs of words of shape (words, blocks, width), of shape (blocks,)."""
    import numpy as np
    import torch

    above = torch.triu_indices(len(words), len(words), offset=1)
    exact = "donot_use_mm_for_euclid_dist"
    medians = [
        float(np.median(torch.cdist(block, block, compute_mode=exact)[above[0], above[1]].numpy()))
        for block in words.transpose(0, 1)
    ]
    return torch.tensor(medians)


def _stacked(seen: Sequence[_Seen]) -> _Seen:
    import torch

    return _Seen(*(torch.stack(parts) for parts in zip(*seen, strict=True)))


def _beside(seen: _Seen, place: int, keyword: str, rows: Sequence[str]) -> KeywordAlignment:
    """Gather what was seen of one keyword."""
    own = seen.token[:, :, place]  # (contexts, 3, blocks)
    control = seen.controls[:, :, place].mean(0)  # (3, controls, blocks)
    nearer = seen.to_words[:, _L2].mean(0) < own[:, _L2].mean(0)
    return KeywordAlignment(
        keyword=keyword,
        token=_over_contexts(own),
        untrained={
            name: _over_contexts(seen.untrained[:, :, place, number])
            for number, name in enumerate(rows)
        },
        ordinary={
            name: Band(*(tuple(of.tolist()) for of in (c.mean(0), c.amin(0), c.amax(0))))
            for name, c in zip(_MEASURES, control, strict=True)
        },
        nearer=tuple(int(count) for count in nearer.sum(0)),
    )


def _over_contexts(values: torch.Tensor) -> Distances:
    """Mean and deviation of values of shape (contexts, 3, blocks)."""
    means = values.mean(0).tolist()
    sds = values.std(0).tolist() if len(values) > 1 else [None] * len(means)
    curves = (
        Curve(tuple(mean), None if sd is None else tuple(sd))
        for mean, sd in zip(means, sds, strict=True)
    )
    return Distances(*curves)


def _nearest(
    to_words: torch.Tensor, words: Sequence[str], count: int
) -> Iterator[tuple[Neighbour, ...]]:
    """The nearest words of each block; `to_words` is (3, words, blocks)."""
    for l2, cosine in zip(to_words[_L2].T.tolist(), to_words[_COSINE].T.tolist(), strict=True):
        order = sorted(range(len(words)), key=lambda place: (l2[place], words[place]))
        yield tuple(Neighbour(words[i], l2[i], cosine[i]) for i in order[:count])
