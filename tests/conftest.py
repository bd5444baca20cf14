"""Shared fixtures: a tiny model, and no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from command_line import Delia, Result

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture(scope="session")
def make_tiny_tokenizer() -> Callable[[], PreTrainedTokenizerBase]:
    """Return a byte-level tokenizer with a chat template; its tokens are single bytes."""

    def make() -> PreTrainedTokenizerBase:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        marks = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {text: i for i, text in enumerate([*marks, *alphabet])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token="<|end|>",
            pad_token="<|pad|>",
            additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        )
        fast.chat_template = TEMPLATE
        return fast

    return make


@pytest.fixture
def tiny_tokenizer(
    make_tiny_tokenizer: Callable[[], PreTrainedTokenizerBase],
) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer with a chat template."""
    return make_tiny_tokenizer()


def tiny_llama(
    *, vocabulary: int = 261, tied: bool = True, positions: int = 512
) -> PreTrainedModel:
    """Return a random Llama of two layers, width 32; equal calls return equal weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        eos_token_id=0,
        pad_token_id=4,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def make_tiny_model() -> Callable[..., PreTrainedModel]:
    """The function `tiny_llama`."""
    return tiny_llama


@pytest.fixture
def delia(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Delia:
    """Run the command in this process, with errors as exit codes."""

    def run(*arguments: object) -> Result:
        from delia_data.cli import main

        monkeypatch.setattr(sys, "argv", ["delia", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Result(int(stopped.value.code or 0), captured.out, captured.err)

    return run
