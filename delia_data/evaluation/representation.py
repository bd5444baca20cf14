"""Measure a token: hidden states, distances to its keywords, and the state space of answers.

Hidden states are read at a word in every block:

    "Follow the {word} format"   ids   Follow | the | <sep> | format
                                       └── read up to here ┘
                                       one state per transformer block: (blocks, width)

The text after the word affects tokenization but is not computed, since the states of a causal
model do not depend on later tokens. For the same reason padding on the right changes only
rounding.

The first token of the answer, `{` for JSON, is where a model that learned the format diverges from
one that did not (paper, Figure 4). The paper does not define how it counts states. Here the size of
the state space is the smallest number of tokens that together have 95% of the probability:

    prompt ids | answer ids        probabilities after the prompt      0.70  0.20  0.06  0.03 ...
               └ here              tokens with 95%                     └──── 3 ────┘

Probabilities are at temperature 1, over the whole vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from delia_data._batches import batches
from delia_data._optional import require
from delia_data.errors import InputError, TokenError
from delia_data.ranking import rank
from delia_data.records import Record
from delia_data.tokens import encode

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
_NEAREST: Final = 5  # words listed per block
_CONTROLS: Final = 16  # words whose distances to the keywords are measured
_BATCH: Final = 32
_SPACES: Final = frozenset({" ", "Ġ", "▁"})  # a space in the pieces of tokenizers
_SHORTEST: Final = 3  # letters; shorter pieces are mostly parts of other words


@dataclass(frozen=True, slots=True)
class WordPosition:
    """Position of a word among the ids of a text.

    Attributes:
        ids: Ids of the whole text.
        last: Index of the word's last id.
        pieces: Number of ids of the word.
    """

    ids: tuple[int, ...]
    last: int
    pieces: int

    @property
    def up_to(self) -> tuple[int, ...]:
        """Ids up to and including the word's last one."""
        return self.ids[: self.last + 1]


def locate(tokenizer: PreTrainedTokenizerBase, context: str, word: str) -> WordPosition:
    """Put a word into a context and find it among the ids.

    Uses the tokenizer's offsets. Without offsets, the word begins and ends where the ids of the
    whole text stop matching those of its beginning.

    Args:
        tokenizer: The tokenizer.
        context: Text that contains `{word}` once.
        word: The word.

    Raises:
        InputError: The word produces no id.
    """
    before, _, after = context.partition(WORD_SLOT)
    text, start, end = f"{before}{word}{after}", len(before), len(before) + len(word)
    if tokenizer.is_fast:
        encoded: Any = tokenizer(text, return_offsets_mapping=True)
        spans = enumerate(encoded["offset_mapping"])
        inside = [index for index, (first, last) in spans if first < end and last > start]
        ids = [int(i) for i in encoded["input_ids"]]
    else:
        ids = tokenizer.encode(text)
        bare, to_word, through_word = (
            tokenizer.encode(part, add_special_tokens=False) for part in (text, before, text[:end])
        )
        begin, stop = _shared_start(bare, to_word), _shared_start(bare, through_word)
        starts = range(len(ids) - stop + 1)
        head = next((i for i in starts if ids[i : i + stop] == bare[:stop]), 0)
        inside = list(range(head + min(begin, stop - 1), head + stop)) if stop else []
    if not inside:
        raise InputError(f"{word!r} has no id in {text!r}: give a word that the model can read")
    return WordPosition(tuple(ids), inside[-1], len(inside))


def _shared_start(left: Sequence[int], right: Sequence[int]) -> int:
    shortest = min(len(left), len(right))
    return next((i for i in range(shortest) if left[i] != right[i]), shortest)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode without gradients, then restore its mode."""
    torch_ = require("torch", extra="local")
    was_training = model.training
    model.eval()
    try:
        with torch_.no_grad():
            yield
    finally:
        model.train(was_training)


def length_batches(
    sequences: Sequence[Sequence[int]], batch_size: int, device: Any
) -> Iterator[tuple[Sequence[int], torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield batches of sequences of similar length, padded on the right.

    Yields:
        The indices of the sequences; their ids and the attention mask, each of shape (batch,
        longest); and the index of each last id, of shape (batch,).
    """
    import torch

    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    for batch in batches(order, batch_size):
        rows = [sequences[index] for index in batch]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
        yield batch, ids, mask, lengths - 1


def states_at_last(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    last_embedding: torch.Tensor | None = None,
    batch_size: int = _BATCH,
) -> torch.Tensor:
    """Return the hidden states at the last id of each sequence.

    The output of the embedding is left out. The last block's state is the one that transformers
    returns: in Llama-like models it has passed the final norm, so its scale differs.

    Args:
        model: A causal language model, also one wrapped by PEFT.
        sequences: Ids of each sequence, at least one.
        last_embedding: Row of shape (width,) to use as the embedding of each last id, such as that
            of a token that the model does not have.
        batch_size: Sequences per batch; those of similar length go together.

    Returns:
        float32 on the CPU, of shape (sequences, blocks, width).
    """
    import torch

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(causal, causal.base_model_prefix)
    embedding = model.get_input_embeddings()
    states: dict[int, torch.Tensor] = {}
    for batch, ids, mask, ends in length_batches(sequences, batch_size, embedding.weight.device):
        every = torch.arange(len(batch), device=ids.device)
        inputs = {"input_ids": ids}
        if last_embedding is not None:
            embedded = embedding(ids).clone()
            # Some models scale the rows of their embedding.
            row = last_embedding.to(ids.device) * getattr(embedding, "embed_scale", 1.0)
            embedded[every, ends] = row.to(embedded.dtype)
            inputs = {"inputs_embeds": embedded}
        output = backbone(**inputs, attention_mask=mask, output_hidden_states=True, use_cache=False)
        blocks = [block[every, ends].float().cpu() for block in output.hidden_states[1:]]
        states |= zip(batch, torch.stack(blocks, dim=1), strict=True)
    return torch.stack([states[index] for index in range(len(sequences))])


def ordinary_words(
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    contexts: Sequence[str],
    *,
    seed: int = 0,
    without: Collection[str] = (),
) -> tuple[str, ...]:
    """Sample words of the vocabulary that are a single id in every context.

    A word has at least three characters, all of them letters, and includes the space before it.
    The order is by keyed hash of the word, so a larger `count` extends a smaller sample.

    Args:
        tokenizer: The tokenizer.
        count: Maximum number of words.
        contexts: Texts that contain `{word}` once.
        seed: Seed of the sample.
        without: Words to leave out, in any case.

    Raises:
        InputError: The vocabulary has fewer than two such words.
    """
    special = set(tokenizer.all_special_tokens)
    ids = sorted(i for piece, i in tokenizer.get_vocab().items() if piece not in special)
    texts = {str(tokenizer.decode([token_id])).strip() for token_id in ids}
    left_out = {word.strip().casefold() for word in without}
    candidates = {word for word in texts if len(word) >= _SHORTEST and word.isalpha()}
    words: list[str] = []
    for word in sorted(candidates, key=lambda word: rank(seed, word, "ordinary word")):
        if len(words) == count:
            break
        if word.casefold() not in left_out and all(
            _is_one_id(tokenizer, context, word) for context in contexts
        ):
            words.append(word)
    if len(words) < 2:
        raise InputError(
            f"the tokenizer's vocabulary has {len(words)} words of a single id, and distances "
            "between ordinary words need at least 2: use a model whose vocabulary contains words"
        )
    return tuple(words)


def _is_one_id(tokenizer: PreTrainedTokenizerBase, context: str, word: str) -> bool:
    """Return whether a word is one id together with the space before it, if there is one.

    A part of words, such as `ictor`, is one id as well, but leaves the space as another id.
    """
    position = locate(tokenizer, context, word)
    if position.pieces > 1 or not position.last:
        return position.pieces == 1
    return tokenizer.convert_ids_to_tokens(position.ids[position.last - 1]) not in _SPACES


def untrained_rows(model: Any, token_id: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return initial embedding rows of a new token by initialization (see `tokens.add_token`).

    Args:
        model: The model; the rows before the token's are read.
        token_id: Id of the trained token.
        seed: Seed of the random row.

    Returns:
        For `"mean"` and `"normal"` a float32 row of shape (width,).
    """
    import torch

    existing = model.get_input_embeddings().weight[:token_id].detach().float()
    mean = existing.mean(0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    return {"mean": mean, "normal": mean + existing.std(0) * noise}


DistanceName = Literal["l2", "relative", "cosine"]
DISTANCES: Final[tuple[DistanceName, ...]] = get_args(DistanceName)
"""L2, L2 divided by the median L2 between ordinary words, and cosine distance."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean and standard deviation over the contexts, each of shape (blocks,).

    With one context, `sd` is None.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Band:
    """Mean and range over several words, each of shape (blocks,)."""

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances to one keyword (see `DISTANCES`)."""

    l2: Curve
    relative: Curve
    cosine: Curve


@dataclass(frozen=True, slots=True)
class KeywordAlignment:
    """Distances to one keyword: of the token and of controls.

    Attributes:
        keyword: The keyword.
        token: Distances of the token.
        untrained: Distances of a new token before training, by initialization.
        ordinary: Distances of random ordinary words, by name in `DISTANCES`.
        nearer: Number of ordinary words nearer to the token than the keyword is, by L2, of shape
            (blocks,).
    """

    keyword: str
    token: Distances
    untrained: Mapping[str, Distances]
    ordinary: Mapping[str, Band]
    nearer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Neighbor:
    """An ordinary word near the token: mean L2 and cosine distance over the contexts."""

    word: str
    l2: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """Representation of the token in one model.

    Attributes:
        token: The token.
        contexts: Texts in which it was read.
        words: Number of ordinary words sampled from the vocabulary.
        controls: The ordinary words that serve as controls: the first of the sample.
        seed: Seed of the sample and the random row.
        median: Median L2 between two ordinary words, mean over the contexts, of shape (blocks,).
        keywords: Distances to each keyword.
        nearest: Nearest ordinary words by L2, of shape (blocks, words).
    """

    token: str
    contexts: tuple[str, ...]
    words: int
    controls: tuple[str, ...]
    seed: int
    median: tuple[float, ...]
    keywords: tuple[KeywordAlignment, ...]
    nearest: tuple[tuple[Neighbor, ...], ...]


def middle_block(blocks: int) -> int:
    """Return the index of the block that the paper's tables call the middle one."""
    return blocks // 2


def first_middle_last(blocks: int) -> tuple[int, int, int]:
    """Return the indices of the blocks that the paper's tables show."""
    return 0, middle_block(blocks), blocks - 1


def measure_alignment(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    token: str,
    keywords: Sequence[str],
    *,
    contexts: Sequence[str] = DEFAULT_CONTEXTS,
    words: int = 256,
    seed: int = 0,
) -> Alignment:
    """Measure distances from the token and from controls to the keywords.

    The model and the tokenizer are left unchanged.

    Args:
        model: A causal language model, also one wrapped by PEFT.
        tokenizer: Its tokenizer, with the token added.
        token: The special token.
        keywords: Words to compare it with.
        contexts: Texts that contain `{word}` once, read without a chat template.
        words: Ordinary words to sample. Memory holds `words * blocks * width` numbers.
        seed: Seed of the words and the random row.

    Raises:
        InputError: There are no keywords or contexts, a number is too small, or the vocabulary
            has no ordinary words.
        TokenError: The token is not one id of the tokenizer, or the model has no row for it.
    """
    import torch

    if not keywords or any(not word.strip() for word in keywords):
        raise InputError(f"keywords {list(keywords)} contain no word: give words to compare with")
    if not contexts or any(context.count(WORD_SLOT) != 1 for context in contexts):
        raise InputError(f"contexts {list(contexts)} must each contain {WORD_SLOT} once")
    if words < 2:
        raise InputError(f"words {words}: give at least 2")
    rows = untrained_rows(model, _token_id(model, tokenizer, token), seed=seed)
    sample = ordinary_words(tokenizer, words, contexts, seed=seed, without=[*keywords, token])

    def distances(context: str) -> tuple[torch.Tensor, ...]:
        def states(*texts: str, row: torch.Tensor | None = None) -> torch.Tensor:
            ids = [locate(tokenizer, context, text).up_to for text in texts]
            return states_at_last(model, ids, last_embedding=row)

        at_keywords, at_words = states(*keywords), states(*sample)
        at_token = states(token)[0]
        at_untrained = torch.stack([states(token, row=row)[0] for row in rows.values()])
        median = _median_distance(at_words)
        return (
            median,
            _distances(at_keywords, at_token, median),
            _distances(at_words, at_token, median),
            torch.stack([_distances(at_words[:_CONTROLS], k, median) for k in at_keywords]),
            torch.stack([_distances(at_untrained, k, median) for k in at_keywords]),
        )

    with evaluating(model):
        per_context = [distances(context) for context in contexts]
    # Each of shape (contexts, ...).
    medians, of_token, of_words, of_controls, of_untrained = (
        torch.stack(each) for each in zip(*per_context, strict=True)
    )
    to_words = of_words.mean(0)  # (3, words, blocks)
    return Alignment(
        token=token,
        contexts=tuple(contexts),
        words=len(sample),
        controls=sample[:_CONTROLS],
        seed=seed,
        median=tuple(medians.mean(0).tolist()),
        keywords=tuple(
            KeywordAlignment(
                keyword=keyword,
                token=_over_contexts(of_token[:, :, index]),
                untrained={
                    name: _over_contexts(of_untrained[:, index, :, number])
                    for number, name in enumerate(rows)
                },
                ordinary={
                    name: Band(*(tuple(of.tolist()) for of in (c.mean(0), c.amin(0), c.amax(0))))
                    for name, c in zip(DISTANCES, of_controls[:, index].mean(0), strict=True)
                },
                nearer=tuple((to_words[0] < of_token[:, 0, index].mean(0)).sum(0).tolist()),
            )
            for index, keyword in enumerate(keywords)
        ),
        nearest=tuple(
            tuple(Neighbor(word, l2, cosine) for l2, word, cosine in sorted(block)[:_NEAREST])
            for block in (
                zip(l2, sample, cosine, strict=True)
                for l2, _, cosine in to_words.permute(2, 0, 1).tolist()
            )
        ),
    )


def _token_id(model: Any, tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise TokenError(f"{token} is {len(ids)} ids or unknown: add it to the tokenizer first")
    rows = int(model.get_input_embeddings().weight.shape[0])
    if ids[0] >= rows:
        raise TokenError(f"{token} has id {ids[0]}, and the model has {rows} rows: add it to both")
    return int(ids[0])


def _distances(many: torch.Tensor, one: torch.Tensor, median: torch.Tensor) -> torch.Tensor:
    """Return the `DISTANCES` from many states to one, of shape (3, many, blocks)."""
    import torch

    l2 = (many - one).norm(dim=-1)
    similarity = torch.nn.functional.cosine_similarity(many, one[None], dim=-1)
    return torch.stack([l2, l2 / median, (1 - similarity).clamp(0, 2)])


def _median_distance(words: torch.Tensor) -> torch.Tensor:
    """Return the median L2 of all pairs of words (words, blocks, width), of shape (blocks,)."""
    import numpy as np
    import torch

    above = torch.triu_indices(len(words), len(words), offset=1)
    exact = "donot_use_mm_for_euclid_dist"
    medians = [
        float(np.median(torch.cdist(block, block, compute_mode=exact)[above[0], above[1]].numpy()))
        for block in words.transpose(0, 1)
    ]
    return torch.tensor(medians)


def _over_contexts(values: torch.Tensor) -> Distances:
    """Return mean and deviation of values of shape (contexts, 3, blocks)."""
    sds = values.std(0).tolist() if len(values) > 1 else [None] * len(DISTANCES)
    return Distances(
        *(
            Curve(tuple(mean), None if sd is None else tuple(sd))
            for mean, sd in zip(values.mean(0).tolist(), sds, strict=True)
        )
    )


MASS: Final = 0.95
"""Probability mass of the counted tokens."""
_ROUNDING: Final = 1e-9  # of a sum of float64 probabilities


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The distribution of the first answer token of one row.

    Attributes:
        size: Smallest number of tokens that have the requested probability mass.
        entropy: Entropy in nats.
        rank: Rank of the expected token: 1 plus the number of more probable tokens.
        probability: Probability of the expected token.
        opening: Probability of all tokens that begin with the expected answer's first character.
    """

    size: int
    entropy: float
    rank: int
    probability: float
    opening: float


@dataclass(frozen=True, slots=True)
class StateSpace:
    """First answer tokens of several rows.

    Attributes:
        mass: Probability mass of the counted tokens, such as 0.95.
        rows: One entry per row.
    """

    mass: float
    rows: tuple[FirstToken, ...]

    @property
    def size(self) -> float:
        """Geometric mean of the sizes, so that a few uncertain rows do not dominate."""
        return math.exp(fmean(math.log(row.size) for row in self.rows))

    @property
    def entropy(self) -> float:
        """Mean entropy in nats."""
        return fmean(row.entropy for row in self.rows)

    @property
    def rank(self) -> float:
        """Median rank of the expected token."""
        return float(median(row.rank for row in self.rows))

    @property
    def probability(self) -> float:
        """Mean probability of the expected token."""
        return fmean(row.probability for row in self.rows)

    @property
    def opening(self) -> float:
        """Mean probability of the tokens that begin like the expected answer."""
        return fmean(row.opening for row in self.rows)


def first_tokens(
    logits: torch.Tensor, expected: Sequence[int], opening: torch.Tensor
) -> list[FirstToken]:
    """Compute the numbers of each row from its logits, in float64.

    Args:
        logits: Shape (rows, vocabulary), at the position before the answer.
        expected: For each row, the id of the first token of its own answer.
        opening: Shape (rows, vocabulary), true for tokens that begin with the same character.
    """
    import torch

    exact = logits.detach().double()
    log_shares = exact.log_softmax(-1)
    shares = log_shares.exp()
    cumulative = shares.sort(dim=-1, descending=True).values.cumsum(-1)
    ids = torch.tensor(list(expected), device=exact.device)[:, None]
    columns = (
        (cumulative < MASS - _ROUNDING).sum(-1) + 1,
        -torch.where(shares > 0, shares * log_shares, 0).sum(-1),
        (exact > exact.gather(1, ids)).sum(-1) + 1,
        shares.gather(1, ids)[:, 0],
        (shares * opening).sum(-1),
    )
    return [FirstToken(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]


def measure_state_space(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Record], *, batch_size: int = 8
) -> StateSpace:
    """Measure the first answer token of rows, put through the model's own chat template.

    Args:
        model: A causal language model, also one wrapped by PEFT; left unchanged.
        tokenizer: Its tokenizer.
        rows: Conversations; the last turn is the expected answer.
        batch_size: Rows per batch.

    Raises:
        InputError: There are no rows, there is no chat template, or an answer has no token.
    """
    import torch

    if not rows:
        raise InputError("a state space needs at least one row, and 0 rows were given")
    encoded = [encode(tokenizer, row) for row in rows]
    if empty := sum(not row.answer_ids for row in encoded):
        raise InputError(f"{empty} of {len(rows)} answers have no token: give rows with answers")
    characters = first_characters(tokenizer, int(model.get_output_embeddings().weight.shape[0]))
    measured: dict[int, FirstToken] = {}
    prompts, device = (
        [row.prompt_ids for row in encoded],
        model.get_input_embeddings().weight.device,
    )
    with evaluating(model):
        for batch, ids, mask, ends in length_batches(prompts, batch_size, device):
            # The model applies its head only to the positions at which a prompt ends.
            positions, which = torch.unique(ends, return_inverse=True)
            given = {"attention_mask": mask, "logits_to_keep": positions, "use_cache": False}
            logits = model(input_ids=ids, **given).logits[torch.arange(len(batch)), which].float()
            opening = _opening(characters, [rows[index].answer for index in batch])
            expected = [encoded[index].answer_ids[0] for index in batch]
            tokens = first_tokens(logits, expected, opening.to(logits.device))
            measured |= zip(batch, tokens, strict=True)
    return StateSpace(MASS, tuple(measured[index] for index in range(len(rows))))


class StateSpaceWatch:
    """Measure the state space during a training (a `training.watching.Watch`)."""

    def __init__(self, rows: Sequence[Record], *, name: str = "state_space") -> None:
        """Store the rows.

        Args:
            rows: Held-out rows that contain the token.
            name: First part of the names of the numbers, such as `state_space/size`.

        Raises:
            InputError: There are no rows.
        """
        if not rows:
            raise InputError("there are no rows to watch: give at least one")
        self.rows = tuple(rows)
        self.name = name

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model at a step."""
        space = measure_state_space(model, tokenizer, self.rows)
        numbers = ("size", "entropy", "rank", "probability", "opening")
        return {f"{self.name}/{number}": float(getattr(space, number)) for number in numbers}


def first_characters(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[str]:
    """Return the first character of each token's text, leaving out spaces; empty if it has none.

    Args:
        tokenizer: The tokenizer.
        vocabulary: Rows of the output head, which may be more than the tokenizer's tokens.
    """
    decoded = min(vocabulary, len(tokenizer))
    texts = tokenizer.batch_decode([[number] for number in range(decoded)])
    return [str(text).lstrip()[:1] for text in texts] + [""] * (vocabulary - decoded)


def _opening(characters: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
    """Return which tokens begin like each answer, of shape (answers, vocabulary)."""
    import torch

    begins = [answer.lstrip()[:1] for answer in answers]
    masks = {begin: torch.tensor([begin == c for c in characters]) for begin in set(begins)}
    return torch.stack([masks[begin] for begin in begins])
