"""The keyed order depends on the seed, the row's id and the purpose, and on nothing else."""

import pytest

from delia_data.ranking import rank, row_seed


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
