"""The transformers engine on a random tiny model: rows are independent, each answered once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from delia_data.engines import Engine, MockEngine, Request, Sampling, load_engine
from delia_data.engines.transformers import TransformersEngine, _RowSampler
from delia_data.errors import InputError
from delia_data.records import Message


def requests(count: int) -> list[Request]:
    return [
        Request(f"{i:04}", (Message("user", "why " * (i % 7 + 1)),), 100 + i) for i in range(count)
    ]


@pytest.fixture
def make_engine(
    make_tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerBase
) -> Callable[..., TransformersEngine]:
    return lambda **options: TransformersEngine(make_tiny_model(), tiny_tokenizer, **options)


Make = Callable[..., TransformersEngine]


def test_protocol(make_engine: Make) -> None:
    assert isinstance(make_engine(), Engine)
    assert isinstance(MockEngine(), Engine)


def test_every_request_is_answered_once(make_engine: Make) -> None:
    engine = make_engine(batch_size=3, window=2)
    completions = list(engine.generate(iter(requests(11)), Sampling(max_tokens=4)))
    assert sorted(c.id for c in completions) == [r.id for r in requests(11)]
    assert all(1 <= c.tokens <= 4 and c.finish in ("stop", "length") for c in completions)


def test_rows_do_not_depend_on_the_batch(make_engine: Make) -> None:
    """In float32 the tiny model computes alike in every batch, so the draws decide."""
    sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=6)
    alone, together = (
        {c.id: c.text for c in make_engine(batch_size=n).generate(requests(12), sampling)}
        for n in (1, 5)
    )
    assert alone == together
    assert len(set(alone.values())) > 6


def test_seeds_give_different_answers(make_engine: Make) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=8)
    message = (Message("user", "why"),)
    texts = {
        c.text
        for c in make_engine().generate([Request(str(i), message, i) for i in range(8)], sampling)
    }
    assert len(texts) > 4


def test_temperature_zero_needs_no_seed(make_engine: Make) -> None:
    greedy = Sampling(temperature=0.0, max_tokens=5)
    message = (Message("user", "why"),)
    pair = [Request("a", message, 1), Request("b", message, 2)]
    one, other = make_engine().generate(pair, greedy)
    assert one.text == other.text


def test_row_sampler_uses_a_new_number_per_position() -> None:
    logits = torch.zeros(1, 50)
    picker = _RowSampler([7], 0, Sampling(temperature=1.0))
    picked = {
        int(picker(torch.zeros(1, step, dtype=torch.long), logits).argmax()) for step in range(40)
    }
    assert len(picked) > 15


def test_describe_identifies_the_weights(make_engine: Make) -> None:
    one, other = make_engine(), make_engine()
    assert one.describe() == other.describe()
    with torch.no_grad():
        other.model.get_input_embeddings().weight[0, 0] += 1
    other._identity = None
    assert one.describe() != other.describe()


def test_an_unknown_model_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be loaded") as error:
        load_engine("transformers", model="./no-such-folder")
    assert "\n" not in str(error.value)
