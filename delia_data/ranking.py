"""The keyed order of rows, which selection and shuffle share.

A row's place follows from a hash of its content id, keyed with the seed, and from nothing
else: not its position, the number of workers or the engine. So the pairs of ratio 65 are among
those of ratio 260, and a grown cache keeps nearly all of the picks of the smaller one.
"""

from __future__ import annotations

try:  # Python's own MD5: for a short text a third of the time that OpenSSL takes
    from _md5 import md5 as md5  # type: ignore[import-not-found]
except ImportError:  # a Python that was built without it
    from hashlib import md5 as md5


def rank(seed: int, row_id: str, purpose: str = "order") -> int:
    """Place of a row in the keyed order.

    Args:
        seed: Seed of the run; any integer.
        row_id: Content id of the row.
        purpose: What the order is for (`"select"`, `"order"`, ...). Orders of different
            purposes are independent of each other.

    Returns:
        A number of 128 bits: MD5 of `"{seed}:{purpose}:{row_id}"`, its bytes read from the last.
        Every engine that rows are sorted in can work it out.
    """
    text = f"{seed}:{purpose}:{row_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(md5(text, usedforsecurity=False).digest(), "little")


def row_seed(run_seed: int, row_id: str, stage: str) -> int:
    """Seed of one row's random draws: independent of batch, order, resume and engine.

    Args:
        run_seed: Seed of the run.
        row_id: Content id of the row.
        stage: Name of the step that draws (`"sample"`, ...), so that two steps never share draws.

    Returns:
        A number below 2**63, which every engine's `seed` takes.
    """
    return rank(run_seed, row_id, f"seed:{stage}") >> 65
