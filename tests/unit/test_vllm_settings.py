"""Settings of vLLM and Ray, without the libraries; tests/engines runs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from delia_data.engines import Sampling, load_engine
from delia_data.engines.local import ROW_SAMPLER, sampling_arguments
from delia_data.engines.ray import RayOptions
from delia_data.errors import InputError, MissingExtraError

SEED = 2**62 + 1


def test_gpu_uses_the_seed_of_the_row() -> None:
    arguments = sampling_arguments(Sampling(0.7, 0.95, 12), SEED, 2, on_cpu=False)
    assert (arguments["seed"], arguments["temperature"], arguments["top_p"]) == (SEED, 0.7, 0.95)
    assert "extra_args" not in arguments


def test_cpu_uses_the_row_sampler() -> None:
    """vLLM's own seed is not set, because its CPU build cannot rewind generators."""
    arguments = sampling_arguments(Sampling(0.7, 0.95, 12), SEED, 2, on_cpu=True)
    assert "seed" not in arguments
    assert arguments["temperature"] == 0.0
    (how,) = arguments["extra_args"].values()
    assert how == {"seed": SEED, "temperature": 0.7, "top_p": 0.95}


@pytest.mark.parametrize("on_cpu", [True, False])
def test_greedy_decoding_needs_no_seed(on_cpu: bool) -> None:
    arguments = sampling_arguments(Sampling(temperature=0.0, max_tokens=7), SEED, 2, on_cpu=on_cpu)
    assert arguments["temperature"] == 0.0
    assert not {"seed", "extra_args", "top_p"} & set(arguments)
    assert (arguments["max_tokens"], arguments["stop_token_ids"]) == (7, [2])


def test_row_sampler_is_named_by_its_module() -> None:
    module, name = ROW_SAMPLER.split(":")
    assert module in sys.modules
    assert name not in vars(sys.modules[module]), "the class was made before vLLM asked for it"


@pytest.mark.parametrize(("engine", "library"), [("vllm", "vllm"), ("ray", "ray")])
def test_missing_library_is_named_with_its_extra(
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
        ({"replicas": 0}, "replicas 0 is wrong: it must be greater than or equal to 1"),
        ({"window": -1}, "window -1 is wrong"),
        ({"device": "tpu"}, "device 'tpu' is wrong: it must be 'auto', 'cpu' or 'gpu'"),
    ],
)
def test_invalid_options_of_a_cluster_are_rejected(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        RayOptions(**given)
