"""One finished request, as the store keeps it and the meter counts it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampled:
    """One finished request.

    Attributes:
        number: Its place in the order in which the rows of a run are asked, from 0.
        id: Content id of the query; of a query's second answer and later ones, followed by a
            colon and the answer's number.
        query: What was asked.
        answer: What the model said.
        tokens: Tokens generated.
        prompt_tokens: Tokens of the prompt; 0 where the engine does not tell.
        cost: Dollars; None where the price is not known.
        rejected: Why the pair is not kept; None where it is.
        error: What went wrong, where the request failed.
    """

    number: int
    id: str
    query: str
    answer: str
    tokens: int
    prompt_tokens: int = 0
    cost: float | None = 0.0
    rejected: str | None = None
    error: str | None = None
