"""Steps and micro-batches: each row once, in the mixture's order, evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delia_data.training.packing import StepPlan, plan_step, plan_steps

lengths_of_rows = st.lists(st.integers(1, 300), min_size=1, max_size=60)
bounds = st.one_of(st.none(), st.integers(1, 700))


@given(
    lengths_of_rows, st.integers(1, 20), st.one_of(st.none(), st.integers(1, 9)), bounds,
    st.integers(1, 4),
)  # fmt: skip
def test_every_row_is_computed_once_in_its_own_step(
    lengths: list[int], batch_size: int, rows: int | None, tokens: int | None, processes: int
) -> None:
    plan = StepPlan(batch_size, rows, tokens, processes)
    steps = plan_steps(lengths, plan)
    held = [sorted(row for share in step for part in share for row in part) for step in steps]
    whole = list(range(len(lengths)))
    assert held == [whole[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    for step in steps:
        assert len(step) == processes
        assert len({len(share) for share in step}) == 1
        for part in (part for share in step for part in share):
            assert part == sorted(part)
            assert rows is None or len(part) <= rows
            assert tokens is None or len(part) <= 1 or sum(lengths[i] for i in part) <= tokens


@pytest.mark.parametrize(
    ("lengths", "plan", "shares"),
    [
        ([5, 9, 2], StepPlan(3), [[[0, 1, 2]]]),
        ([9, 7, 5, 3], StepPlan(4, None, 12), [[[0, 3], [1, 2]]]),  # twelve tokens each
        ([100, 4, 5], StepPlan(3, None, 10), [[[0], [1, 2]]]),  # longer than the bound: alone
        ([50, 3, 49, 2], StepPlan(4, 2), [[[1, 3], [0, 2]]]),  # padded rows, by length
        ([7], StepPlan(4, processes=3), [[[0]], [[]], [[]]]),
    ],
)
def test_micro_batches_by_hand(lengths: list[int], plan: StepPlan, shares: list[object]) -> None:
    assert plan_step(range(len(lengths)), lengths, plan) == shares


def test_processes_get_even_shares_and_as_many_micro_batches() -> None:
    shares = plan_step(range(3), [10, 10, 20], StepPlan(3, None, 10, processes=2))
    assert [sorted(row for part in share for row in part) for share in shares] == [[2], [0, 1]]
    assert [len(share) for share in shares] == [2, 2]
    assert [] in shares[0]
