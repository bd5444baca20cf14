"""Evaluation of a model on a task, and measurements of an adapter before and after training."""

from __future__ import annotations

from delia_data.evaluation.answer_format import AnswerFormat
from delia_data.evaluation.bootstrap import Estimate, Resampling
from delia_data.evaluation.comparison import Comparison, compare
from delia_data.evaluation.evaluate import compare_folders, evaluate, open_system, read_evaluation
from delia_data.evaluation.generation import AnsweredRow, generate_answers
from delia_data.evaluation.measuring import (
    MEASURES,
    Measurements,
    MeasureSettings,
    measure,
    read_measurements,
)
from delia_data.evaluation.probes import PROBES, EvalTask, Probe, ProbeRow, make_probes
from delia_data.evaluation.scores import Evaluation, ScoredRow, grade_answers, score
from delia_data.evaluation.state_space import StateSpaceWatch

__all__ = [
    "MEASURES",
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
    "compare",
    "compare_folders",
    "evaluate",
    "generate_answers",
    "grade_answers",
    "make_probes",
    "measure",
    "open_system",
    "read_evaluation",
    "read_measurements",
    "score",
]
