"""Fuzzing for a given time: `make fuzz`, or FUZZ_MINUTES=10 with pytest.

Without FUZZ_MINUTES each test runs its usual number of examples once. With it, each module runs for
that many minutes, shared by its tests, and may not need more than 1 GiB of memory.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter

import pytest

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
MAX_GROWTH_KIB = 2**20
tests_in_module: Counter[object] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tests_in_module[item.path] += 1


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Repeat a test until its share of the time is over, each time with new examples."""
    if not MINUTES:
        return None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + 60 * MINUTES / tests_in_module[pyfuncitem.path]
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    while time.monotonic() < end:
        pyfuncitem.obj(**arguments)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MAX_GROWTH_KIB, f"memory grew by {grown / 1024:.0f} MiB"
    return True
