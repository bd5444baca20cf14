"""Diversify: every task row gets its own wording of the instruction, checked."""

from __future__ import annotations

from delia_data.diversify.assign import diversify, gate_task_wordings, save_task_rows, undiversified
from delia_data.diversify.gates import GateResult, check_wordings, leaking_words, reject_reason

__all__ = [
    "GateResult",
    "check_wordings",
    "diversify",
    "gate_task_wordings",
    "leaking_words",
    "reject_reason",
    "save_task_rows",
    "undiversified",
]
