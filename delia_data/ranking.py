"""Seeds, and the keyed order of rows for selection and shuffling.

A row's rank depends only on a hash of its content id and the seed, not on its position, the number
of workers or the engine. So ratio 260 contains the pairs of ratio 65, and a selection keeps almost
all of its rows when the cache grows.
"""

from __future__ import annotations

import operator
from typing import Any

from delia_data.errors import InputError

try:  # Python's built-in MD5 takes a third of OpenSSL's time for short texts
    from _md5 import md5 as md5  # type: ignore[import-not-found]
except ImportError:  # not in every build of Python
    from hashlib import md5 as md5


def whole_number(value: Any, name: str, least: int | None = None) -> int:
    """Return a whole number as an `int`, of NumPy too.

    Args:
        value: The number.
        name: Name of the setting in the error.
        least: Smallest value allowed; None for any.

    Raises:
        InputError: It is something else, such as 1.0, "1" or True, or smaller.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" from {least}"
        raise InputError(f"{name} {value!r} is wrong: give a whole number{bound}")
    return number


def rank(seed: int, row_id: str, purpose: str = "order") -> int:
    """Return the rank of a row in the keyed order.

    Args:
        seed: Seed of the run; any integer.
        row_id: Content id of the row.
        purpose: Purpose of the order (`"select"`, `"order"`, ...). Orders with different purposes
            are independent.

    Returns:
        A number of 128 bits: the MD5 of `"{seed}:{purpose}:{row_id}"`, with the last byte first.
    """
    text = f"{seed}:{purpose}:{row_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(md5(text, usedforsecurity=False).digest(), "little")


def row_seed(run_seed: int, row_id: str, stage: str) -> int:
    """Return the seed of a row, independent of batch, order, resume and engine.

    Args:
        run_seed: Seed of the run.
        row_id: Content id of the row.
        stage: Name of the step (`"sample"`, ...), so that steps have different seeds.

    Returns:
        A number below 2**63, which all engines accept as `seed`.
    """
    return rank(run_seed, row_id, f"seed:{stage}") >> 65
