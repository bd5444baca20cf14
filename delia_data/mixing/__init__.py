"""Mix task rows with the pairs of a cache in a fixed order, in bounded memory."""

from __future__ import annotations

from delia_data.mixing.folder import save_mixture
from delia_data.mixing.mixture import Mixture, mix
from delia_data.mixing.options import (
    ON_SHORT,
    ORDERS,
    MixOptions,
    OnShort,
    Order,
    Pairs,
    config_name,
    parse_ratio,
    schema,
)
from delia_data.mixing.task_rows import Rows, TaskRow, TaskRows, read_task_rows

__all__ = [
    "ON_SHORT",
    "ORDERS",
    "MixOptions",
    "Mixture",
    "OnShort",
    "Order",
    "Pairs",
    "Rows",
    "TaskRow",
    "TaskRows",
    "config_name",
    "mix",
    "parse_ratio",
    "read_task_rows",
    "save_mixture",
    "schema",
]
