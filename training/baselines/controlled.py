"""Controlled text generation by arithmetic of models (Dekoninck et al. 2023).

A formula is a weighted sum of distributions Q_i, here one model under several prompts. Its next
token is drawn from

    softmax( sum_i w_i log Q_i  /  sum_i w_i )

which is the paper's solution for weights that do not depend on the token. The method here is

    (1 + b) Q(question, and what the token stands for)  -  b Q(question alone),      b = 0.5

so that what the explanation adds to the plain question is added half again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from delia_data.engines import Engine
from delia_data.errors import InputError
from delia_data.records import Message
from delia_data.training.baselines.arithmetic import ArithmeticEngine, Term
from delia_data.training.baselines.baseline import Baseline, Material

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BIAS: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Explained:
    """Adds what the token stands for to a conversation's last turn."""

    meaning: str

    def __call__(self, asked: Sequence[Message]) -> tuple[Message, ...]:
        *before, last = asked
        return (*before, replace(last, content=f"{last.content}\n\n{self.meaning}"))


def explained(token: str, description: str) -> Callable[[Sequence[Message]], tuple[Message, ...]]:
    """Make what adds to a conversation what the token stands for.

    Raises:
        InputError: There is no description.
    """
    if not description.strip():
        raise InputError("the task does not say what its token stands for: give a description")
    return _Explained(f"{token} stands for {description.strip().rstrip('.')}.")


def _engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    material: Material,
    batch_size: int,
) -> Engine:
    told = explained(material.task.token, material.task.description)
    terms = (Term(1 + _BIAS, told), Term(-_BIAS, tuple))
    return ArithmeticEngine(model, tokenizer, terms, batch_size=batch_size)


CONTROLLED = Baseline(
    "controlled",
    "Controlled text generation",
    "no training; logits of the explained question against those of the bare one",
    engine=_engine,
    uses=frozenset(),
)
