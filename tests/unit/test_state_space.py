"""The state space at the first answer token: known distributions, ties, and a model's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
from word_models import word_model, word_tokenizer

from delia_data.errors import InputError
from delia_data.evaluation.state_space import (
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


def of(shares: list[float], expected: int = 0, opening: tuple[int, ...] = (), **given: Any) -> Any:
    """Return the numbers of one distribution, with its logits shifted by a constant."""
    logits = torch.tensor([shares], dtype=torch.float64).log() + 3.0
    mask = torch.zeros(1, len(shares), dtype=torch.bool)
    mask[0, list(opening)] = True
    [found] = first_tokens(logits, [expected], mask, **given)
    return found


@pytest.mark.parametrize(
    ("shares", "mass", "size"),
    [
        ([0.7, 0.2, 0.06, 0.04], 0.95, 3),
        ([0.04, 0.06, 0.2, 0.7], 0.95, 3),  # the order of the tokens does not matter
        ([0.96, 0.04], 0.95, 1),
        ([0.95, 0.05], 0.95, 1),  # 0.95 is enough for 0.95
        ([0.9499, 0.0501], 0.95, 2),
        ([1 / 20] * 20, 0.95, 19),
        ([1 / 4] * 4, 0.5, 2),
        ([1 / 3] * 3, 1.0, 3),
        ([1.0, 0.0, 0.0], 0.95, 1),
        ([0.5, 0.5, 0.0], 1.0, 2),
    ],
)
def test_size_is_the_fewest_tokens(shares: list[float], mass: float, size: int) -> None:
    assert of(shares, mass=mass).size == size


def test_entropy_is_in_nats() -> None:
    assert of([1 / 8] * 8).entropy == pytest.approx(math.log(8))
    assert of([1.0, 0.0]).entropy == pytest.approx(0)
    by_hand = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    assert of([0.7, 0.2, 0.1]).entropy == pytest.approx(by_hand)


def test_rank_and_probability_of_the_expected_token() -> None:
    shares = [0.1, 0.4, 0.2, 0.3]
    assert [of(shares, expected=i).rank for i in range(4)] == [4, 1, 3, 2]
    assert of(shares, expected=2).probability == pytest.approx(0.2)
    assert of(shares, expected=2, opening=(0, 2)).opening == pytest.approx(0.3)
    assert of(shares).opening == 0


def test_tied_tokens_share_the_best_rank() -> None:
    shares = [0.2, 0.3, 0.2, 0.3]
    assert [of(shares, expected=i).rank for i in range(4)] == [3, 1, 3, 1]


@pytest.mark.parametrize("mass", [0.0, -1.0, 1.01, math.nan])
def test_mass_out_of_bounds(mass: float) -> None:
    with pytest.raises(InputError, match="must be above 0 and at most 1"):
        of([0.5, 0.5], mass=mass)


def test_numbers_equal_those_of_each_row_alone(model: Any, tokenizer: Any) -> None:
    """Computed here from all logits of each row."""
    found = measure_state_space(model, tokenizer, ROWS)

    assert found.vocabulary == len(tokenizer)
    for row, one in zip(ROWS, found.rows, strict=True):
        ids = encode(tokenizer, row)
        with torch.no_grad():
            shares = model(torch.tensor([ids.ids])).logits[0, len(ids.prompt_ids) - 1].softmax(-1)
        brace = tokenizer.convert_tokens_to_ids(row.answer.split()[0])
        assert ids.answer_ids[0] == brace
        assert one.probability == pytest.approx(float(shares[brace]), rel=1e-4)
        assert one.rank == 1 + int((shares > shares[brace]).sum())
        mass, size = 0.0, 0
        for share in sorted(shares.tolist(), reverse=True):
            if mass >= 0.95:
                break
            mass, size = mass + share, size + 1
        assert one.size == size
    assert found.rows[2].opening == pytest.approx(
        sum_of(model, tokenizer, ROWS[2], {"no", "nothing", "night"}), rel=1e-4
    )


def sum_of(model: Any, tokenizer: Any, row: Record, words: set[str]) -> float:
    every = {word for word in tokenizer.get_vocab() if word.startswith("n")}
    assert every == words
    ids = encode(tokenizer, row).prompt_ids
    with torch.no_grad():
        shares = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    return float(shares[tokenizer.convert_tokens_to_ids(sorted(words))].sum())


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_batches_and_padding_change_nothing(model: Any, tokenizer: Any, batch_size: int) -> None:
    whole = measure_state_space(model, tokenizer, ROWS, batch_size=batch_size)
    alone = [measure_state_space(model, tokenizer, [row]).rows[0] for row in ROWS]
    for one, other in zip(whole.rows, alone, strict=True):
        assert (one.size, one.rank) == (other.size, other.rank)
        assert one.entropy == pytest.approx(other.entropy, rel=1e-5)
        assert one.opening == pytest.approx(other.opening, rel=1e-4)


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
    assert after.entropy < before.entropy


def test_the_model_stays_unchanged(model: Any, tokenizer: Any) -> None:
    model.train()
    random = torch.get_rng_state()
    measure_state_space(model, tokenizer, ROWS)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_first_characters_of_tokens(tokenizer: Any) -> None:
    found = first_characters(tokenizer, len(tokenizer) + 3)  # a head that is padded
    assert len(found) == len(tokenizer) + 3
    assert found[-3:] == [""] * 3
    for word in ("json", "{", "'"):
        assert found[tokenizer.convert_tokens_to_ids(word)] == word[0]


def test_summaries_by_hand() -> None:
    rows = (FirstToken(1, 0.5, 1, 0.9, 0.9), FirstToken(100, 2.5, 4, 0.1, 0.3))
    space = StateSpace(0.95, 200, rows)
    assert space.size == pytest.approx(10)
    assert space.entropy == pytest.approx(1.5)
    assert space.rank == 2.5
    assert space.probability == pytest.approx(0.5)
    assert space.opening == pytest.approx(0.6)
    with pytest.raises(InputError, match="at least one row"):
        StateSpace(0.95, 200, ())


def test_watched_numbers_equal_those_of_a_measurement(model: Any, tokenizer: Any) -> None:
    watched = StateSpaceWatch(ROWS).measure(model, tokenizer, 7)
    space = measure_state_space(model, tokenizer, ROWS)
    assert watched == {
        "state_space/size": space.size,
        "state_space/entropy": space.entropy,
        "state_space/rank": space.rank,
        "state_space/probability": space.probability,
        "state_space/opening": space.opening,
    }
    assert set(StateSpaceWatch(ROWS, name="plain").measure(model, tokenizer, 0)) == {
        f"plain/{name.split('/')[1]}" for name in watched
    }


def test_wrong_arguments(model: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="0 rows"):
        measure_state_space(model, tokenizer, [])
    with pytest.raises(InputError, match="no rows to watch"):
        StateSpaceWatch([])
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="chat template"):
        measure_state_space(model, tokenizer, ROWS)
