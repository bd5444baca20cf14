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
from delia_data.evaluation.representation import evaluating
from delia_data.evaluation.serialization import from_plain, to_plain
from delia_data.records import Record
from delia_data.tokens import encode

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

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


def measure_state_space(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Record],
    *,
    mass: float = 0.95,
    batch_size: int = 8,
) -> StateSpace:
    """Measure the first answer token of rows, through the model's own chat template.

    Args:
        model: A causal language model, also one wrapped by peft; left as it was.
        tokenizer: Its tokenizer.
        rows: Conversations; what the last answer begins with is what is expected.
        mass: Probability that the counted tokens hold, above 0, at most 1.
        batch_size: Rows that are computed at once.

    Raises:
        InputError: There are no rows, the mass is out of its bounds, there is no chat template,
            or an answer has no token.
    """
    if not rows or batch_size < 1:
        raise InputError(f"{len(rows)} rows, batch_size {batch_size}: give at least 1 of both")
    encoded = [encode(tokenizer, row) for row in rows]
    if empty := sum(not one.answer_ids for one in encoded):
        raise InputError(f"{empty} of {len(rows)} answers have no token: give rows with answers")
    characters = first_characters(tokenizer, int(model.get_output_embeddings().weight.shape[0]))
    order = sorted(range(len(rows)), key=lambda place: len(encoded[place].prompt_ids))
    found: dict[int, FirstToken] = {}
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            logits = _logits_after(model, [encoded[place].prompt_ids for place in places])
            opening = _opening(characters, [rows[place].answer for place in places])
            expected = [encoded[place].answer_ids[0] for place in places]
            tokens = first_tokens(logits, expected, opening.to(logits.device), mass=mass)
            found |= zip(places, tokens, strict=True)
    return StateSpace(mass, len(characters), tuple(found[place] for place in range(len(rows))))


class StateSpaceWatch:
    """Measures the state space while a model trains (a `training.watching.Watch`).

    The numbers are those of `StateSpace`, under `state_space/size`, `/entropy`, `/rank`,
    `/probability` and `/opening`.
    """

    def __init__(
        self,
        rows: Sequence[Record],
        *,
        mass: float = 0.95,
        batch_size: int = 8,
        name: str = "state_space",
    ) -> None:
        """Keep what is measured.

        Args:
            rows: Held-out rows that name the token.
            mass: As for `measure_state_space`.
            batch_size: Rows that are computed at once.
            name: First part of the numbers' names.

        Raises:
            InputError: There are no rows.
        """
        if not rows:
            raise InputError("there are no rows to watch: give at least one")
        self.rows = tuple(rows)
        self.mass = mass
        self.batch_size = batch_size
        self.name = name

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model as it is at a step."""
        found = measure_state_space(
            model, tokenizer, self.rows, mass=self.mass, batch_size=self.batch_size
        )
        parts = ("size", "entropy", "rank", "probability", "opening")
        return {f"{self.name}/{part}": float(getattr(found, part)) for part in parts}


def first_characters(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[str]:
    """The first character that is no space of each token's text; empty where it has none.

    Args:
        tokenizer: The tokenizer.
        vocabulary: Rows of the output head, which may be more than the tokenizer's tokens.
    """
    known = min(vocabulary, len(tokenizer))
    texts = tokenizer.batch_decode([[number] for number in range(known)])
    return [str(text).lstrip()[:1] for text in texts] + [""] * (vocabulary - known)


def _opening(characters: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
    """Which tokens begin as each answer does, of shape (answers, vocabulary)."""
    import torch

    begins = [answer.lstrip()[:1] for answer in answers]
    masks = {one: torch.tensor([one == c for c in characters]) for one in set(begins)}
    return torch.stack([masks[one] for one in begins])


def _logits_after(model: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits after the last id of each prompt, float32, of shape (prompts, vocabulary).

    The model itself applies its head, and what it does to the logits after it, to the places
    where some prompt ends, and to no others.
    """
    import torch

    device = model.get_input_embeddings().weight.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in prompts], device=device)
    lengths = torch.tensor([len(row) for row in prompts], device=device)
    mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
    ends = sorted({len(row) - 1 for row in prompts})
    kept = torch.tensor(ends, device=device)
    output = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept, use_cache=False)
    which = [ends.index(len(row) - 1) for row in prompts]
    logits: torch.Tensor = output.logits[list(range(len(prompts))), which]
    return logits.float()
