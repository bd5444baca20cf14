"""A tokenizer of whole words with a chat template, and a random model that reads it."""

from __future__ import annotations

from typing import Any

from delia_data.evaluation.representation import DEFAULT_CONTEXTS

MARKS = ("[UNK]", "[PAD]", "[END]", "[USER]", "[ASSISTANT]")
WORDS = (
    *("json", "thought", "yes", "no", "even", "odd", "red", "green", "blue", "apple", "river"),
    *("stone", "cloud", "paper", "water", "house", "night", "light", "bread", "music", "seven"),
    *("{", "}", "'", ":", ",", ".", "?", "is", "it", "a", "one", "two", "three", "true", "so"),
)
_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '[USER] ' if m['role'] == 'user' else '[ASSISTANT] ' }}{{ m['content'] }} [END]"
    "{% endfor %}{% if add_generation_prompt %}[ASSISTANT] {% endif %}"
)


def word_tokenizer(*more: str) -> Any:
    """Return a tokenizer whose tokens are words; other words are unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    of_contexts = {w.strip(".?") for text in DEFAULT_CONTEXTS for w in text.split()} - {"{word}"}
    words = dict.fromkeys([*MARKS, *WORDS, *sorted(of_contexts), *more])
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        eos_token="[END]",
        additional_special_tokens=["[USER]", "[ASSISTANT]"],
    )
    fast.chat_template = _TEMPLATE
    return fast


def word_model(tokenizer: Any, *, layers: int = 2, width: int = 32, tied: bool = True) -> Any:
    """Return a random Llama for the tokenizer in float32; equal calls return equal weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        eos_token_id=2,
        pad_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()
