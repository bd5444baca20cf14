"""Give every task row its own wording of the instruction.

generate     wordings of a model, or of a file
check        the checks that each wording must pass
select       the most diverse of the accepted wordings
contrast     contrast rows: requests near the task, answered without its format
folder       one wording for each row; all of these, into a task folder
"""

from __future__ import annotations

from delia_data.diversify.check import GateResult, gate_task_wordings
from delia_data.diversify.contrast import contrast_phrasings, fill_phrasing
from delia_data.diversify.folder import (
    DiversifiedTask,
    diversify,
    make_task_folder,
    measure,
    save_task_rows,
    undiversified,
)
from delia_data.diversify.generate import read_wordings
from delia_data.diversify.plain import plain_form

__all__ = [
    "DiversifiedTask",
    "GateResult",
    "contrast_phrasings",
    "diversify",
    "fill_phrasing",
    "gate_task_wordings",
    "make_task_folder",
    "measure",
    "plain_form",
    "read_wordings",
    "save_task_rows",
    "undiversified",
]
