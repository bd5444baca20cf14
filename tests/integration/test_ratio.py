"""A series of ratios on a random tiny model: nested, killed and gone on with, extended, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import names, refused, spawn
from ratio_inputs import Inputs, make_inputs, training_of

from delia_data.errors import (
    ForeignFolderError,
    InputError,
    LockedError,
    RatioError,
    SettingsError,
    TokenError,
)
from delia_data.outputs import folder_lock, is_finished, read_manifest
from delia_data.ratio import (
    Choice,
    RatioResult,
    RatioSettings,
    estimate_ratio,
    find_ratio,
    read_ratio,
)
from delia_data.ratio.drawing import ratio_curve, ratio_losses
from delia_data.ratio.ground import read_ground
from delia_data.ratio.stage import Stage, read_losses
from delia_data.records import Record, read_record, write_record
from delia_data.reproduction.task_loss import answer_loss
from delia_data.training import load_adapter, train

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SERIES = RatioSettings(ratios=(0, 2, 4), seeds=2, pairs=6, rows=3)
FLAGS = ("--ratios", "0,2,4", "--seeds", 2, "--pairs", 6, "--rows", 3)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def unbroken(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series that was run to its end in one go."""
    out = tmp_path_factory.mktemp("series") / "out"
    find_ratio(inputs.task, inputs.cache, out, training_of(inputs), settings=SERIES)
    return out


def content(folder: Path) -> dict[str, bytes]:
    """All that a finished series holds, locks and temporary files aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


# What is trained and measured


def test_pairs_of_a_smaller_ratio_are_among_those_of_a_larger_one(inputs: Inputs) -> None:
    ground = read_ground(inputs.task, inputs.cache, SERIES)
    ids = {
        ratio: {row["source_id"] for row in ground.rows(ratio, 1) if row["source"] == "cache"}
        for ratio in SERIES.ratios
    }
    assert [len(each) for each in ids.values()] == [0, 12, 24]
    assert ids[2] < ids[4]
    assert ids[4] != {r["source_id"] for r in ground.rows(4, 0) if r["source"] == "cache"}
    new = ground.rows(4, 1, after=2)
    assert {row["source_id"] for row in new} == ids[4] - ids[2]
    assert all(row["source"] == "cache" for row in new)


def test_pairs_that_are_kept_out_are_in_no_mixture_nor_are_their_queries(
    inputs: Inputs, tmp_path: Path
) -> None:
    pairs = [json.loads(line) for line in inputs.cache.read_text().splitlines()]
    again = [{**pair, "completion": f"so {pair['completion']}"} for pair in pairs]
    cache = tmp_path / "twice.jsonl"
    cache.write_text("".join(f"{json.dumps(pair)}\n" for pair in [*pairs, *again]))
    ground = read_ground(inputs.task, cache, SERIES)
    assert len(ground.kept_out) == 6
    queries = {pair.query for pair in ground.kept_out}
    trained = [read_record(row) for row in ground.rows(18, 0)]
    assert len(trained) == 6 + 108
    assert not queries & {record.query for record in trained}


def test_the_losses_are_those_of_the_trained_model(
    unbroken: Path, inputs: Inputs, tmp_path: Path
) -> None:
    """One stage trained again by hand, from rows put together here."""
    ground = read_ground(inputs.task, inputs.cache, SERIES)
    train(replace(training_of(inputs), seed=1), ground.rows(2, 1), tmp_path / "adapter")
    model, tokenizer = load_adapter(tmp_path / "adapter")
    found = read_losses(unbroken / "stages" / Stage(2, 1).name)
    rows = {"held_out": ground.held_out, "plain": ground.plain, "pairs": ground.kept_out}
    for name, records in rows.items():
        losses = getattr(found, name)
        assert len(losses) == len(records)
        mean = sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)
        assert mean == pytest.approx(answer_loss(model, tokenizer, records), rel=1e-5)
    assert all("<sep>" in record.query for record in ground.held_out)
    assert not any("<sep>" in record.query for record in ground.plain)
    assert [r.answer for r in ground.held_out] == [r.answer for r in ground.plain]


def test_the_result_says_what_the_stages_came_to(unbroken: Path) -> None:
    found = read_ratio(unbroken)
    assert [(point.ratio, point.pairs) for point in found.points] == [(0, 0), (2, 12), (4, 24)]
    for point in found.points:
        for seed in (0, 1):
            losses = read_losses(unbroken / "stages" / Stage(point.ratio, seed).name)
            tokens = sum(loss.tokens for loss in losses.held_out)
            named = sum(loss.nats for loss in losses.held_out) / tokens
            bare = sum(loss.nats for loss in losses.plain) / tokens
            assert point.loss.by_seed[seed] == pytest.approx(named)
            assert point.selectivity is not None
            assert point.selectivity.by_seed[seed] == pytest.approx(bare - named)
        assert point.loss.low < point.loss.value < point.loss.high
    # Pairs teach pairs: a random model that saw 24 of them knows others better than one that saw 0.
    assert found.points[-1].pair_loss.high < found.points[0].pair_loss.low
    assert found.chosen == found.by_loss
    assert found.by_selectivity is not None
    assert found.pairs_needed == 6 * found.chosen.ratio
    assert RatioResult.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    assert read_manifest(unbroken, verify=True).rows == {"task": 6, "held_out": 3, "kept_out": 6}
    assert not list(unbroken.rglob("adapter_model.safetensors"))


def test_both_figures_are_drawn_alike_for_a_page(unbroken: Path) -> None:
    found = read_ratio(unbroken)
    for drawing, file in (
        (ratio_curve(found), "ratio.png"),
        (ratio_losses(found), "ratio-losses.png"),
    ):
        assert (unbroken / file).read_bytes().startswith(b"\x89PNG")
        assert "pairs for each task row" in drawing.svg()
    assert found.told[0] in ratio_curve(found).told


# Going on


def test_another_tolerance_and_more_ratios_train_only_what_is_new(
    inputs: Inputs, tmp_path: Path
) -> None:
    trained: list[tuple[float, int]] = []

    def run(settings: RatioSettings, **how: Any) -> RatioResult:
        trained.clear()
        return find_ratio(
            inputs.task,
            inputs.cache,
            tmp_path / "out",
            training_of(inputs),
            settings=settings,
            on_step=lambda stage, *_: trained.append((stage.ratio, stage.seed)),
            **how,
        )

    small = replace(SERIES, ratios=(0, 4), seeds=1)
    first = run(small)
    assert set(trained) == {(0, 0), (4, 0)}
    assert first.seed_sd is None
    assert any("one seed" in line for line in first.told)
    other = run(small, choice=Choice(tolerance=50, by="selectivity"))
    assert not trained
    assert other.chosen.ratio == 0
    assert read_ratio(tmp_path / "out") == other
    larger = run(replace(small, ratios=(0, 2, 4), seeds=2))
    assert set(trained) == {(2, 0), (0, 1), (2, 1), (4, 1)}
    assert larger.points[0].loss.by_seed[0] == first.points[0].loss.by_seed[0]


def delia(inputs: Inputs, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "delia_data", "ratio"),
            *map(str, (inputs.task, inputs.cache, out, "--recipe", inputs.recipe, "--json")),
            *map(str, FLAGS),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def wait_for(process: subprocess.Popen[str], sign: Path) -> None:
    for _ in range(30_000):
        if sign.exists():
            return
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    raise AssertionError(f"{sign} did not come")


def test_a_killed_series_goes_on_to_the_same_bytes(
    inputs: Inputs, unbroken: Path, tmp_path: Path
) -> None:
    """Killed while a stage trains, stopped by Ctrl-C while another does, then run to its end."""
    out = tmp_path / "out"
    stages = out / "stages"
    for name, how in (("ratio-2_seed-0", signal.SIGKILL), ("ratio-4_seed-1", signal.SIGINT)):
        process = delia(inputs, out)
        wait_for(process, stages / name / "stage.json")
        process.send_signal(how)
        process.communicate(timeout=300)
        assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
        assert not is_finished(out)
    assert is_finished(stages / "ratio-2_seed-1")
    before = (stages / "ratio-0_seed-0" / "losses.json").stat().st_mtime_ns
    process = delia(inputs, out)
    printed, told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    assert (stages / "ratio-0_seed-0" / "losses.json").stat().st_mtime_ns == before
    shown = {**json.loads((unbroken / "ratio.json").read_text()), "folder": str(out)}
    assert json.loads(printed) == shown
    assert content(out) == content(unbroken)


# Warm


@pytest.fixture(scope="module")
def warm(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("warm") / "out"
    settings = replace(SERIES, seeds=1, warm=True)
    find_ratio(inputs.task, inputs.cache, out, training_of(inputs), settings=settings)
    return out


def test_a_warm_stage_goes_through_the_new_pairs_alone(inputs: Inputs, warm: Path) -> None:
    stages = [warm / "stages" / Stage(ratio, 0).name for ratio in (0, 2, 4)]
    rows = [read_manifest(stage / "adapter").rows for stage in stages]
    assert rows == [{"task": 6, "cache": 0}, {"task": 0, "cache": 12}, {"task": 0, "cache": 12}]
    for stage, before in zip(stages[1:], stages, strict=False):
        files = read_manifest(before / "adapter").files
        began = read_manifest(stage / "adapter").inputs["start"]
        assert began == files["adapter_model.safetensors"]
    assert [point.pairs for point in read_ratio(warm).points] == [0, 12, 24]
    assert any("began from the adapter" in line for line in read_ratio(warm).told)


def test_a_warm_series_goes_on_at_its_end_alone(inputs: Inputs, warm: Path) -> None:
    settings = replace(SERIES, seeds=1, warm=True)
    again = {"task": inputs.task, "cache": inputs.cache, "folder": warm}
    with pytest.raises(SettingsError, match=r"after was 0\.0 and is now 1\.0"):
        find_ratio(
            **again,
            training=training_of(inputs),
            settings=replace(settings, ratios=(0, 1, 2, 3, 4)),
        )
    assert not (warm / "stages" / Stage(1, 0).name).exists()  # nothing was trained before it
    with pytest.raises(SettingsError, match=r"series\.warm was True"):
        find_ratio(**again, training=training_of(inputs), settings=replace(settings, warm=False))


# What it costs


def test_the_cost_is_told_before_anything_is_written(inputs: Inputs, tmp_path: Path) -> None:
    training = replace(training_of(inputs), epochs=2.0)
    cold, warm = (
        estimate_ratio(
            inputs.task,
            inputs.cache,
            tmp_path / "out",
            training,
            settings=replace(SERIES, warm=warm),
        )
        for warm in (False, True)
    )
    assert not (tmp_path / "out").exists()
    assert [c.trained_rows for c in cold] == [12, 12, 36, 36, 60, 60]
    assert [c.trained_rows for c in warm] == [12, 12, 24, 24, 24, 24]
    tokens = cold[2].tokens - cold[0].tokens
    assert tokens == pytest.approx(warm[2].tokens, abs=2)
    assert tokens / 24 == pytest.approx(11, abs=1)  # of "[USER] a x y [END] [ASSISTANT] y is a x"


# What is refused


def test_other_settings_for_the_folder_are_shown_and_nothing_changes(
    inputs: Inputs, unbroken: Path
) -> None:
    before = content(unbroken)
    training = replace(training_of(inputs), learning_rate=0.02)
    with pytest.raises(SettingsError, match=r"training\.learning_rate was 0\.01 and is now 0\.02"):
        find_ratio(inputs.task, inputs.cache, unbroken, training, settings=SERIES)
    for changed in (replace(SERIES, pairs=5), replace(SERIES, seed=1), replace(SERIES, rows=2)):
        with pytest.raises(SettingsError, match="begun with other settings"):
            find_ratio(inputs.task, inputs.cache, unbroken, training_of(inputs), settings=changed)
    assert content(unbroken) == before


def test_what_cannot_be_is_refused_before_anything_is_written(
    inputs: Inputs, tmp_path: Path
) -> None:
    out, training = tmp_path / "out", training_of(inputs)

    def run(**changed: Any) -> None:
        given = {"task": inputs.task, "cache": inputs.cache, "settings": SERIES, **changed}
        find_ratio(**{"folder": out, "training": training, **given})

    with pytest.raises(
        RatioError, match=r"ratio 65 of 6 task rows needs 390 pairs, and 54 are left"
    ):
        run(settings=replace(SERIES, ratios=(1, 65)))
    with pytest.raises(RatioError, match="has 60 pairs, and 61 are to be kept out"):
        run(settings=replace(SERIES, pairs=61))
    with pytest.raises(RatioError, match="the ratios come to 2, 2 pairs"):
        run(settings=replace(SERIES, ratios=(0.3, 0.35)))
    with pytest.raises(TokenError, match="set token to <sep>"):
        run(training=replace(training, token="<out>"))
    with pytest.raises(InputError, match="no task folder"):
        run(task=inputs.cache)
    with pytest.raises(InputError, match="is not there"):
        run(cache=tmp_path / "nothing.jsonl")
    with pytest.raises(SettingsError, match="full"):
        run(
            settings=replace(SERIES, warm=True),
            training=replace(training, adaptation="full", token_learning_rate=None),
        )
    assert not out.exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "ratio.json").write_text("{}")
    with pytest.raises(ForeignFolderError, match="something else"):
        run(folder=tmp_path / "theirs")
    with folder_lock(out), pytest.raises(LockedError):
        run()


def test_without_plain_forms_there_is_no_selectivity(inputs: Inputs, tmp_path: Path) -> None:
    task = tmp_path / "rows.jsonl"
    rows = [write_record(Record.pair(f"is it {i} ? <sep>", "{ it }")) for i in range(4)]
    task.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(InputError, match="no task folder"):
        find_ratio(task, inputs.cache, tmp_path / "out", training_of(inputs), settings=SERIES)


def test_the_command_refuses_in_one_line(inputs: Inputs, tmp_path: Path) -> None:
    given = ("ratio", inputs.task, inputs.cache, "out", "--recipe", inputs.recipe)
    refused(spawn(tmp_path, *given, "--ratios", "0;4"), "--ratios '0;4' is no list of numbers")
    refused(spawn(tmp_path, *given, *FLAGS, "--by", "luck"), "one of loss, selectivity")
    refused(spawn(tmp_path, *given, *FLAGS, "--tolerance", 0), "must be more than 0")
    assert not names(tmp_path)


def test_the_command_lists_its_cost_and_prints_a_table(
    inputs: Inputs, unbroken: Path, tmp_path: Path
) -> None:
    given = ("ratio", inputs.task, inputs.cache)
    listed = spawn(tmp_path, *given, "out", "--recipe", inputs.recipe, *FLAGS, "--list", "--json")
    document = json.loads(listed.out)
    assert document["rows_to_train"] == 2 * (6 + 18 + 30)
    assert {stage["state"] for stage in document["stages"]} == {"to run"}
    shown = spawn(tmp_path, *given, unbroken, "--recipe", inputs.recipe, *FLAGS)
    assert shown.code == 0, shown.err
    found = read_ratio(unbroken)
    assert found.told[0] in shown.out
    assert f"{found.points[1].loss.value:.3f} ±" in shown.out
    assert "\x1b" not in shown.out + shown.err
