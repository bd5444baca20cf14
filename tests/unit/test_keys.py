"""A set of keys behaves as one, whatever its size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delia_data.sampling import keys
from delia_data.sampling.keys import KeySet


@given(st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))))
def test_it_is_a_set(added: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "_RECENT", 4)
        found = KeySet()
        found.update(added)
    assert len(found) == len(set(added)) and set(found) == set(added)
    assert all(key in found for key in added)
    assert [key in found for key in range(41)] == [key in set(added) for key in range(41)]


def test_a_million_keys_take_little_memory() -> None:
    found = KeySet()
    found.update(key * 0x9E3779B97F4A7C15 % 2**64 for key in range(200_000))
    assert len(found) == 200_000 and len(found._recent) < 1 << 16
    assert 0x9E3779B97F4A7C15 in found and 5 not in found
