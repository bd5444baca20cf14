"""The keyed order depends on the seed, the row's id and the purpose, and on nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.ranking import rank, row_seed

IDS = [f"{i:032x}" for i in range(20_000)]


@pytest.mark.parametrize(
    ("seed", "row_id", "purpose", "place"),
    [
        (0, "row", "order", 107505456426170354569760988929910188928),
        (1, "row", "order", 320347306694836195007815671859187801145),
        (0, "row", "select", 252484334945163693256707250753653623986),
        (
            -7,
            "\N{LATIN SMALL LETTER A WITH RING ABOVE}",
            "x",
            168662120614605571650028168045799976755,
        ),
    ],
)
def test_ranks_are_pinned(seed: int, row_id: str, purpose: str, place: int) -> None:
    assert rank(seed, row_id, purpose) == place


def test_row_seeds_are_pinned() -> None:
    assert row_seed(0, "row", "sample") == 6540677780088968249


def test_seed_and_purpose_do_not_run_together() -> None:
    assert rank(1, "row", "1x") != rank(11, "row", "x")
    assert rank(1, "0x", "a") != rank(10, "x", "a")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(), row_id=st.text(), stage=st.text(max_size=5))
def test_bounds(seed: int, row_id: str, stage: str) -> None:
    assert 0 <= rank(seed, row_id, stage) < 2**128
    assert 0 <= row_seed(seed, row_id, stage) < 2**63


def test_ranks_fill_their_range() -> None:
    places = [rank(0, row_id) for row_id in IDS[:2000]]
    assert max(places) > 0.99 * 2**128
    assert min(places) < 0.01 * 2**128
    assert 900 < sum(place < 2**127 for place in places) < 1100


@pytest.mark.parametrize(
    ("one", "other"),
    [((0, "order"), (0, "select")), ((0, "order"), (1, "order")), ((0, "seed:a"), (0, "seed:b"))],
)
def test_orders_are_independent(one: tuple[int, str], other: tuple[int, str]) -> None:
    ids = IDS[:1000]
    first, second = (
        set(sorted(ids, key=lambda row_id: rank(seed, row_id, purpose))[:500])
        for seed, purpose in (one, other)
    )
    assert 200 < len(first & second) < 300  # 250 by chance; 500 for equal orders, 0 for reverse


def test_no_two_rows_share_a_seed() -> None:
    seeds = {row_seed(0, row_id, "sample") for row_id in IDS}
    seeds |= {row_seed(0, row_id, "judge") for row_id in IDS}
    seeds |= {row_seed(1, row_id, "sample") for row_id in IDS}
    assert len(seeds) == 3 * len(IDS)
