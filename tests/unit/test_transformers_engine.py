"""The transformers engine on a random tiny model, and its token sampling."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from delia_data.engines import Engine, MockEngine, Request, Sampling, load_engine
from delia_data.engines.local import sample_tokens, uniform_number
from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import InputError
from delia_data.records import Message


@pytest.fixture
def make_engine(
    make_tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerBase
) -> Callable[..., TransformersEngine]:
    return lambda **options: TransformersEngine(make_tiny_model(), tiny_tokenizer, **options)


Make = Callable[..., TransformersEngine]


def test_protocol(make_engine: Make) -> None:
    assert isinstance(make_engine(), Engine)
    assert isinstance(MockEngine(), Engine)


def test_seeds_give_different_answers(make_engine: Make) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=8)
    message = (Message("user", "why"),)
    texts = {
        c.text
        for c in make_engine().generate([Request(str(i), message, i) for i in range(8)], sampling)
    }
    assert len(texts) > 4


def test_describe_identifies_the_weights(make_engine: Make) -> None:
    one, other = make_engine(), make_engine()
    assert one.describe() == other.describe()
    with torch.no_grad():
        other.model.get_input_embeddings().weight[0, 0] += 1
    other._identity = None
    assert one.describe() != other.describe()


def test_tokens_that_all_prompts_begin_with_are_computed_once(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are those of whole prompts, in later batches and beside other prompts too."""
    system = Message("system", "Answer in verse, and never in more than nine words. " * 4)
    first = [Request(f"{n}", (system, Message("user", "why" * n)), n) for n in range(1, 12)]
    other = [Request("other", (Message("user", "how"),), 5)]
    requests, sampling = [*first[:5], *other, *first[5:]], Sampling(temperature=1.0, max_tokens=6)

    def answer() -> tuple[dict[str, str], int]:
        engine, computed = make_engine(batch_size=4, window=1), 0
        forward = engine.model.forward

        def count(**inputs: torch.Tensor) -> object:
            nonlocal computed
            computed += inputs["input_ids"].numel()
            return forward(**inputs)

        monkeypatch.setattr(engine.model, "forward", count)
        monkeypatch.setattr(count, "__signature__", inspect.signature(forward), raising=False)
        return {one.id: one.text for one in engine.generate(requests, sampling)}, computed

    texts, computed = answer()
    monkeypatch.setattr("delia_data.engines.transformers._PREFIX_TOKENS", 10_000)
    whole_texts, whole = answer()
    assert texts == whole_texts
    assert computed < 0.6 * whole


def test_an_unknown_model_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be loaded") as error:
        load_engine("transformers", model="./no-such-folder")
    assert "\n" not in str(error.value)


def sorted_whole(scores: torch.Tensor, number: float, temperature: float, top_p: float) -> int:
    """Apply temperature, top-p, and inverse transform to one row by their definitions."""
    ordered, tokens = (scores.double() / temperature).softmax(-1).sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    nucleus = ordered[before < top_p]
    place = int((nucleus.cumsum(0) <= number * nucleus.sum()).sum())
    return int(tokens[min(place, len(nucleus) - 1)])


@pytest.mark.parametrize("top_p", [0.1, 0.95, 1.0])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 6.0])
def test_sampling_equals_a_full_sort(sharpness: float, top_p: float) -> None:
    """Flat rows have a nucleus of thousands of tokens, sharp ones of a few."""
    scores = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0)) * sharpness
    draws = [uniform_number(row, 3) for row in range(64)]
    picked = sample_tokens(scores, draws, 0.7, top_p).squeeze(1).tolist()
    whole = [sorted_whole(scores[row], draws[row], 0.7, top_p) for row in range(64)]
    # A draw may fall on a border that float32 puts elsewhere.
    assert sum(one == other for one, other in zip(picked, whole, strict=True)) >= 62


def test_numbers_follow_from_seed_and_position() -> None:
    numbers = [uniform_number(seed, step) for seed in range(50) for step in range(50)]
    assert numbers == [uniform_number(seed, step) for seed in range(50) for step in range(50)]
    assert len(set(numbers)) == 2500
    assert all(0 <= number < 1 for number in numbers)
    assert abs(sum(numbers) / 2500 - 0.5) < 0.03
