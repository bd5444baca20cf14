"""What `delia train` cannot use: one line each, exit code 2, and nothing half-saved."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Delia, refused
from mixtures import pairs, task_rows
from trained import tiny_settings
from transformers import PreTrainedModel

from delia_data.mixing import mix, save_mixture

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:(torch|peft|trl|transformers|accelerate).*"),
]


def unfinished(place: Path) -> None:
    (place / "mixture" / "FINISHED").unlink()


def other_token(place: Path) -> None:
    save_mixture(mix(task_rows(2), pairs(6), ratio=2, token=None), place / "without")
    (place / "mixture").rename(place / "before")
    (place / "without").rename(place / "mixture")


def without_template(place: Path) -> None:
    (place / "model" / "chat_template.jinja").unlink()


def short_context(place: Path) -> None:
    file = place / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": 30}))


def unknown_key(place: Path) -> None:
    recipe = place / "mine.yaml"
    recipe.write_text(recipe.read_text() + "lerning_rate: 1.0e-4\nranks: 3\n")


def nothing(place: Path) -> None:
    """Leave all as it is: the flags are at fault."""


@pytest.fixture
def place(
    tmp_path: Path, make_tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any
) -> Path:
    settings = tiny_settings(tmp_path / "model", make_tiny_model(), tiny_tokenizer, epochs=1)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings.as_dict()))
    save_mixture(mix(task_rows(4), pairs(12), ratio=2), tmp_path / "mixture")
    return tmp_path


@pytest.mark.parametrize(
    ("spoil", "flags", "told"),
    [
        (unfinished, [], ["is not a finished output"]),
        (other_token, [], ["was mixed without a token, but token is <sep>"]),
        (nothing, ["--token", "<fmt>"], ["is for the token <sep>", "--token '<sep>'"]),
        (nothing, ["--max-length", "9"], ["12 of 12 rows are longer", "--truncate"]),
        (short_context, [], ["longer than the model's context of 30 tokens"]),
        (without_template, [], ["has no chat template"]),
        (unknown_key, [], ["'lerning_rate', did you mean 'learning_rate'", "'ranks'"]),
        (nothing, ["--targets", "w_proj"], ["targets w_proj are not modules of"]),
        (nothing, ["--device", "cuda"], ["torch finds no CUDA; try --device cpu"]),
        (nothing, ["--adaptation", "qlora"], ["bitsandbytes is not installed", "[qlora]"]),
        (nothing, ["--model", "nowhere/at-all"], ["nowhere/at-all"]),
    ],
)
def test_what_cannot_be_trained_leaves_one_line_and_no_folder(
    place: Path,
    delia: Delia,
    spoil: Callable[[Path], None],
    flags: list[str],
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "cuda" in flags:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    spoil(place)
    given = ("train", place / "mixture", place / "out", "--recipe", place / "mine.yaml")
    result = delia(*given, *flags)
    shown = result._replace(err="".join(result.err.splitlines(keepends=True)[-1:]))
    refused(shown, *told)
    assert "Traceback" not in result.err
    assert result.out == ""
    assert not (place / "out").exists()


def test_a_full_memory_leaves_one_line_and_nothing_that_looks_finished(
    place: Path, delia: Delia, monkeypatch: pytest.MonkeyPatch
) -> None:
    from delia_data.training.trainer import MixtureTrainer

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")

    given = ("train", place / "mixture", place / "out", "--recipe", place / "mine.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(MixtureTrainer, "compute_loss", fail)
        result = delia(*given)
    assert result.code != 0 and "Traceback" not in result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("delia: ")]
    assert "out of memory: lower micro_batch_tokens" in line
    names = {path.name for path in (place / "out").iterdir()}
    assert not names & {"FINISHED", "manifest.json", "adapter_model.safetensors", "recipe.yaml"}
    again = delia(*given)  # what was left does not stand in the way
    assert again.code == 0, again.err
