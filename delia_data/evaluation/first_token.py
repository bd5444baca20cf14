"""Measuring the state space of the first answer token, once or while a model trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from delia_data.errors import InputError
from delia_data.evaluation.hidden_states import evaluating
from delia_data.evaluation.state_space import FirstToken, StateSpace, first_tokens
from delia_data.records import Record
from delia_data.tokens import encode

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


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
