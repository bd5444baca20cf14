"""The state space at the first answer token (paper, Figure 4).

The first token of the answer, `{` for JSON, is where a model that learned the format diverges from
one that did not. The paper does not define how it counts states. Here the size of the state space
is the smallest number of tokens that together have 95% of the probability:

    prompt ids | answer ids        probabilities after the prompt      0.70  0.20  0.06  0.03 ...
               └ here              tokens with 95%                     └──── 3 ────┘

Probabilities are at temperature 1, over the whole vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError
from delia_data.evaluation.representation import evaluating, length_batches
from delia_data.records import Record
from delia_data.tokens import encode

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

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
