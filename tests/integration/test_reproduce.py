"""Grids on a random model of two layers: every method, a kill, two workers, the paper's scale."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import Delia, refused
from killing import stop_when
from micro_run import METHODS, micro_grid, micro_model, tables_of
from trained import MARKS
from wordings import bag_of_words

from delia_data.errors import EngineError, InputError, LockedError, SettingsError
from delia_data.evaluation.representation import measure_alignment
from delia_data.experiments import METHODS as ALL_METHODS
from delia_data.experiments import Grid, Reproduction, read_grid, reproduce
from delia_data.experiments.grid import Seconds
from delia_data.mixing.mixture import writers_of
from delia_data.outputs import folder_lock, read_manifest
from delia_data.sampling import read_cache

pytestmark = MARKS
PATIENCE_S = 300


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_model(tmp_path_factory.mktemp("micro") / "model")


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the results of the grid in one process that nothing stops."""
    root = tmp_path_factory.mktemp("unbroken")
    torch.set_num_threads(1)
    reproduce(Reproduction(read_grid(micro_grid(root, model)), root / "out"))
    return tables_of(root / "out")


def test_a_killed_run_of_two_workers_ends_with_the_same_tables(
    model: Path, unbroken: Any, tmp_path: Path
) -> None:
    grid, out = micro_grid(tmp_path, model), tmp_path / "out"

    def reached() -> bool:
        done = len(list(out.glob("cells/*/FINISHED")))
        training = list(out.glob("cells/*/adapter/.checkpoints/*/trainer_state.json"))
        return bool((done and training) or done > 2)

    command = ("-m", "delia_data", "reproduce", grid, out, "--workers", 2)
    stop_when(reached, *command, OMP_NUM_THREADS="1")
    finished = {file: file.stat().st_mtime_ns for file in out.glob("cells/*/FINISHED")}
    assert finished
    # The workers end with the process that started them, which frees their cells.
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and any(map(_held, out.glob("cells/*"))):
        time.sleep(0.1)
    total = len(read_grid(grid).cells())
    assert len(list(out.glob("cells/*/FINISHED"))) < total
    document = reproduce(Reproduction(read_grid(grid), out))
    assert document["cells"] == {"finished": total, "missing": 0}
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert tables_of(out) == unbroken


def _held(cell: Path) -> bool:
    try:
        with folder_lock(cell):
            return False
    except LockedError:
        return True


def test_the_manifest_and_the_results_of_a_cell(model: Path, unbroken: Any, tmp_path: Path) -> None:
    grid = read_grid(micro_grid(tmp_path, model))
    reproduce(Reproduction(grid, tmp_path / "out", only=("delia",), keep_adapters=True))
    cell = tmp_path / "out" / "cells" / "formatted-text_delia_rows-8_ratio-2_seed-0"
    manifest = read_manifest(cell, verify=True)
    assert manifest.settings["cell"]["method"] == "delia"
    assert manifest.settings["training"]["rank"] == 4
    assert {"task", "rows", "cache"} == set(manifest.inputs)
    assert manifest.rows == {"held_out": 4, "task": 8, "cache": 16}
    run = json.loads((cell / "run.json").read_text())
    assert set(run["seconds"]) == {"train", "load", "ask", "measure"}
    assert run["machine"] and run["versions"]["torch"]
    assert (cell / "adapter" / "adapter_model.safetensors").is_file()
    report, results = tables_of(tmp_path / "out")
    assert report["cells"]["missing"] > 0
    watched = results[cell.name]["watched"]
    assert [point["step"] for point in watched] == [0, 2, 4, 6]
    assert watched[-1]["loss"] < watched[0]["loss"]
    # The rest of the grid can follow in the same folder.
    assert results[cell.name] == unbroken[1][cell.name]


def test_every_method_runs(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(measure_alignment, words=24)
    monkeypatch.setattr("delia_data.experiments.cells.measure_alignment", few)
    monkeypatch.setattr("delia_data.experiments.cells.Embedder", lambda: bag_of_words)
    methods = [name for name, method in ALL_METHODS.items() if method.kind == "any"]
    grid = micro_grid(
        tmp_path,
        model,
        training={"epochs": 1, "batch_size": 8, "micro_batch_size": 8, "rank": 2},
        held_out_rows=2,
        max_tokens=3,
        watch_every_steps=50,
        probes=["held-out", "unrelated"],
        cache={"pairs": 12, "max_tokens": 300, "keep_truncated": True},
        contrast=0.04,
        blocks=[{"methods": methods, "rows": [30], "ratios": [0.2]}],
    )
    reproduce(Reproduction(read_grid(grid), tmp_path / "out"))
    _, results = tables_of(tmp_path / "out")
    steps = {result["cell"]["method"]: result["steps"] for result in results.values()}
    untrained = {"original", "random_init", "mean_embedding", "in_context", "controlled"}
    # 30 task rows and 6 pairs in steps of 8.
    others = {"common": 4, "no_diverse": 4, "pairs_only": 1}
    expected = {m: 0 if m in untrained else others.get(m, 5) for m in methods}
    assert steps == expected
    for result in results.values():
        trained = result["steps"] > 0
        assert bool(result["divergences"]) == bool(result["similarities"]) == trained
    named = {r["cell"]["method"] for r in results.values() if r["distances"]}
    assert set(methods) - named == {"in_context", "controlled"}


def test_translation_by_dipmt_and_delia(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    numbers = range(20)
    for ending, words in (("en", "the dog eats fish"), ("is", "hundurinn borðar fisk")):
        text = "".join(f"{words} {i}\n" for i in numbers)
        (data / f"news.{ending}").write_text(text, encoding="utf-8")
    plain = json.loads(json.dumps(read_grid(micro_grid(tmp_path, model)).as_dict()))
    experiment = plain["experiments"].pop("formatted-text")
    experiment["blocks"] = [{"methods": ["dipmt", "delia"], "rows": [6], "ratios": [1]}]
    experiment["probes"] = ["held-out"]
    grid = Grid.from_dict({"name": "t", "experiments": {"is-en": experiment}})
    out = tmp_path / "out"
    without = Reproduction(grid, out)
    assert [cell.method for cell in without.blocked()] == ["dipmt", "delia"]
    assert reproduce(without)["cells"] == {"finished": 0, "missing": 2}
    document = reproduce(Reproduction(grid, out, data=data))
    assert document["cells"] == {"finished": 2, "missing": 0}
    answers = (
        out / "cells" / "is-en_dipmt_rows-6_seed-0" / "answers" / "answers.jsonl"
    ).read_text()
    assert len(answers.splitlines()) == 4
    (data / "news.en").write_text("other\n" * 20)
    with pytest.raises(SettingsError, match="data was"):
        reproduce(Reproduction(grid, out, data=data))


def test_the_papers_scale_starts_on_random_weights(model: Path, tmp_path: Path) -> None:
    """The paper's grid and recipe, with another model and fewer pairs."""
    grid = read_grid("paper")
    whole = grid.experiments["formatted-text"]
    block = replace(whole.blocks[0], methods=("delia",), rows=(30,), ratios=(1.0,), seeds=(0,))
    cache = replace(whole.cache, pairs=30, max_tokens=8, engine="transformers", queries="bundled")
    small = replace(
        whole, model=str(model), cache=cache, blocks=(block,), held_out_rows=2, max_tokens=4
    )
    run = Reproduction(replace(grid, experiments={"formatted-text": small}), tmp_path / "out")
    assert reproduce(run)["cells"] == {"finished": 1, "missing": 0}
    _, results = tables_of(tmp_path / "out")
    assert [result["steps"] for result in results.values()] == [4]  # 60 rows in batches of 16


def test_a_failed_cell_does_not_stop_the_others(model: Path, tmp_path: Path) -> None:
    blocks = [
        {"methods": ["common"], "rows": [400]},
        {"methods": ["original"], "rows": [8]},
    ]
    run = Reproduction(read_grid(micro_grid(tmp_path, model, blocks=blocks)), tmp_path / "out")
    with pytest.raises(EngineError, match=r"1 of 2 cells failed.*asks for 400 task rows"):
        reproduce(run)
    report, results = tables_of(tmp_path / "out")
    assert len(results) == 1
    assert report["cells"] == {"finished": 1, "missing": 1}


def test_a_rerun_adds_cells_and_refuses_other_settings(model: Path, tmp_path: Path) -> None:
    grid = read_grid(micro_grid(tmp_path, model, blocks=[{"methods": ["original"]}]))
    reproduce(Reproduction(grid, tmp_path / "out"))
    other = read_grid(micro_grid(tmp_path, model, blocks=[{"methods": ["original"]}], max_tokens=7))
    with pytest.raises(SettingsError, match="max_tokens was 6 and is now 7"):
        reproduce(Reproduction(other, tmp_path / "out"))
    experiment = grid.experiments["formatted-text"]
    estimated = replace(experiment, seconds=Seconds(trained_row=9.0, evaluation=9.0, pair=9.0))
    same = Grid("micro", {"formatted-text": estimated}, about="other words, other estimates")
    assert reproduce(Reproduction(same, tmp_path / "out"))["cells"] == {"finished": 1, "missing": 0}
    both = micro_grid(tmp_path, model, blocks=[{"methods": ["original", "random_init"]}])
    more = reproduce(Reproduction(read_grid(both), tmp_path / "out"))
    assert more["cells"] == {"finished": 2, "missing": 0}
    with pytest.raises(InputError, match="does not exist"):
        reproduce(
            Reproduction(
                read_grid(tmp_path / "grid.yaml"), tmp_path / "new", cache=tmp_path / "none"
            )
        )
    with pytest.raises(InputError, match="at least 1"):
        reproduce(Reproduction(other, tmp_path / "new"), workers=0)


def test_the_command_lists_cells_and_refuses_wrong_arguments(
    delia: Delia, model: Path, tmp_path: Path
) -> None:
    grid = micro_grid(tmp_path, model)
    out = tmp_path / "out"
    listed = delia("reproduce", grid, out, "--list", "--json")
    assert listed.code == 0
    document = json.loads(listed.out)
    assert {cell["method"] for cell in document["cells"]} == set(METHODS)
    assert document["seconds"] is None
    assert not out.exists()
    tiny = json.loads(delia("reproduce", "--scale", "tiny", out, "--list", "--json").out)
    assert {cell["state"] for cell in tiny["cells"]} == {"to run", "needs --data"}
    two = delia("reproduce", "--scale", "tiny", out, "--list", "--workers", "2", "--data", tmp_path)
    assert "with 2 workers:" in two.out
    refused(delia("reproduce", out), "--scale tiny")
    refused(delia("reproduce", grid, out, "--scale", "tiny"), "give only a folder")
    refused(delia("reproduce", "--scale", "huge", out), "one of tiny, pairs, kinds, small, paper")
    refused(delia("reproduce", grid, out, "--only", "dmt", "--list"), "does not run 'dmt'")
    (out).mkdir()
    (out / "thesis.tex").write_text("mine")
    refused(delia("reproduce", grid, out), "something else")


def test_variants_of_an_experiment_train_on_other_kinds_of_pairs(
    model: Path, tmp_path: Path
) -> None:
    grid = yaml.safe_load(micro_grid(tmp_path, model).read_text())
    own = {**grid["experiments"]["formatted-text"], "held_out_pairs": "bundled"}
    blocks = [{"methods": ["delia_kl"], "rows": [8], "ratios": [2]}]
    kinds: dict[str, dict[str, Any]] = {"system": {"system": "Be brief."}, "foreign": {}}
    kinds["foreign"]["exchanged"] = True
    experiments = {
        f"formatted-text-{name}": {**own, "cache": {**own["cache"], **more}, "blocks": blocks}
        for name, more in kinds.items()
    }
    run = Reproduction(
        Grid.from_dict({"name": "kinds", "experiments": experiments}), tmp_path / "o"
    )
    report = reproduce(run)
    system, plain = (run.cache_of(one) for one in run.grid.experiments.values())
    assert read_manifest(system).settings["asking"]["system"] == "Be brief."
    assert writers_of({"cache": system})["cache"]["system"] == "Be brief."
    assert not any(turn.role == "system" for row in read_cache(system) for turn in row.messages)
    sampled = {row.query: row.answer for row in read_cache(plain)}
    given = run.inputs("formatted-text-foreign").data.pairs
    assert isinstance(given, tuple) and {row.query for row in given} == set(sampled)
    assert sorted(row.answer for row in given) == sorted(sampled.values())
    numbers = next(table for table in report["tables"] if table["name"] == "numbers")
    assert [line["heads"][0] for line in numbers["lines"]] == list(experiments)
    kl = numbers["columns"].index("KL on pairs")
    assert all(line["entries"][kl]["ours"]["value"] > 0 for line in numbers["lines"])


def test_template_options_reach_sampling_and_training(
    model: Path, tmp_path: Path, delia: Delia
) -> None:
    from delia_data.models import load_tokenizer

    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    tokenizer = load_tokenizer(str(copy))
    tokenizer.chat_template = "{%- if short %} {% endif %}" + str(tokenizer.chat_template)
    tokenizer.save_pretrained(copy)
    grid, out = micro_grid(tmp_path, copy), tmp_path / "out"
    options = ("--only", "delia", "--template-option", "short=true")
    result = delia("reproduce", grid, out, *options)
    assert result.code == 0, result.err
    (cache,) = (out / "caches").iterdir()
    assert read_manifest(cache).settings["model"]["template_options"] == {"short": True}
    cell = out / "cells" / "formatted-text_delia_rows-8_ratio-2_seed-0"
    assert read_manifest(cell).settings["training"]["template_options"] == {"short": True}
    training = yaml.safe_load((out / "grid.yaml").read_text())["experiments"]["formatted-text"]
    assert training["training"]["template_options"] == {"short": True}
    refused(delia("reproduce", grid, out, "--only", "delia"), "template_options")
