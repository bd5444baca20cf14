"""The state space at the first answer token: known distributions, ties, and a model's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
from word_models import word_model, word_tokenizer

from delia_data.errors import InputError
from delia_data.evaluation.representation import (
    FirstToken,
    StateSpace,
    StateSpaceWatch,
    first_characters,
    first_tokens,
    measure_state_space,
)
from delia_data.records import Record
from delia_data.tokens import add_token, encode

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

ROWS = [
    Record.pair("is one odd ? <sep>", "{ ' odd ' : yes }"),
    Record.pair("is two odd ? is it so ? <sep>", "{ ' odd ' : no }"),
    Record.pair("<sep> is three even ?", "no"),
    Record.pair("is it a red apple ? <sep>", "{ ' red ' : yes }"),
]


@pytest.fixture
def tokenizer() -> Any:
    return word_tokenizer()


@pytest.fixture
def model(tokenizer: Any) -> Any:
    model = word_model(tokenizer)
    add_token(model, tokenizer, "<sep>", init="normal")
    return model


def of(shares: list[float], expected: int = 0, opening: tuple[int, ...] = ()) -> FirstToken:
    """Return the numbers of one distribution, with its logits shifted by a constant."""
    logits = torch.tensor([shares], dtype=torch.float64).log() + 3.0
    mask = torch.zeros(1, len(shares), dtype=torch.bool)
    mask[0, list(opening)] = True
    [found] = first_tokens(logits, [expected], mask)
    return found


@pytest.mark.parametrize(
    ("shares", "size"),
    [
        ([0.7, 0.2, 0.06, 0.04], 3),
        ([0.04, 0.06, 0.2, 0.7], 3),  # the order of the tokens does not matter
        ([0.95, 0.05], 1),  # 0.95 is enough for 0.95
        ([0.9499, 0.0501], 2),
        ([1 / 20] * 20, 19),
        ([1.0, 0.0, 0.0], 1),
    ],
)
def test_size_is_the_fewest_tokens(shares: list[float], size: int) -> None:
    assert of(shares).size == size


def test_numbers_of_known_distributions() -> None:
    assert of([1 / 8] * 8).entropy == pytest.approx(math.log(8))  # nats
    assert of([1.0, 0.0]).entropy == pytest.approx(0)
    shares = [0.1, 0.4, 0.2, 0.3]
    assert [of(shares, expected=i).rank for i in range(4)] == [4, 1, 3, 2]
    assert of(shares, expected=2).probability == pytest.approx(0.2)
    assert of(shares, expected=2, opening=(0, 2)).opening == pytest.approx(0.3)
    tied = [0.2, 0.3, 0.2, 0.3]
    assert [of(tied, expected=i).rank for i in range(4)] == [3, 1, 3, 1]
    rows = (FirstToken(1, 0.5, 1, 0.9, 0.9), FirstToken(100, 2.5, 4, 0.1, 0.3))
    space = StateSpace(0.95, rows)
    means = (space.size, space.entropy, space.rank, space.probability, space.opening)
    assert means == pytest.approx((10, 1.5, 2.5, 0.5, 0.6))


def test_numbers_equal_those_of_each_row_alone(model: Any, tokenizer: Any) -> None:
    """Computed here from all logits of each row."""
    model.train()
    random = torch.get_rng_state()
    found = measure_state_space(model, tokenizer, ROWS, batch_size=3)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)

    model.eval()
    for row, one in zip(ROWS, found.rows, strict=True):
        ids = encode(tokenizer, row)
        with torch.no_grad():
            shares = model(torch.tensor([ids.ids])).logits[0, len(ids.prompt_ids) - 1].softmax(-1)
        first = tokenizer.convert_tokens_to_ids(row.answer.split()[0])
        assert ids.answer_ids[0] == first
        assert one.probability == pytest.approx(float(shares[first]), rel=1e-4)
        assert one.rank == 1 + int((shares > shares[first]).sum())
        assert one.size == 1 + int((shares.sort(descending=True).values.cumsum(0) < 0.95).sum())
        begins = [i for w, i in tokenizer.get_vocab().items() if w.startswith(row.answer[0])]
        assert one.opening == pytest.approx(float(shares[begins].sum()), rel=1e-4)


def test_a_model_that_learned_the_brace_has_a_small_state_space(tokenizer: Any) -> None:
    """The brace's row of an untied head is set to the model's states at that position."""
    rows = [ROWS[0], ROWS[1], ROWS[3]]
    model = word_model(tokenizer, tied=False)
    before = measure_state_space(model, tokenizer, rows)
    at = [encode(tokenizer, row).prompt_ids for row in rows]
    with torch.no_grad():
        last = [model.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in at]
        brace = tokenizer.convert_tokens_to_ids("{")
        model.lm_head.weight[brace] = torch.stack(last).mean(0) * 3
    after = measure_state_space(model, tokenizer, rows)
    assert before.size > 5
    assert (after.size, after.rank) == (1, 1)
    assert after.opening > 0.99


def test_first_characters_of_tokens(tokenizer: Any) -> None:
    found = first_characters(tokenizer, len(tokenizer) + 3)  # a head that is padded
    assert found[-3:] == [""] * 3
    for word in ("json", "{", "'"):
        assert found[tokenizer.convert_tokens_to_ids(word)] == word[0]


def test_watched_numbers_equal_those_of_a_measurement(model: Any, tokenizer: Any) -> None:
    space = measure_state_space(model, tokenizer, ROWS)
    names = ("size", "entropy", "rank", "probability", "opening")
    watched = StateSpaceWatch(ROWS, name="plain").measure(model, tokenizer, 7)
    assert watched == {f"plain/{name}": getattr(space, name) for name in names}


def test_wrong_arguments(model: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="0 rows"):
        measure_state_space(model, tokenizer, [])
    with pytest.raises(InputError, match="no rows to watch"):
        StateSpaceWatch([])
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="chat template"):
        measure_state_space(model, tokenizer, ROWS)
