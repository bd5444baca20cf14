"""vLLM serves what training exports, with the logits of the trained model in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from trained import ROWS, logits_of, seen_trainers

from delia_data.tokens import render_ids
from delia_data.training import TrainSettings, train
from delia_data.training.adapter import export_merged, export_parted

vllm = pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engines,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ASKED = [f"Is {i} even? <sep>" for i in (6, 7)] + ["Tell me about the sea."]


class Trained:
    """Output of a training, and logits of its model in memory."""

    def __init__(self, folder: Path, dtype: str) -> None:
        torch.set_num_threads(1)
        settings = TrainSettings(
            targets=("all-linear",),
            learning_rate=2e-3,
            token_rate=2.5,
            epochs=3,
            batch_size=6,
            warmup_steps=0,
            dtype=dtype,  # type: ignore[arg-type]
        )
        with seen_trainers() as trainers:
            train(settings, ROWS, folder / "adapter")
        self.folder, self.dtype = folder, dtype
        self.model, tokenizer = trainers[0].model, trainers[0].processing_class
        model = self.model
        turns = [[{"role": "user", "content": text}] for text in ASKED]
        self.token_id = tokenizer.convert_tokens_to_ids("<sep>")
        self.ids = [render_ids(tokenizer, each, generate=True) for each in turns]
        self.logprobs = [_next(logits_of(model, [ids])[0], ids) for ids in self.ids]
        with model.disable_adapter():
            self.untrained = [_next(logits_of(model, [ids])[0], ids) for ids in self.ids]
        # The same weights, computed without rounding to the type: how much the type is off by.
        exact = [_next(logits_of(model.float(), [ids])[0], ids) for ids in self.ids]
        self.rounding = mean_distance(exact, self.logprobs)


def _next(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """Return the log-probability of each token after the first."""
    logprobs = logits.log_softmax(-1)
    return logprobs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


@contextmanager
def served(model: Path, dtype: str, **options: Any) -> Iterator[Any]:
    engine = vllm.LLM(
        model=str(model),
        dtype=dtype,
        max_model_len=256,
        max_num_seqs=4,
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 28,
        disable_log_stats=True,
        **options,
    )
    try:
        yield engine
    finally:
        engine.llm_engine.engine_core.shutdown()


def logprobs_of(engine: Any, ids: list[list[int]]) -> list[torch.Tensor]:
    asked = [{"prompt_token_ids": each} for each in ids]
    sampling = vllm.SamplingParams(max_tokens=1, prompt_logprobs=0)
    outputs = engine.generate(asked, sampling, use_tqdm=False)
    return [
        torch.tensor(
            [
                places[token].logprob
                for places, token in zip(output.prompt_logprobs[1:], each[1:], strict=True)
            ]
        )
        for output, each in zip(outputs, ids, strict=True)
    ]


def greedily(engine: Any, ids: list[list[int]], **options: Any) -> list[Any]:
    """Return eight greedy tokens, each with the log-probabilities of twenty.

    vLLM 0.32 on a CPU stops at `prompt_logprobs` where a request has LoRA: it adds LoRA to as many
    rows of logits as there are requests.
    """
    asked = [{"prompt_token_ids": each} for each in ids]
    sampling = vllm.SamplingParams(max_tokens=8, temperature=0, logprobs=20, ignore_eos=True)
    return [each.outputs[0] for each in engine.generate(asked, sampling, use_tqdm=False, **options)]


def mean_distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return float((torch.cat(one) - torch.cat(other)).abs().mean())


def test_a_merged_model_has_the_trained_models_logits(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "bfloat16")
    assert trained.token_id in trained.ids[0] and trained.token_id not in trained.ids[2]
    export_merged(tmp_path / "adapter", tmp_path / "merged")
    with served(tmp_path / "merged", "bfloat16") as engine:
        found = logprobs_of(engine, trained.ids)
        assert engine.get_tokenizer().convert_tokens_to_ids("<sep>") == trained.token_id
    off = mean_distance(found, trained.logprobs)
    assert off < 3 * trained.rounding, "further off than the type rounds"
    assert off < mean_distance(trained.untrained, trained.logprobs) / 10


def test_parted_it_is_served_as_lora_with_the_same_logits(tmp_path: Path) -> None:
    from safetensors import safe_open
    from vllm.lora.request import LoRARequest
    from vllm.lora.utils import parse_fine_tuned_lora_name

    trained = Trained(tmp_path, "float32")
    export_parted(tmp_path / "adapter", tmp_path / "parted")
    lora = LoRARequest("trained", 1, str(tmp_path / "parted" / "adapter"))
    with served(
        tmp_path / "parted" / "model", "float32", enable_lora=True, max_lora_rank=16
    ) as engine:
        written = greedily(engine, trained.ids, lora_request=lora)
    # What was trained is refused as it is; the engine would go down with it.
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        (row,) = [name for name in file.keys() if ".lora_" not in name]  # noqa: SIM118
    with pytest.raises(ValueError, match="unsupported LoRA weight"):
        parse_fine_tuned_lora_name(row)
    for prompt, output in zip(trained.ids, written, strict=True):
        logits = logits_of(trained.model, [[*prompt, *output.token_ids]])[0]
        with trained.model.disable_adapter():
            untrained = logits_of(trained.model, [[*prompt, *output.token_ids]])[0]
        for place, shown in enumerate(output.logprobs, start=len(prompt) - 1):
            tokens = torch.tensor(list(shown))
            found = torch.tensor([each.logprob for each in shown.values()])
            assert torch.allclose(found, logits[place].log_softmax(-1)[tokens], atol=1e-2)
            apart = (found - untrained[place].log_softmax(-1)[tokens]).abs().max()
            assert apart > 0.1, "it would not show if the adapter were left out"
