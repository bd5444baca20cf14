"""Continuous batching: each row is answered as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from delia_data.engines import Completion, Request, Sampling
from delia_data.engines.transformers import (
    Batch,
    Row,
    TransformersEngine,
    _attend,
    fast_attention,
    is_supported,
)
from delia_data.records import Message

# Of the tiny model's 261 tokens so many end an answer, so that lengths differ.
ENDS = frozenset(range(40))


def rows(count: int) -> list[Row]:
    return [
        Row(Request(str(i), (), 7 * i + 1), [5 + (i * j) % 250 for j in range(1 + i % 9)])
        for i in range(count)
    ]


def decoded(
    model: PreTrainedModel, asked: list[Row], sampling: Sampling, size: int
) -> dict[str, list[int]]:
    """Decode with a batch of a given size, admitting a row as soon as one is finished."""
    batch = Batch(model, sampling, ends=ENDS, pad=4)
    waiting, answers = list(asked), {}
    while waiting or batch.active:
        free = size - batch.active
        if waiting and free:
            done, waiting = batch.admit(waiting[:free]), waiting[free:]
        else:
            done = batch.step()
        assert batch.active <= size
        for row in done:
            assert row.finish == ("stop" if row.answer[-1] in ENDS else "length")
            answers[row.request.id] = row.answer
    assert batch.tokens == 0
    return answers


def test_greedy_decoding_equals_generate(make_tiny_model: Callable[..., PreTrainedModel]) -> None:
    model, asked = make_tiny_model(), rows(23)
    found = decoded(model, asked, Sampling(temperature=0.0, max_tokens=12), size=4)
    for row in asked:
        output = model.generate(
            input_ids=torch.tensor([row.prompt]),
            attention_mask=torch.ones(1, len(row.prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=sorted(ENDS),
            pad_token_id=4,
        )
        assert found[row.request.id] == output[0, len(row.prompt) :].tolist()


def test_sampling_does_not_depend_on_the_batch(
    make_tiny_model: Callable[..., PreTrainedModel],
) -> None:
    model, sampling = make_tiny_model(), Sampling(temperature=1.0, top_p=0.95, max_tokens=12)
    alone, few, many = (decoded(model, rows(23), sampling, size) for size in (1, 4, 23))
    assert alone == few == many
    assert len({len(answer) for answer in alone.values()}) > 5


def test_finished_rows_make_room(make_tiny_model: Callable[..., PreTrainedModel]) -> None:
    """At most an eighth more rows are computed than there are tokens."""
    model, computed = make_tiny_model(), 0
    forward = model.model.forward

    def counted(*args: object, **options: torch.Tensor) -> object:
        nonlocal computed
        computed += options["input_ids"].shape[0]
        return forward(*args, **options)

    model.model.forward = counted
    answers = decoded(model, rows(60), Sampling(temperature=1.0, max_tokens=40), size=16)
    tokens = sum(map(len, answers.values()))
    assert tokens <= computed <= 1.2 * tokens


def test_both_ways_to_generate_give_equal_answers(
    make_tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [Request(str(i), (Message("user", "why " * (i % 7 + 1)),), i) for i in range(20)]

    def answered() -> list[Completion]:
        engine = TransformersEngine(make_tiny_model(), tiny_tokenizer, batch_size=6, window=2)
        found = engine.generate(asked, Sampling(temperature=1.0, max_tokens=30))
        return sorted(found, key=lambda completion: completion.id)

    freely = answered()
    monkeypatch.setattr("delia_data.engines.transformers.is_supported", lambda _: False)
    assert freely == answered()


def test_answers_are_yielded_as_soon_as_finished(
    make_tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    """The engine yields a completion when the next request depends on it."""
    given: list[str] = []

    def requests() -> Iterator[Request | None]:
        for number in range(10):
            while number - len(given) >= 2:
                yield None
            yield Request(str(number), (Message("user", "why"),), number)

    engine = TransformersEngine(make_tiny_model(), tiny_tokenizer, batch_size=8)
    for completion in engine.generate(requests(), Sampling(temperature=1.0, max_tokens=5)):
        given.append(completion.id)
    assert sorted(given) == [str(i) for i in range(10)]


def test_models_with_special_settings_use_generate(
    make_tiny_model: Callable[..., PreTrainedModel],
) -> None:
    model = make_tiny_model()
    assert is_supported(model)
    model.generation_config.repetition_penalty = 1.1
    assert not is_supported(model)
    sliding = MistralConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
    )
    assert not is_supported(MistralForCausalLM(sliding))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_fast_attention_equals_pytorch(masked: bool, tokens: int, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, tokens, 8).to(kind)
    key, value = torch.randn(2, 2, 2, 5, 8).to(kind)
    mask = torch.ones(2, 1, tokens, 5, dtype=torch.bool) if masked else None
    if mask is not None:
        mask[1, :, :, :2] = False
    module = torch.nn.Module()
    module.num_key_value_groups = 3
    found, _ = _attend(module, query, key, value, mask, scaling=0.3)
    usual, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, usual, rtol=0, atol=1e-6 if kind == torch.float32 else 0.02)


def test_the_models_own_attention_is_put_back(
    make_tiny_model: Callable[..., PreTrainedModel],
) -> None:
    model = make_tiny_model()
    with fast_attention(model):
        assert model.config._attn_implementation != "sdpa"
    assert model.config._attn_implementation == "sdpa"
