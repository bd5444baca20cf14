"""The state space of the first divergent token: how open it is where the answer begins.

Paper, Figure 4: the first token of the answer, `{` for JSON, is where a model that learnt the
format parts from one that did not. The paper does not say how it counts the states; here it is the
number of tokens that hold 95% of the probability, most probable first:

    prompt ids | answer ids        probabilities after the prompt      0.70  0.20  0.06  0.03 ...
               └ here              tokens that hold 95%                └──── 3 ────┘

Beside it stand the entropy in nats, the rank of the token with which the row's own answer begins
(`{`, or `{'` where the tokenizer joins them), its probability, and the probability of all tokens
that begin with the same character. Probabilities are those at temperature 1, over the whole
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError
from delia_data.evaluation._plain import from_plain, to_plain

if TYPE_CHECKING:
    import torch

_ROUNDING: Final = 1e-9  # of a sum of float64 probabilities


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The distribution of one row's first answer token.

    Attributes:
        size: The fewest tokens that hold the asked mass together.
        entropy: Entropy in nats.
        rank: Rank of the expected token, 1 for the most probable; 1 more than the number of
            tokens that are more probable, so that tied tokens share the best rank.
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
    """First answer tokens over rows.

    Attributes:
        mass: Probability that the counted tokens hold, such as 0.95.
        vocabulary: Tokens that the probability is spread over.
        rows: One a row, in the order of the rows.

    Raises:
        InputError: There are no rows.
    """

    mass: float
    vocabulary: int
    rows: tuple[FirstToken, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise InputError("a state space of no rows says nothing: give at least one row")

    @property
    def size(self) -> float:
        """Geometric mean of the sizes: a few rows in doubt do not outweigh all others."""
        return math.exp(math.fsum(math.log(row.size) for row in self.rows) / len(self.rows))

    @property
    def entropy(self) -> float:
        """Mean entropy in nats."""
        return math.fsum(row.entropy for row in self.rows) / len(self.rows)

    @property
    def rank(self) -> float:
        """Median rank of the expected token."""
        return float(median(row.rank for row in self.rows))

    @property
    def probability(self) -> float:
        """Mean probability of the expected token."""
        return math.fsum(row.probability for row in self.rows) / len(self.rows)

    @property
    def opening(self) -> float:
        """Mean probability of the tokens that begin as the expected answer does."""
        return math.fsum(row.opening for row in self.rows) / len(self.rows)

    def reduction(self, before: StateSpace) -> float:
        """How many times smaller the state space is than it was before: a ratio of the sizes."""
        return before.size / self.size

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "the state space") -> StateSpace:
        """Make it of what `as_dict` gave.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_plain(cls, values, where)


def first_tokens(
    logits: torch.Tensor,
    expected: Sequence[int],
    opening: torch.Tensor,
    *,
    mass: float = 0.95,
) -> list[FirstToken]:
    """Work out the numbers of rows from their logits, in float64.

    Args:
        logits: Shape (rows, vocabulary), at the place before the answer.
        expected: For each row the id of the token with which its own answer begins.
        opening: Shape (rows, vocabulary), true for tokens that begin with the same character.
        mass: Probability that the counted tokens hold, above 0, at most 1.

    Raises:
        InputError: The mass is out of its bounds.
    """
    import torch

    if not 0 < mass <= 1:
        raise InputError(f"mass {mass} is no share of the probability: give above 0, at most 1")
    exact = logits.detach().double()
    log_shares = exact.log_softmax(-1)
    shares = log_shares.exp()
    held = shares.sort(dim=-1, descending=True).values.cumsum(-1)
    sizes = (held < mass - _ROUNDING).sum(-1) + 1
    entropies = -torch.where(shares > 0, shares * log_shares, 0).sum(-1)
    ids = torch.tensor(list(expected), device=exact.device)[:, None]
    ranks = (exact > exact.gather(1, ids)).sum(-1) + 1
    own = shares.gather(1, ids)[:, 0]
    alike = (shares * opening).sum(-1)
    columns = zip(*(c.tolist() for c in (sizes, entropies, ranks, own, alike)), strict=True)
    most = exact.shape[1]
    return [FirstToken(min(size, most), *rest) for size, *rest in columns]
