"""Training settings name every problem at once; recipes are their YAML form."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from delia_data.errors import InputError, SettingsError
from delia_data.training import TrainSettings, read_recipe, recipe_names
from delia_data.training.loading import own_device, resolve

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("rank", [0, -1], [1]),
        ("alpha", [0, -1], [1]),
        ("learning_rate", [0, -1e-4, NAN, INFINITY], [1e-9]),
        ("epochs", [0, -1, NAN, INFINITY], [0.01, 3]),
        ("batch_size", [0, -1], [1, None]),
        ("max_length", [0, -1], [1]),
        ("token_rate", [-1e-9, NAN], [0, 0.15, None]),
        ("dropout", [-0.1, 1, 1.5, NAN], [0, 0.99]),
        ("warmup_steps", [-1], [0]),
        ("weight_decay", [-0.1], [0, 1]),
        ("init", ["zero", "", "description"], ["mean", "normal"]),
        ("schedule", ["step"], ["constant_with_warmup", "linear", "cosine"]),
        ("targets", [()], [("q_proj",), ("all-linear",)]),
    ],
)
def test_bounds(name: str, bad: list[Any], good: list[Any]) -> None:
    for value in bad:
        with pytest.raises(SettingsError, match=f"^training settings: .*{name}"):
            TrainSettings(**{name: value})
    for value in good:
        assert getattr(TrainSettings(**{name: value}), name) == value


def test_every_problem_is_reported_at_once() -> None:
    bad: dict[str, Any] = {"rank": 0, "epochs": 0, "dropout": 2, "init": "zero", "targets": ()}
    with pytest.raises(SettingsError) as caught:
        TrainSettings(**bad)
    problems = str(caught.value).removeprefix("training settings: ").split("; ")
    assert len(problems) == len(bad)
    assert all(any(problem.startswith(name) for problem in problems) for name in bad)
    assert "rank 0 is wrong: it must be greater than 0" in problems


def test_unknown_keys_are_named_with_the_nearest() -> None:
    with pytest.raises(SettingsError) as caught:
        TrainSettings.from_dict({"learning_rat": 1e-4, "Rank": 8, "zzz": 1, 4: 2, "rank": 8})  # type: ignore[dict-item]
    assert str(caught.value) == (
        "settings: unknown key 'learning_rat', did you mean 'learning_rate'?; "
        "unknown key 'Rank', did you mean 'rank'?; unknown key 'zzz'; unknown key 4"
    )


def test_wrong_types_are_named_all_at_once_with_unknown_keys() -> None:
    wrong = {"rank": 1.5, "epochs": "many", "targets": None, "init": "zero", "seed": [1], "x": 1}
    with pytest.raises(SettingsError) as caught:
        TrainSettings.from_dict(wrong, where="recipe.yaml")
    message = str(caught.value)
    assert message.startswith("recipe.yaml: unknown key 'x'; rank 1.5 is wrong: ")
    for name, value in wrong.items():
        assert f"{name} {value!r} is wrong: " in message or name == "x"


def test_numbers_that_yaml_reads_as_text() -> None:
    assert yaml.safe_load("2e-4") == "2e-4"
    settings = TrainSettings.from_dict({"learning_rate": "2e-4", "epochs": 2, "rank": 8.0})
    assert settings == TrainSettings(learning_rate=2e-4, epochs=2.0, rank=8)
    assert isinstance(settings.rank, int)


def test_settings_survive_yaml() -> None:
    settings = TrainSettings(
        init="description", description="a JSON object", targets=("a", "b"), token_rate=0.1
    )
    plain = settings.as_dict()
    assert set(plain) == {field.name for field in fields(TrainSettings)}
    assert plain["targets"] == ["a", "b"]
    assert TrainSettings.from_dict(yaml.safe_load(yaml.safe_dump(plain))) == settings
    assert TrainSettings.from_dict({}) == TrainSettings()
    assert TrainSettings.from_dict({"targets": "all-linear"}).targets == ("all-linear",)


def test_every_recipe_loads() -> None:
    assert recipe_names() == sorted(recipe_names())
    assert {"paper-llama2-7b", "smollm2-135m-cpu"} <= set(recipe_names())
    for name in recipe_names():
        recipe = read_recipe(name)
        assert read_recipe(name) == recipe
        assert isinstance(recipe.learning_rate, float)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("paper-llama2-7b", "meta-llama/Llama-2-7b-chat-hf"),
        ("paper-gemma-7b", "google/gemma-7b-it"),
    ],
)
def test_the_papers_recipes(name: str, model: str) -> None:
    paper = read_recipe(name)
    assert paper.model == model
    assert (paper.rank, paper.learning_rate, paper.epochs) == (16, 2e-4, 1)
    assert (paper.alpha, paper.dropout, paper.weight_decay) == (16, 0.05, 0.01)
    assert paper.targets == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert paper.token_training == "lora", "on the input embedding, as in the paper's code"
    assert (paper.schedule, paper.warmup_steps) == ("constant_with_warmup", 25)
    assert paper.gradient_checkpointing is True
    for rows, batch in [(1, 16), (255, 16), (256, 64), (52_100, 64)]:
        assert resolve(replace(paper, device="cpu"), rows=rows).batch_size == batch


def test_open_settings_are_resolved_by_the_machine_and_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("delia_data.training.loading.computes_bfloat16", lambda device: True)
    resolved = resolve(TrainSettings(), rows=300)
    assert (resolved.dtype, resolved.device, resolved.batch_size) == ("bfloat16", "cpu", 64)
    assert (resolved.micro_batch_tokens, resolved.gradient_checkpointing) == (1024, False)
    assert resolve(resolved, rows=5) == resolved, "once is enough"
    given = TrainSettings(batch_size=3, micro_batch_tokens=7, dtype="float32")
    kept = resolve(replace(given, gradient_checkpointing=True), rows=300)
    resolved_too = {"gradient_checkpointing": True, "token_rate": 0.15, "save_every_steps": 10}
    assert kept == replace(given, **resolved_too)
    for way in ({"adaptation": "full"}, {"token_training": "lora"}):
        assert resolve(TrainSettings(**way), rows=1).token_rate is None
    assert resolve(TrainSettings(packing=False), rows=1).micro_batch_tokens is None
    assert resolve(TrainSettings(adaptation="full"), rows=1).dtype == "float32"
    with pytest.raises(InputError, match="set CUDA_VISIBLE_DEVICES=1, and device to cuda"):
        resolve(TrainSettings(device="cuda:1"), rows=1)


def test_a_gpu_recomputes_activations_and_packs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    resolved = resolve(TrainSettings(device="auto"), rows=1)
    assert (resolved.device, resolved.dtype) == ("cuda", "float32")
    assert (resolved.micro_batch_tokens, resolved.gradient_checkpointing) == (16_384, True)


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_recipe_can_be_a_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"mine{suffix}"
    file.write_text("rank: 4\nlearning_rate: 1e-3\ntargets: all-linear\n")
    expected = TrainSettings(rank=4, learning_rate=1e-3, targets=("all-linear",))
    assert read_recipe(file) == read_recipe(str(file)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rank: [", "mine.yaml:1 is not YAML: expected the node content"),
        (b"rank: 4\nrank: 8", "mine.yaml:2 is not YAML: the key 'rank' is there twice"),
        (b"- rank", "must hold a mapping of settings"),
        (b"", "must hold a mapping of settings"),
        (b"rnak: 4", "mine.yaml: unknown key 'rnak', did you mean 'rank'"),
        (b"rank: four", "mine.yaml: rank 'four' is wrong: "),
        (b"rank: 0", "mine.yaml: rank 0 is wrong: it must be greater than 0"),
        (b"model: \xff", "is not UTF-8 text"),
        (b"model: !!python/object:os.system {}", "is not YAML"),
    ],
)
def test_bad_recipes(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        read_recipe(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)


def test_missing_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recipe 'mine' is unknown: give a "):
        read_recipe("mine")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_recipe(tmp_path / "mine.yaml")


LAUNCHED = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("environment", "device", "own"),
    [
        ({}, "cuda", "cuda"),
        ({}, "cpu", "cpu"),
        (LAUNCHED, "cuda", "cuda:1"),
        (LAUNCHED, "cpu", "cpu"),
        ({**LAUNCHED, "ACCELERATE_USE_FSDP": "true"}, "cuda", "cpu"),
        ({"ACCELERATE_USE_FSDP": "true"}, "cuda", "cuda"),
    ],
    ids=["one", "one on a CPU", "a GPU each", "CPUs", "sharded", "one to shard"],
)
def test_the_device_of_each_process(
    environment: dict[str, str], device: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert own_device(device) == own
