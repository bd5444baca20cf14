"""Several epochs in one mixture: the task rows again, other pairs, another order."""

from __future__ import annotations

from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import CACHE, TASK, TEST, orders, pairs, picked, task_rows
from row_files import pair_rows, write_jsonl
from wordings import contrast_task

from delia_data.errors import InputError, RatioError, SettingsError
from delia_data.mixing import Order, mix, read_task_rows, save_mixture
from delia_data.outputs import Manifest, read_manifest
from delia_data.records import FORMATS


def test_two_epochs_by_hand() -> None:
    """Worked out with MD5 alone: which pairs, and in which order."""
    task, cache = task_rows(2), pairs(5)

    def key(text: str) -> int:
        return int.from_bytes(md5(f"0:{text}".encode()).digest(), "little")

    ranked = sorted((pair.id for pair in cache), key=lambda one: key(f"select:{one}"))
    expected = []
    for purpose, chosen in (("order", ranked[:2]), ("order:epoch-1", ranked[2:4])):
        places = {one: key(f"{purpose}:0:cache:{one}") for one in chosen}
        places |= {
            row.record.id: key(f"{purpose}:0:task:{row.record.id}:{row.wording_id}") for row in task
        }
        expected += sorted(places, key=places.__getitem__)
    mixture = mix(task, cache, ratio=1, epochs=2)
    assert mixture.train["source_id"].to_pylist() == expected
    assert mixture.manifest.rows == {"task": 4, "cache": 4, "test": 0}
    assert mixture.manifest.settings["epochs"] == 2


@settings(max_examples=25, deadline=None)
@given(
    ratio=st.sampled_from([0, 0.35, 1, 2.5]),
    epochs=st.integers(1, 6),
    seed=st.integers(0, 3),
    order=orders,
    format=st.sampled_from(FORMATS),
)
def test_epochs_are_nested(ratio: float, epochs: int, seed: int, order: Order, format: Any) -> None:
    options: dict[str, Any] = {"seed": seed, "order": order, "format": format, "test": TEST}
    mixture = mix(TASK, CACHE, ratio=ratio, epochs=epochs, **options)
    size = 10 + round(ratio * 10)
    assert mixture.num_rows == epochs * size
    rows = mixture.train.to_pylist()
    assert rows[:size] == mix(TASK, CACHE, ratio=ratio, **options).train.to_pylist()
    for number in range(epochs):
        alone = mix(TASK, CACHE, ratio=ratio, epoch=number, **options)
        assert alone.train.to_pylist() == rows[number * size : (number + 1) * size]
        assert alone.manifest.settings["epoch"] == number
        assert alone.manifest.rows["task"] == 10
    several = picked(mixture)
    assert len(set(several)) == len(several) == epochs * round(ratio * 10)
    at_once = picked(mix(TASK, CACHE, ratio=epochs * round(ratio * 10) / 10, **options))
    assert set(several) == set(at_once)


def test_each_epoch_has_its_own_order() -> None:
    rows = mix(TASK, CACHE, ratio=0, epochs=3).train["source_id"].to_pylist()
    parts = [tuple(rows[begin : begin + 10]) for begin in (0, 10, 20)]
    assert len(set(parts)) == 3
    assert {frozenset(part) for part in parts} == {frozenset(row.record.id for row in TASK)}


def test_one_epoch_is_not_named_in_the_manifest() -> None:
    given = mix(TASK, CACHE, ratio=2).manifest
    assert mix(TASK, CACHE, ratio=2, epochs=1).manifest == given
    assert not {"epoch", "epochs"} & set(given.settings)


def test_too_few_pairs() -> None:
    """10 rows and 25 pairs: ratio 1 lasts for 2 epochs and a half."""
    cache = pairs(25)
    assert mix(TASK, cache, ratio=1, epochs=2).num_rows == 40
    message = (
        "ratio 1 of 10 task rows in 4 epochs needs 40 pairs, and the cache holds 25 usable ones: "
        "sample more, lower the ratio to 0.6, or set on_short"
    )
    for numbers in ({"epochs": 4}, {"epoch": 3}):
        with pytest.raises(RatioError, match=message):
            mix(TASK, cache, ratio=1, **numbers)
    assert mix(TASK, cache, ratio=0.6, epochs=4).manifest.rows["cache"] == 24

    sizes = [len(picked(mix(TASK, cache, ratio=1, epoch=k, on_short="all"))) for k in range(4)]
    assert sizes == [10, 10, 5, 0]
    every = mix(TASK, cache, ratio=1, epochs=4, on_short="all")
    assert every.manifest.rows == {"task": 40, "cache": 25, "test": 0}
    assert sorted(picked(every)) == sorted(pair.id for pair in cache)

    again = mix(TASK, cache, ratio=1, epochs=4, on_short="repeat")
    assert again.manifest.rows == {"task": 40, "cache": 40, "test": 0}
    taken = picked(again)
    assert set(taken[:25]) <= set(taken) == {pair.id for pair in cache}
    parts = [taken[10 * k : 10 * k + 10] for k in range(4)]
    assert all(len(set(part)) == 10 for part in parts)
    assert len(set(parts[0]) & set(parts[2])) == 5  # the ranks 0 to 4 once more
    assert set(parts[3]) < set(parts[0]) | set(parts[1])  # the ranks 5 to 14
    alone = mix(TASK, cache, ratio=1, epoch=3, on_short="repeat")
    assert picked(alone) == parts[3]


def test_each_cache_gives_its_share_of_every_epoch() -> None:
    caches = {"a": pairs(60), "b": [*pairs(100)[60:]]}
    of_a = {pair.id for pair in caches["a"]}
    weights = {"a": 3.0, "b": 1.0}
    taken = picked(mix(TASK, caches, ratio=0.8, epochs=4, cache_weights=weights))
    parts = [taken[8 * k : 8 * k + 8] for k in range(4)]
    assert [len(of_a & set(part)) for part in parts] == [6, 6, 6, 6]
    assert len(set(taken)) == 32


def test_contrast_rows_are_in_every_epoch(tmp_path: Path) -> None:
    contrast_task(tmp_path, contrast=0.5)
    mixture = mix(read_task_rows(tmp_path), CACHE, ratio=1, epochs=3)
    assert mixture.manifest.rows == {"task": 36, "cache": 36, "contrast": 18, "test": 5}
    assert mixture.manifest.details["contrast"] == {"forbid": 6, "mention": 6, "plain": 6}
    sources = mixture.train["source"].to_pylist()
    assert [sources[30 * k : 30 * k + 30].count("contrast") for k in range(3)] == [6, 6, 6]


@pytest.mark.parametrize("order", ["shuffled", "interleaved"])
def test_each_epoch_has_its_share_of_the_contrast_rows(tmp_path: Path, order: Order) -> None:
    """20 contrast rows, 8 in an epoch: the third has the last 4 and the first 4."""
    contrast_task(tmp_path, contrast=20 / 12)
    task = read_task_rows(tmp_path)
    near = [row.record.id for row in task.contrast]
    mixture = mix(task, CACHE, ratio=1, epochs=3, contrast=8 / 12, order=order)
    assert mixture.manifest.rows == {"task": 36, "cache": 36, "contrast": 24, "test": 5}
    assert sum(mixture.manifest.details["contrast"].values()) == 24
    assert mixture.manifest.settings["contrast"] == 8 / 12
    rows = mixture.train.to_pylist()
    for number, wanted in enumerate([near[:8], near[8:16], near[16:] + near[:4]]):
        part = rows[32 * number : 32 * number + 32]
        taken = [row["source_id"] for row in part if row["source"] == "contrast"]
        assert sorted(taken) == sorted(wanted)
        alone = mix(task, CACHE, ratio=1, epoch=number, contrast=8 / 12, order=order)
        assert alone.train.to_pylist() == part
    none = mix(task, CACHE, ratio=1, contrast=0, order=order)
    assert none.manifest.rows == {"task": 12, "cache": 12, "test": 5}
    assert none.train.equals(mix(replace(task, contrast=()), CACHE, ratio=1, order=order).train)


def test_the_contrast_rows_of_an_epoch_are_of_every_task(tmp_path: Path) -> None:
    contrast_task(tmp_path / "a", contrast=1)
    task = read_task_rows(tmp_path / "a")
    both = mix({"a": task, "b": task}, CACHE, ratio=0, contrast=0.25, task_weights={"b": 2.0})
    ids = [row["source_id"] for row in both.train.to_pylist() if row["source"] == "contrast"]
    near = [row.record.id for row in task.contrast]
    assert sorted(ids) == sorted([*near[:3], *near[:6]])


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        (2, "contrast 2 needs 24 contrast rows in an epoch, and the task has 6: lower it"),
        (-1, "contrast -1 is not a number of at least 0: give one such as 0.5"),
        ("some", "contrast 'some' is not a number"),
    ],
)
def test_a_share_of_contrast_rows_that_cannot_be(
    tmp_path: Path, contrast: Any, message: str
) -> None:
    contrast_task(tmp_path, contrast=0.5)
    with pytest.raises(RatioError, match=message):
        mix(read_task_rows(tmp_path), CACHE, ratio=1, contrast=contrast)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"epochs": 0}, "epochs 0 is wrong: give a whole number from 1"),
        ({"epochs": 1.5}, "epochs 1.5 is wrong"),
        ({"epochs": True}, "epochs True is wrong"),
        ({"epoch": -1}, "epoch -1 is wrong: give a whole number from 0"),
        ({"seed": "1"}, "seed '1' is wrong: give a whole number"),
        ({"seed": 1.0}, "seed 1.0 is wrong"),
        ({"seed": None}, "seed None is wrong"),
        ({"epochs": 3, "epoch": 1}, "epochs and epoch were given: give one of them"),
    ],
)
def test_numbers_of_epochs_and_seeds_are_checked(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mix(TASK, CACHE, ratio=1, **numbers)


def test_the_builder_loads_all_epochs_or_one(tmp_path: Path) -> None:
    task = write_jsonl(tmp_path / "task.jsonl", [row.as_row() for row in TASK])
    cache = write_jsonl(tmp_path / "cache.jsonl", pair_rows(60))
    given: dict[str, Any] = {"task": task, "cache": cache, "cache_dir": str(tmp_path / "home")}
    rows = load_dataset("delia_mix", ratio=2, epochs=3, split="train", **given)
    expected = mix(task, cache, ratio=2, epochs=3)
    assert rows.to_list() == expected.train.to_pylist()
    assert Manifest.model_validate_json(rows.info.description) == expected.manifest
    for number in range(3):
        one = load_dataset("delia_mix", ratio=2, epoch=number, split="train", **given)
        assert one.to_list() == rows.to_list()[30 * number : 30 * number + 30]
    stream = load_dataset("delia_mix", ratio=2, epoch=2, streaming=True, split="train", **given)
    assert list(stream) == rows.to_list()[60:]
    with pytest.raises(SettingsError, match="has its own epochs: leave epochs out"):
        load_dataset("delia_mix", ratio=2, epochs=3, repo="org/name")


def test_the_command_and_the_recipe(delia: Delia, tmp_path: Path) -> None:
    task = write_jsonl(tmp_path / "task.jsonl", [row.as_row() for row in TASK])
    cache = write_jsonl(tmp_path / "cache.jsonl", pair_rows(60))
    result = delia("mix", task, cache, tmp_path / "a", "--ratio", 2, "--epochs", 3)
    assert result.code == 0, result.err
    assert "ratio-2: 30 task rows and 60 pairs" in result.out
    recipe = tmp_path / "mix.yaml"
    text = f"tasks: {{task: {task}}}\ncaches: {{cache: {cache}}}\nratio: 2\nepochs: 3\n"
    recipe.write_text(text)
    assert delia("mix", "--recipe", recipe, tmp_path / "b").code == 0
    one, other = (tmp_path / name / "train.parquet" for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    save_mixture(mix(task, cache, ratio=2, epochs=3), tmp_path / "c")
    assert (tmp_path / "c" / "train.parquet").read_bytes() == one.read_bytes()
    assert read_manifest(tmp_path / "a").settings["epochs"] == 3
