"""A model in a GGUF file is converted once, and then is a model folder like any other."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from chat_models import shipped_template

from delia_data import models
from delia_data.errors import InputError
from delia_data.models import identify, identify_files, load_model, load_tokenizer, resolve_model
from delia_data.tokens import template_options

gguf = pytest.importorskip("gguf")
pytest.importorskip("trl")

WIDTH, HEADS, KEY_HEADS, SIZE, INNER, LAYERS = 32, 4, 2, 128, 64, 2


def write_qwen3(file: Path) -> Path:
    """Write a random Qwen3 of two layers with a vocabulary of bytes."""
    from tokenizers import pre_tokenizers

    marks = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tokens = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    numbers = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return (numbers.standard_normal(shape) * 0.02).astype(np.float32)

    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(SIZE)
    writer.add_value_length(SIZE)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 2 + [4] * 2 + [1] * (len(tokens) - 4))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    writer.add_chat_template(shipped_template("qwen3"))
    writer.add_tensor("token_embd.weight", weight(len(tokens), WIDTH))
    writer.add_tensor("output_norm.weight", weight(WIDTH))
    for layer in range(LAYERS):
        for name, shape in {
            "attn_q": (HEADS * SIZE, WIDTH),
            "attn_k": (KEY_HEADS * SIZE, WIDTH),
            "attn_v": (KEY_HEADS * SIZE, WIDTH),
            "attn_output": (WIDTH, HEADS * SIZE),
            "attn_q_norm": (SIZE,),
            "attn_k_norm": (SIZE,),
            "attn_norm": (WIDTH,),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", weight(*shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "cache_home", lambda: tmp_path / "cache")
    file = write_qwen3(tmp_path / "tiny-qwen3.gguf")
    tokenizer = load_tokenizer(file, {"enable_thinking": False})
    assert template_options(tokenizer) == {"enable_thinking": False}
    model = load_model(file)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    folder = resolve_model(file)
    assert resolve_model(file) == folder
    assert Path(folder).parent == tmp_path / "cache" / "models"
    identity = identify(model, tokenizer)
    assert identity["name"] == "tiny-qwen3"
    assert identify_files(file, tokenizer) == identity
    os.utime(file, (1, 1))
    assert resolve_model(file) != folder, "the file changed"


def test_a_second_process_waits_for_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "cache_home", lambda: tmp_path / "cache")
    file = write_qwen3(tmp_path / "tiny-qwen3.gguf")
    converting, proceed = threading.Event(), threading.Event()
    conversions: list[Path] = []
    convert = models._unpack

    def slow(source: Path, folder: Path, name: str) -> None:
        conversions.append(folder)
        converting.set()
        assert proceed.wait(60)
        convert(source, folder, name)

    monkeypatch.setattr(models, "_unpack", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(resolve_model, file)
        assert converting.wait(60)
        second = pool.submit(resolve_model, file)
        assert not wait([second], timeout=0.5).done
        proceed.set()
        assert first.result() == second.result() == str(conversions[0])
    assert len(conversions) == 1


def test_a_broken_gguf_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "cache_home", lambda: tmp_path / "cache")
    (tmp_path / "broken.gguf").write_bytes(b"no such thing")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_tokenizer(tmp_path / "broken.gguf")
    with pytest.raises(InputError, match="does not exist: check the path"):
        load_tokenizer(tmp_path / "missing.gguf")
