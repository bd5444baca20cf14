"""Data that teaches a language model a small task, not its phrasing.

DELIA (arXiv 2408.10841) as a library: caches of a model's own words, wordings of a task's
instruction in which one new token stands for the output format, and mixtures of both.

    import delia_data                                 # registers the names with `datasets`
    from datasets import load_dataset

    load_dataset("delia_mix", ratio=4, cache="my-cache")
"""

from __future__ import annotations

from delia_data._version import __version__
from delia_data.errors import DeliaError
from delia_data.mixing import Mixture, mix, save_mixture
from delia_data.ranking import rank, row_seed
from delia_data.records import Message, Record, read_record, read_records, write_record
from delia_data.registration import register
from delia_data.tokens import DEFAULT_TOKEN, add_token, lint

__all__ = [
    "DEFAULT_TOKEN",
    "DeliaError",
    "Message",
    "Mixture",
    "Record",
    "__version__",
    "add_token",
    "lint",
    "mix",
    "rank",
    "read_record",
    "read_records",
    "register",
    "row_seed",
    "save_mixture",
    "write_record",
]

register()
