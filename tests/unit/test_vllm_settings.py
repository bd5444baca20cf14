"""What vLLM is asked for, and what is said where it is missing; vLLM itself is in tests/engines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from delia_data.engines import Sampling, load_engine
from delia_data.engines._ray_processor import RaySettings
from delia_data.engines._vllm_picker import PICKER, sampling_arguments
from delia_data.errors import InputError, MissingExtraError

SEED = 2**62 + 1


def test_a_row_draws_by_its_seed_on_a_gpu() -> None:
    arguments = sampling_arguments(Sampling(0.7, 0.95, 12), SEED, 2, picks=False)
    assert (arguments["seed"], arguments["temperature"], arguments["top_p"]) == (SEED, 0.7, 0.95)
    assert "extra_args" not in arguments


def test_it_draws_by_our_picker_on_a_cpu() -> None:
    """vLLM's own seed is not set: its CPU build turns back what has no way back."""
    arguments = sampling_arguments(Sampling(0.7, 0.95, 12), SEED, 2, picks=True)
    assert "seed" not in arguments
    assert arguments["temperature"] == 0.0
    (how,) = arguments["extra_args"].values()
    assert how == {"seed": SEED, "temperature": 0.7, "top_p": 0.95}


@pytest.mark.parametrize("picks", [True, False])
def test_the_likeliest_token_needs_no_draw(picks: bool) -> None:
    arguments = sampling_arguments(Sampling(temperature=0.0, max_tokens=7), SEED, 2, picks=picks)
    assert arguments["temperature"] == 0.0
    assert not {"seed", "extra_args", "top_p"} & set(arguments)
    assert (arguments["max_tokens"], arguments["stop_token_ids"]) == (7, [2])


def test_the_picker_is_named_by_where_it_is() -> None:
    module, name = PICKER.split(":")
    assert module in sys.modules
    assert name not in vars(sys.modules[module]), "made before vLLM asks for it"


@pytest.mark.parametrize(("engine", "library"), [("vllm", "vllm"), ("ray", "ray")])
def test_a_missing_library_is_named_with_its_extra(
    engine: str,
    library: str,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "delia_data\[{library}\]"'):
        load_engine(engine, model=str(tmp_path))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"replicas": 0}, "replicas is 0: give at least 1"),
        ({"window": -1}, "window is -1"),
        ({"device": "tpu"}, "device 'tpu' is unknown: use one of auto, cpu, gpu"),
    ],
)
def test_settings_of_a_cluster_are_checked(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        RaySettings(**given)
