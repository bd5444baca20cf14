"""What training did: formatted text, representation, and a report that shows both."""

from __future__ import annotations

from delia_data.evaluation.formatted_text import (
    FormattedTextScore,
    ParsedAnswer,
    earliest_object,
    interval,
    parse_answer,
    score_formatted_text,
    selectivity,
)
from delia_data.evaluation.representation import BlockDistances, token_distances

__all__ = [
    "BlockDistances",
    "FormattedTextScore",
    "ParsedAnswer",
    "earliest_object",
    "interval",
    "parse_answer",
    "score_formatted_text",
    "selectivity",
    "token_distances",
]
