"""Held-out loss, leak and divergence during a training; best checkpoint and early stopping."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia, refused
from trained import MARKS, losses, stop_at
from word_inputs import Inputs, train_adapter

from delia_data.errors import InputError, SettingsError, TokenError
from delia_data.evaluation import EvalTask, evaluate, open_system
from delia_data.evaluation.keep import read_pairs
from delia_data.experiments.cells import answer_loss
from delia_data.mixing import mix, save_mixture
from delia_data.outputs import read_manifest
from delia_data.records import Record, read_record, write_record
from delia_data.report import make_report
from delia_data.tasks import read_task_rows
from delia_data.training import TrainSettings, load_adapter, train
from delia_data.training.adapter import adapter_settings
from delia_data.training.settings import as_recipe
from delia_data.training.trainer import MixtureTrainer
from delia_data.training.watching import WATCHED, read_watched

pytestmark = MARKS


class Case:
    """A mixture with held-out rows, settings that measure them every two of ten steps."""

    def __init__(self, folder: Path) -> None:
        self.inputs: Inputs = train_adapter(folder, keys=("red",))
        self.mixture = folder / "mixture"
        save_mixture(
            mix(read_task_rows(self.inputs.task), self.inputs.cache, ratio=1), self.mixture
        )
        self.settings = replace(
            adapter_settings(self.inputs.adapter),
            dtype="float32",
            batch_size=2,
            epochs=2,
            save_every_steps=None,
            watch_every_steps=2,
            watch_keywords=(),
            watch_pairs=str(self.inputs.cache),
        )

    def held_out(self) -> list[Record]:
        return [row.record for row in read_task_rows(self.inputs.task).test]

    def pairs(self, count: int = 150) -> list[Record]:
        """Return the pairs that are not in the mixture, those that it takes last."""
        trained = {r.id for r in map(read_record, mix_rows(self.mixture))}
        pairs = read_pairs(self.inputs.cache, tokens=("<sep>",), seed=0, count=count)
        return [pair for pair in pairs if pair.id not in trained]


def mix_rows(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(folder / "train.parquet").to_pylist())


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", "")
        return Case(tmp_path_factory.mktemp("held-out"))


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("pairs_loss", ["ce", "kl"])
def test_losses_on_held_out_rows_and_pairs(
    case: Case, tmp_path: Path, packing: bool, pairs_loss: Any
) -> None:
    """The same numbers as of the finished adapter, computed row by row by `delia evaluate`."""
    settings = replace(
        case.settings, pairs_loss=pairs_loss, packing=packing, micro_batch_tokens=None
    )
    train(settings, case.mixture, tmp_path / "a")
    watched = read_watched(tmp_path / "a")
    assert [point["step"] for point in watched] == [0, 2, 4, 6, 8, 10]
    assert watched[0]["eval_keep"] == pytest.approx(0, abs=1e-6)
    last = watched[-1]
    model, tokenizer = load_adapter(tmp_path / "a")
    assert last["eval_loss_task"] == pytest.approx(
        answer_loss(model, tokenizer, case.held_out()), rel=1e-3
    )
    assert 0 < len(case.pairs()) < 12
    by_text = answer_loss(model, tokenizer, case.pairs())
    assert last["eval_loss_pairs"] == pytest.approx(
        by_text if pairs_loss == "ce" else last["eval_keep"], rel=1e-3
    )
    task = EvalTask.read(case.inputs.task)
    system = open_system(str(tmp_path / "a"), "transformers", {}, token="<sep>")
    numbers = evaluate(
        system, task, tmp_path / "e", probes=("held-out",), pairs=case.pairs(), max_tokens=4
    ).numbers["model"]
    assert last["eval_keep"] == pytest.approx(numbers["kl"].value, rel=0.02)

    plain = replace(settings, watch_every_steps=None, watch_pairs=None)
    train(plain, case.mixture, tmp_path / "plain")
    for name in ("losses.json", "adapter_model.safetensors"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_every_answer_of_held_out_pairs_counts(case: Case, tmp_path: Path) -> None:
    single = case.pairs()
    pairs = [Record((*one.messages, *single[i - 1].messages)) for i, one in enumerate(single)]
    lines = [json.dumps(write_record(pair)) + "\n" for pair in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    source = str(tmp_path / "pairs.jsonl")
    settings = replace(case.settings, pairs_loss="kl", watch_pairs=source)
    train(settings, case.mixture, tmp_path / "a")
    last = read_watched(tmp_path / "a")[-1]
    system = open_system(str(tmp_path / "a"), "transformers", {}, token="<sep>")
    task = EvalTask.read(case.inputs.task)
    numbers = evaluate(
        system, task, tmp_path / "e", probes=("held-out",), pairs=pairs, max_tokens=4
    ).numbers["model"]
    assert last["eval_keep"] == last["eval_loss_pairs"]
    assert last["eval_keep"] == pytest.approx(numbers["kl"].value, rel=0.02)


def test_the_number_of_rows_is_a_setting(case: Case, tmp_path: Path) -> None:
    train(replace(case.settings, watch_rows=1), case.mixture, tmp_path / "a")
    model, tokenizer = load_adapter(tmp_path / "a")
    last = read_watched(tmp_path / "a")[-1]
    each = [answer_loss(model, tokenizer, [row]) for row in case.held_out()]
    assert any(last["eval_loss_task"] == pytest.approx(one, rel=1e-3) for one in each)


def test_the_leak_is_that_of_evaluate(case: Case, tmp_path: Path) -> None:
    settings = replace(
        case.settings, watch_every_steps=50, watch_task=str(case.inputs.task), epochs=30
    )
    train(settings, case.mixture, tmp_path / "a")
    first, *_, last = read_watched(tmp_path / "a")
    assert first["eval_leak"] == 0, "the untrained model cannot leak"
    numbers = evaluate(
        open_system(str(tmp_path / "a"), "transformers", {}, token="<sep>"),
        EvalTask.read(case.inputs.task),
        tmp_path / "e",
        pairs=None,
    ).numbers["model"]
    assert last["eval_leak"] == pytest.approx(numbers["leak"].value, abs=0.02)
    assert last["eval_leak"] > 0, "this case must leak to show anything"


# The best checkpoint


@pytest.fixture
def overfit(case: Case) -> TrainSettings:
    """Settings under which the loss on held-out rows falls, then rises."""
    return replace(case.settings, learning_rate=0.05, dropout=0.0, epochs=4, best_by="loss")


def lowest(folder: Path, name: str) -> dict[str, float]:
    return min(read_watched(folder)[1:], key=lambda point: point[name])


def test_the_best_checkpoint_is_kept(case: Case, overfit: TrainSettings, tmp_path: Path) -> None:
    manifest = train(overfit, case.mixture, tmp_path / "a")
    best = lowest(tmp_path / "a", "eval_loss_task")
    assert best["step"] == manifest.details["best_step"] < manifest.details["steps"] == 20
    loss = answer_loss(*load_adapter(tmp_path / "a"), case.held_out())
    assert loss == pytest.approx(best["eval_loss_task"], rel=1e-3)
    assert loss < read_watched(tmp_path / "a")[-1]["eval_loss_task"]
    assert manifest.inputs["held_out"]
    assert adapter_settings(tmp_path / "a").save_every_steps == 2


def test_training_stops_without_progress(
    case: Case, overfit: TrainSettings, tmp_path: Path, delia: Delia
) -> None:
    (tmp_path / "r.yaml").write_text(as_recipe(replace(overfit, patience=2)))
    result = delia(
        "train", str(case.mixture), str(tmp_path / "a"), "--recipe", str(tmp_path / "r.yaml")
    )
    assert result.code == 0, result.err
    details = read_manifest(tmp_path / "a", verify=True).details
    assert details["steps"] == details["best_step"] + 4 < details["planned_steps"] == 20
    assert (
        f"stopped early, last loss {details['last_loss']:.3f}, kept step {details['best_step']}"
        in result.out
    )
    assert len(losses(tmp_path / "a")) == details["steps"]


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_a_broken_run_keeps_the_same_checkpoint(
    case: Case, overfit: TrainSettings, tmp_path: Path, adaptation: Any
) -> None:
    if adaptation == "full":
        full = {"adaptation": "full", "token_rate": None, "learning_rate": 0.02}
        overfit = replace(overfit, **full)
    settings = replace(overfit, patience=2)
    whole = train(settings, case.mixture, tmp_path / "whole")
    best, steps = whole.details["best_step"], whole.details["steps"]
    assert best < steps == best + 4 < 20
    moved = tmp_path / "moved"
    for stop in (best + 1, steps):  # once after the best checkpoint, once at the very end
        with pytest.raises(KeyboardInterrupt):
            train(settings, case.mixture, tmp_path / "cut", on_step=stop_at(stop))
        (tmp_path / "cut").rename(moved)
        moved.rename(tmp_path / "cut")
    again = train(settings, case.mixture, tmp_path / "cut")
    assert (again.details, again.files.keys()) == (whole.details, whole.files.keys())
    assert read_watched(tmp_path / "cut") == read_watched(tmp_path / "whole")
    assert again.files == whole.files


def test_a_run_that_was_killed_while_it_stopped(
    case: Case, overfit: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(overfit, patience=2)
    whole = train(settings, case.mixture, tmp_path / "whole")

    def killed(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MixtureTrainer, "_load_best_model", killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings, case.mixture, tmp_path / "cut")
    (tmp_path / "cut").rename(tmp_path / "moved")
    again = train(settings, case.mixture, tmp_path / "moved")
    assert (again.details, again.files) == (whole.details, whole.files)


@pytest.mark.parametrize(("best_by", "name"), [("leak", "eval_leak"), ("keep", "eval_keep")])
def test_best_by_side_effects(case: Case, tmp_path: Path, best_by: Any, name: str) -> None:
    settings = replace(
        case.settings, best_by=best_by, watch_task=str(case.inputs.task), watch_every_steps=5
    )
    step = train(settings, case.mixture, tmp_path / "a").details["best_step"]
    points = read_watched(tmp_path / "a")[1:]
    best = min(points, key=lambda point: (point[name], point["eval_loss_task"]))
    assert step == best["step"]


def test_the_report_draws_held_out_curves(
    case: Case, overfit: TrainSettings, tmp_path: Path
) -> None:
    train(
        replace(overfit, watch_task=str(case.inputs.task), watch_every_steps=10),
        case.mixture,
        tmp_path / "a",
    )
    report = make_report([tmp_path / "a"])
    titles = [figure["title"] for figure in report.figures]
    assert "Held-out loss, a" in titles and "Leak and keep, a" in titles
    best = read_manifest(tmp_path / "a").details["best_step"]
    assert f"kept the checkpoint of step {best}" in " ".join(report.summary)
    page = report.html()
    assert "held-out task rows" in page and "held-out pairs" in page


# Refusals


def test_a_rerun_with_other_held_out_rows_is_refused(
    case: Case, overfit: TrainSettings, tmp_path: Path
) -> None:
    train(overfit, case.mixture, tmp_path / "a")
    (tmp_path / "few.jsonl").write_text(
        json.dumps({"messages": [m.as_dict() for m in case.pairs()[0].messages]}) + "\n"
    )
    with pytest.raises(SettingsError, match="held_out_sha256 was"):
        train(
            replace(overfit, watch_pairs=str(tmp_path / "few.jsonl")), case.mixture, tmp_path / "a"
        )


@pytest.mark.parametrize(
    ("over", "problem"),
    [
        ({"watch_every_steps": None}, "watch_pairs needs watch_every_steps"),
        ({"patience": 2}, "patience needs best_by"),
        ({"best_by": "leak"}, "best_by leak needs watch_task"),
        ({"best_by": "keep", "watch_pairs": None}, "best_by keep needs watch_pairs"),
        ({"best_by": "loss", "save_every_steps": 3}, "save_every_steps must be watch_every_steps"),
        (
            {"best_by": "keep", "adaptation": "full", "token_rate": None},
            "compares with the untrained model",
        ),
    ],
)
def test_settings_that_contradict(case: Case, over: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        replace(case.settings, **over)


def test_inputs_without_rows_to_measure(
    case: Case, tmp_path: Path, delia: Delia, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {**row, "source": "task" if row["source"] == "task" else "cache"}
        for row in mix_rows(case.mixture)
    ]
    bare = replace(case.settings, watch_pairs=None)
    with pytest.raises(InputError, match="nothing to measure, because the mixture has no held-out"):
        train(bare, rows, tmp_path / "a")
    with pytest.raises(InputError, match="best_by loss has nothing to measure"):
        train(replace(case.settings, best_by="loss"), rows, tmp_path / "a")
    (tmp_path / "own.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows if r["source"] == "cache")
    )
    with pytest.raises(InputError, match="are all in the mixture: give a cache with more"):
        train(replace(bare, watch_pairs=str(tmp_path / "own.jsonl")), rows, tmp_path / "a")
    with pytest.raises(TokenError, match="is for the token <sep>, but token is <x>"):
        train(replace(bare, token="<x>", watch_task=str(case.inputs.task)), rows, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    result = delia("train", str(case.mixture), str(tmp_path / "a"), "--best-by", "loss")
    refused(result, "best_by needs watch_every_steps: set both")
    assert not (tmp_path / WATCHED).exists()
