"""What training did: formatted text, representation, and a report that shows both."""

from __future__ import annotations

from delia_data.evaluation.answer_format import AnswerFormat, ReadAnswer
from delia_data.evaluation.asked_task import AskedTask
from delia_data.evaluation.asking import AnsweredRow, PromptBuilder, ask
from delia_data.evaluation.bootstrap import Estimate, Resampling
from delia_data.evaluation.comparison import Comparison, ProbeDifference, compare
from delia_data.evaluation.evaluate import compare_folders, evaluate, read_evaluation
from delia_data.evaluation.formatted_text import (
    FormattedTextScore,
    ParsedAnswer,
    earliest_object,
    interval,
    parse_answer,
    score_formatted_text,
    selectivity,
)
from delia_data.evaluation.labels import LabelScore, LabelScores
from delia_data.evaluation.outcomes import RowOutcome, ScoredRow, read_answers
from delia_data.evaluation.probe import ProbedRow, probe, read_probe, write_probe
from delia_data.evaluation.probes import PROBES, Probe, ProbeRow, make_probes
from delia_data.evaluation.report import (
    Accounting,
    AnswerRow,
    LossPoint,
    QuickstartReport,
    write_report,
)
from delia_data.evaluation.representation import BlockDistances, token_distances
from delia_data.evaluation.scores import Evaluation, ProbeScores, score

__all__ = [
    "PROBES",
    "Accounting",
    "AnswerFormat",
    "AnswerRow",
    "AnsweredRow",
    "AskedTask",
    "BlockDistances",
    "Comparison",
    "Estimate",
    "Evaluation",
    "FormattedTextScore",
    "LabelScore",
    "LabelScores",
    "LossPoint",
    "ParsedAnswer",
    "Probe",
    "ProbeDifference",
    "ProbeRow",
    "ProbeScores",
    "ProbedRow",
    "PromptBuilder",
    "QuickstartReport",
    "ReadAnswer",
    "Resampling",
    "RowOutcome",
    "ScoredRow",
    "ask",
    "compare",
    "compare_folders",
    "earliest_object",
    "evaluate",
    "interval",
    "make_probes",
    "parse_answer",
    "probe",
    "read_answers",
    "read_evaluation",
    "read_probe",
    "score",
    "score_formatted_text",
    "selectivity",
    "token_distances",
    "write_probe",
    "write_report",
]
