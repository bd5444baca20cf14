"""Phrasings that forbid or mention the token."""

from __future__ import annotations

from typing import Any

import pytest

from delia_data.diversify.contrast import CONTRAST_KINDS, contrast_phrasings, fill_phrasing
from delia_data.errors import InputError


@pytest.mark.parametrize("kind", CONTRAST_KINDS)
def test_phrasings_are_complete_and_none_is_in_both_splits(kind: Any) -> None:
    train, test = contrast_phrasings(kind, "train"), contrast_phrasings(kind, "test")
    about = kind == "about"
    assert (len(train), len(test)) == (42 if kind == "forbid" else 14, 10 if about else 6)
    assert len({*train, *test}) == len(train) + len(test)
    for phrasing in (*train, *test):
        assert phrasing.count("{request}") == (not about)
        assert phrasing.count("{token}") == 1


def test_a_request_with_braces_and_slots_stays_as_it_is() -> None:
    filled = fill_phrasing(
        "{token} is out. {request} No {token}.", 'Is {"a": "{token}"} JSON?', "<s>"
    )
    assert filled == '<s> is out. Is {"a": "{token}"} JSON? No <s>.'


def test_an_unknown_kind_or_split_is_refused() -> None:
    with pytest.raises(InputError, match="use a kind of forbid, mention"):
        contrast_phrasings("refuse", "train")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="split train or test"):
        contrast_phrasings("forbid", "dev")  # type: ignore[arg-type]
