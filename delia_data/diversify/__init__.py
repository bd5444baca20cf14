"""Diversify: every task row gets its own wording of the instruction, checked."""

from __future__ import annotations

from delia_data.diversify.assign import diversify, undiversified
from delia_data.diversify.author import KINDS, Author
from delia_data.diversify.choice import Anisotropy, choose, measure
from delia_data.diversify.folder import save_task_rows
from delia_data.diversify.gates import Gatekeeper, GateResult, gate_task_wordings
from delia_data.diversify.held_out import set_aside
from delia_data.diversify.lists import read_wordings
from delia_data.diversify.meaning import Embed
from delia_data.diversify.plain import plain_form
from delia_data.diversify.spread import Spread, greedy_spread, spread
from delia_data.diversify.synonyms import synonym_swaps
from delia_data.diversify.writing import WordingRun, write_wordings

__all__ = [
    "KINDS",
    "Anisotropy",
    "Author",
    "Embed",
    "GateResult",
    "Gatekeeper",
    "Spread",
    "WordingRun",
    "choose",
    "diversify",
    "gate_task_wordings",
    "greedy_spread",
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
