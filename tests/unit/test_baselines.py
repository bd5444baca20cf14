"""The methods differ in their data alone (paper, Table 4)."""

from __future__ import annotations

import pytest

from delia_data.errors import InputError
from delia_data.records import Record
from delia_data.tasks import bundled_task, bundled_wordings
from delia_data.training.baselines import METHODS, training_data

CACHE = [Record.pair(f"query {i}", f"answer {i}") for i in range(300)]


@pytest.mark.parametrize(
    ("method", "pairs", "wordings"),
    [("delia", 200, 72), ("no_diverse", 0, 72), ("no_wordings", 200, 1), ("common", 0, 1)],
)
def test_each_method_has_its_pairs_and_wordings(method: str, pairs: int, wordings: int) -> None:
    task = bundled_task()
    mixture = training_data(method, task, bundled_wordings(), CACHE, ratio=2)  # type: ignore[arg-type]
    assert mixture.manifest.rows["task"] == len(task.train)
    assert mixture.manifest.rows["cache"] == pairs
    ids = set(mixture.train["wording_id"].to_pylist()) - {None}
    assert len(ids) == wordings


def test_there_are_four() -> None:
    assert len(METHODS) == 4


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="use one of"):
        training_data("dmt", bundled_task(), bundled_wordings(), CACHE, ratio=1)  # type: ignore[arg-type]
