"""What training did: formatted text, representation, and a report that shows both."""

from __future__ import annotations

from delia_data.evaluation.answer_format import (
    AnswerFormat,
    FormattedTextScore,
    ParsedAnswer,
    ReadAnswer,
    earliest_object,
    interval,
    parse_answer,
    score_formatted_text,
    selectivity,
)
from delia_data.evaluation.bootstrap import Estimate, Resampling
from delia_data.evaluation.buffering import Buffering
from delia_data.evaluation.comparison import Comparison, ProbeDifference, compare
from delia_data.evaluation.evaluate import compare_folders, evaluate, read_evaluation
from delia_data.evaluation.generation import AnsweredRow, PromptBuilder, generate_answers
from delia_data.evaluation.measuring import (
    MEASURES,
    Measurements,
    MeasureSettings,
    measure,
    read_measurements,
)
from delia_data.evaluation.probe import ProbedRow, probe, read_probe, write_probe
from delia_data.evaluation.probes import PROBES, EvalTask, Probe, ProbeRow, make_probes
from delia_data.evaluation.report import (
    Accounting,
    AnswerRow,
    LossPoint,
    QuickstartReport,
    write_report,
)
from delia_data.evaluation.representation import (
    Alignment,
    BlockDistances,
    measure_alignment,
    token_distances,
)
from delia_data.evaluation.scores import (
    Evaluation,
    LabelScore,
    LabelScores,
    ProbeScores,
    RowOutcome,
    ScoredRow,
    grade_answers,
    score,
)
from delia_data.evaluation.state_space import StateSpace, StateSpaceWatch, measure_state_space

__all__ = [
    "MEASURES",
    "PROBES",
    "Accounting",
    "Alignment",
    "AnswerFormat",
    "AnswerRow",
    "AnsweredRow",
    "BlockDistances",
    "Buffering",
    "Comparison",
    "Estimate",
    "EvalTask",
    "Evaluation",
    "FormattedTextScore",
    "LabelScore",
    "LabelScores",
    "LossPoint",
    "MeasureSettings",
    "Measurements",
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
    "StateSpace",
    "StateSpaceWatch",
    "compare",
    "compare_folders",
    "earliest_object",
    "evaluate",
    "generate_answers",
    "grade_answers",
    "interval",
    "make_probes",
    "measure",
    "measure_alignment",
    "measure_state_space",
    "parse_answer",
    "probe",
    "read_evaluation",
    "read_measurements",
    "read_probe",
    "score",
    "score_formatted_text",
    "selectivity",
    "token_distances",
    "write_probe",
    "write_report",
]
