"""Measuring where the token stands: its distances, the controls', and its nearest words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from delia_data.errors import InputError
from delia_data.evaluation.alignment import (
    Alignment,
    Band,
    Curve,
    Distances,
    KeywordAlignment,
    Measure,
    Neighbour,
)
from delia_data.evaluation.controls import ordinary_words, untrained_rows
from delia_data.evaluation.hidden_states import (
    DEFAULT_CONTEXTS,
    check_contexts,
    evaluating,
    locate,
    states_at_last,
)
from delia_data.evaluation.representation import check_keywords, check_token

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

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
