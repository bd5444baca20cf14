"""Evaluation of a model on a task, and measurements of an adapter before and after training."""

from __future__ import annotations

from delia_data.evaluation.answer_format import AnswerFormat
from delia_data.evaluation.bootstrap import Estimate, Resampling
from delia_data.evaluation.evaluate import compare_folders, evaluate, read_evaluation
from delia_data.evaluation.generation import AnsweredRow, System, generate_answers, open_system
from delia_data.evaluation.measurements import (
    MEASURES,
    Measurements,
    MeasureSettings,
    measure,
    read_measurements,
)
from delia_data.evaluation.probes import PROBES, EvalTask, Probe, ProbeRow, make_probes
from delia_data.evaluation.representation import StateSpaceWatch
from delia_data.evaluation.scores import (
    NUMBERS,
    Comparison,
    Evaluation,
    ScoredRow,
    compare,
    grade_answers,
    missed_bounds,
    parse_gate,
    score,
)

__all__ = [
    "MEASURES",
    "NUMBERS",
    "PROBES",
    "AnswerFormat",
    "AnsweredRow",
    "Comparison",
    "Estimate",
    "EvalTask",
    "Evaluation",
    "MeasureSettings",
    "Measurements",
    "Probe",
    "ProbeRow",
    "Resampling",
    "ScoredRow",
    "StateSpaceWatch",
    "System",
    "compare",
    "compare_folders",
    "evaluate",
    "generate_answers",
    "grade_answers",
    "make_probes",
    "measure",
    "missed_bounds",
    "open_system",
    "parse_gate",
    "read_evaluation",
    "read_measurements",
    "score",
]
