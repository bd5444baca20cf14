"""Give every task row its own wording of the instruction.

generate     wordings of a model, or of a file
check        the checks that each wording must pass
select       the most diverse of the accepted wordings
contrast     contrast rows: requests near the task, answered without its format
folder       one wording for each row; all of these, into a task folder
"""

from __future__ import annotations

from delia_data.diversify.check import Embed, GateResult, WordingChecker, gate_task_wordings
from delia_data.diversify.contrast import contrast_phrasings, fill_phrasing
from delia_data.diversify.folder import (
    Anisotropy,
    DiversifiedTask,
    Spread,
    choose,
    diversify,
    greedy_spread,
    make_task_folder,
    measure,
    save_task_rows,
    set_aside,
    spread,
    synonym_swaps,
    undiversified,
)
from delia_data.diversify.generate import (
    KINDS,
    ParaphraseGenerator,
    WordingRun,
    read_wordings,
    write_wordings,
)
from delia_data.diversify.plain import plain_form

__all__ = [
    "KINDS",
    "Anisotropy",
    "DiversifiedTask",
    "Embed",
    "GateResult",
    "ParaphraseGenerator",
    "Spread",
    "WordingChecker",
    "WordingRun",
    "choose",
    "contrast_phrasings",
    "diversify",
    "fill_phrasing",
    "gate_task_wordings",
    "greedy_spread",
    "make_task_folder",
    "measure",
    "plain_form",
    "read_wordings",
    "save_task_rows",
    "set_aside",
    "spread",
    "synonym_swaps",
    "undiversified",
    "write_wordings",
]
