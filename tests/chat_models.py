"""Small tokenizers of model families, with their chat formats.

The vocabularies are trained on the spot, with merges, so that tokens can grow together where
texts meet. Templates that an installed package ships are taken from there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SMOLLM2 = (
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
)
LLAMA2 = (
    "{% set head = '' %}{% set turns = messages %}"
    "{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}"
    "{% set head = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% endif %}"
    "{% for m in turns %}"
    + _ALTERNATE
    + "{% if m.role == 'user' %}{% set text = (head if loop.first else '') + m.content %}"
    "{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA2_WITHOUT_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}"
    + _ALTERNATE
    + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
TEXT = [
    "Is the sky green? Answer as asked, with a thought and a verdict.",
    "{'thought': 'It is blue, not green.', 'hallucination': 'yes'}",
    "system user assistant model\n\nQuestion: who wrote it?\n\n",
    *["\n\n\n"] * 4,
    "An answer of two lines,\n\nthe second.",
    "You are a helpful assistant. Be brief. [INST] [/INST] <<SYS>> <</SYS>>",
]


_MARK = re.compile(
    r"<\|[^|<>\s'\"{}]+\|?>|<[^|<>\s'\"{}]*\|>|</?think>|\[gMASK\]|\[/?INST\]|<｜[^｜<>]+｜>"
    r"|<(?:start_of_turn|end_of_turn|sop|end_of_utterance)>"
)


def marked_tokenizer(template: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer of bytes, pairs of line breaks, and the marks of a chat template.

    As in tokenizers of today, marks of turns are special tokens, and those of thoughts are not.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = list(dict.fromkeys(_MARK.findall(template)))
    texts = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    vocabulary = {text: i for i, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n+|[^\n]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[mark for mark in marks if "think" not in mark],
    )
    fast.add_tokens([mark for mark in marks if "think" in mark])
    fast.chat_template = template
    return fast


def shipped_template(name: str) -> str:
    """Return a chat template of TRL."""
    found = find_spec("trl")
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8")


def shipped_templates() -> list[str]:
    """Return the names of TRL's chat templates, without those for training."""
    found = find_spec("trl")
    assert found is not None
    assert found.origin is not None
    names = {path.stem for path in (Path(found.origin).parent / "chat_templates").glob("*.jinja")}
    return sorted(name for name in names if not name.endswith("_training"))


def _byte_level(specials: list[str], **roles: str) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _sentencepiece(specials: list[str], *, prefix: bool, **roles: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer like Llama-2's and Gemma's: visible blanks, bytes if unknown."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    blanks = normalizers.Replace(" ", "▁")
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blanks] if prefix else [blanks])
    learnt = Tokenizer(models.BPE())
    learnt.normalizer = normalizer
    learnt.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # a blank begins a word
    learnt.train_from_iterator(
        TEXT * 4, trainers.BpeTrainer(vocab_size=300, max_token_length=6, show_progress=False)
    )
    model = json.loads(learnt.to_str())["model"]
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = sorted(model["vocab"].keys() - {"\n"}, key=model["vocab"].get)
    vocabulary = {piece: i for i, piece in enumerate([*specials, *every_byte, *pieces])}
    merges = [tuple(pair) for pair in model["merges"] if not any("\n" in part for part in pair)]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizer
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if prefix else undo)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in specials])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _chatml(template: str, bos: str | None) -> PreTrainedTokenizerBase:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    roles = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer = _byte_level(specials, **roles, **({"bos_token": bos} if bos else {}))
    tokenizer.chat_template = template
    return tokenizer


def _llama2(template: str) -> PreTrainedTokenizerBase:
    specials = ["<unk>", "<s>", "</s>"]
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    tokenizer = _sentencepiece(specials, prefix=True, **roles)
    tokenizer.chat_template = template
    return tokenizer


def _gemma() -> PreTrainedTokenizerBase:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    roles = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    tokenizer = _sentencepiece(specials, prefix=False, **roles)
    tokenizer.chat_template = shipped_template("gemma")
    return tokenizer


FAMILIES: dict[str, Callable[[], Any]] = {
    "smollm2": lambda: _chatml(SMOLLM2, "<|im_start|>"),
    "qwen2.5": lambda: _chatml(shipped_template("qwen2_5"), None),
    "llama-2": lambda: _llama2(LLAMA2),
    "llama-2-without-system": lambda: _llama2(LLAMA2_WITHOUT_SYSTEM),
    "gemma": _gemma,
}


def family(name: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer of a family, with its chat template."""
    made: PreTrainedTokenizerBase = FAMILIES[name]()
    return made
