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
from delia_data.evaluation.probe import ProbedRow, probe, read_probe, write_probe
from delia_data.evaluation.report import (
    Accounting,
    AnswerRow,
    LossPoint,
    QuickstartReport,
    write_report,
)
from delia_data.evaluation.representation import BlockDistances, token_distances

__all__ = [
    "Accounting",
    "AnswerRow",
    "BlockDistances",
    "FormattedTextScore",
    "LossPoint",
    "ParsedAnswer",
    "ProbedRow",
    "QuickstartReport",
    "earliest_object",
    "interval",
    "parse_answer",
    "probe",
    "read_probe",
    "score_formatted_text",
    "selectivity",
    "token_distances",
    "write_probe",
    "write_report",
]
