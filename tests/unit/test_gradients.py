"""Gradients of rows on a random tiny model with LoRA: what they are, and that nothing is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from word_models import word_model, word_tokenizer

from delia_data.errors import InputError
from delia_data.evaluation.gradients import Projection, at_start, lora_b_matrices, row_gradients
from delia_data.records import Record
from delia_data.tokens import add_token, encode

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

PROJECTION = Projection(4096)
ROWS = [
    Record.pair("is one odd ? <sep>", "{ ' odd ' : yes }"),
    Record.pair("is it a red apple ?", "it is so"),
    Record.pair("river", "water"),
]


@pytest.fixture
def tokenizer() -> Any:
    return word_tokenizer()


@pytest.fixture
def base(tokenizer: Any) -> Any:
    model = word_model(tokenizer)
    add_token(model, tokenizer, "<sep>", init="normal")
    return model


@pytest.fixture
def model(base: Any, tokenizer: Any) -> Any:
    """LoRA with dropout and the token's row, both moved as a training moves them."""
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.5,
        target_modules=["q_proj", "v_proj", "down_proj"],
        trainable_token_indices={"embed_tokens": [tokenizer.convert_tokens_to_ids("<sep>")]},
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "trainable_tokens_delta" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return wrapped


def by_hand(model: Any, tokenizer: Any, row: Record) -> tuple[Any, float, int]:
    """All B's gradients of the row's mean answer loss, from all logits, in one vector."""
    encoded = encode(tokenizer, row)
    logits = model(torch.tensor([encoded.ids])).logits[0]
    shares = logits[len(encoded.prompt_ids) - 1 : -1].log_softmax(-1)
    answer = torch.tensor(encoded.answer_ids)
    loss = -shares[torch.arange(len(answer)), answer].mean()
    matrices = list(lora_b_matrices(model).values())
    parts = torch.autograd.grad(loss, matrices)
    return torch.cat([part.reshape(-1) for part in parts]), float(loss.detach()), len(answer)


def test_gradients_are_those_of_the_answers_mean_loss(model: Any, tokenizer: Any) -> None:
    found = row_gradients(model, tokenizer, ROWS, PROJECTION)
    model.eval()
    for index, row in enumerate(ROWS):
        gradient, loss, tokens = by_hand(model, tokenizer, row)
        assert found.norms[index] == pytest.approx(float(gradient.norm()), rel=1e-4)
        assert found.losses[index] == pytest.approx(loss, rel=1e-5)
        assert found.tokens[index] == tokens
    first, second = (by_hand(model, tokenizer, row)[0] for row in ROWS[:2])
    product = float(first @ second)
    sizes = float(first.norm() * second.norm())
    assert found.sketches[0] @ found.sketches[1] == pytest.approx(product, abs=0.1 * sizes)
    assert np.linalg.norm(found.sketches, axis=1) == pytest.approx(found.norms, rel=0.06)


def test_a_row_has_the_same_gradient_whatever_stands_beside_it(model: Any, tokenizer: Any) -> None:
    together = row_gradients(model, tokenizer, ROWS, PROJECTION)
    backwards = row_gradients(model, tokenizer, ROWS[::-1], PROJECTION)
    assert np.allclose(together.sketches, backwards.sketches[::-1], atol=1e-6)
    assert together.norms == pytest.approx(backwards.norms[::-1])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model: Any, tokenizer: Any, training: bool) -> None:
    model.train(training)
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    values = {name: parameter.clone() for name, parameter in model.named_parameters()}
    state = torch.get_rng_state()
    done: list[int] = []
    first = row_gradients(model, tokenizer, ROWS, PROJECTION, on_row=done.append)
    again = row_gradients(model, tokenizer, ROWS, PROJECTION)
    assert np.array_equal(first.sketches, again.sketches)  # no dropout, though it is 0.5
    assert done == [1, 2, 3]
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad is wanted[name]
        assert torch.equal(parameter, values[name])


def test_at_the_start_the_model_is_the_untrained_one(model: Any, base: Any, tokenizer: Any) -> None:
    ids = torch.tensor([encode(tokenizer, ROWS[0]).ids])
    another = word_tokenizer()
    plain = word_model(another)
    add_token(plain, another, "<sep>", init="normal")
    model.eval()
    with torch.no_grad():
        trained = model(ids).logits
        with at_start(model):
            begun = model(ids).logits
        assert torch.allclose(begun, plain(ids).logits, atol=1e-5)
        assert not torch.allclose(begun, trained, atol=1e-2)
        assert torch.equal(model(ids).logits, trained)


def test_lora_on_the_embedding_is_put_back_too(base: Any, tokenizer: Any) -> None:
    """As the paper's code trains the token; the base model stays inside the wrapped one."""
    ids = torch.tensor([encode(tokenizer, ROWS[0]).ids])
    with torch.no_grad():
        plain = base(ids).logits
    torch.manual_seed(2)
    config = peft.LoraConfig(
        r=4,
        target_modules=["q_proj", "embed_tokens"],
        task_type="CAUSAL_LM",
        ensure_weight_tying=True,
    )
    wrapped = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        trained = wrapped(ids).logits
        with at_start(wrapped):
            begun = wrapped(ids).logits
        assert torch.allclose(begun, plain, atol=1e-5)
        assert not torch.allclose(trained, plain, atol=1e-2)
        assert torch.equal(wrapped(ids).logits, trained)


def test_the_trained_values_come_back_after_an_error(model: Any) -> None:
    values = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(KeyError), at_start(model):
        raise KeyError
    assert all(torch.equal(p, values[name]) for name, p in model.named_parameters())


def test_at_the_start_gradients_are_of_b_alone(model: Any, tokenizer: Any) -> None:
    """Why B's gradient is the one to compare: A's is zero where a training begins."""
    with at_start(model):
        encoded = encode(tokenizer, ROWS[0])
        ids = torch.tensor([encoded.ids])
        model.eval()
        loss = model(ids, labels=ids).loss
        matrices = [p for name, p in model.named_parameters() if ".lora_A." in name]
        assert matrices
        assert not any(g.any() for g in torch.autograd.grad(loss, matrices))
        found = row_gradients(model, tokenizer, ROWS, PROJECTION)
    assert (found.norms > 0.01).all()


def test_cut_rows_lose_the_end_of_their_answers(model: Any, tokenizer: Any) -> None:
    prompt = len(encode(tokenizer, ROWS[0]).prompt_ids)
    cut = row_gradients(model, tokenizer, ROWS[:1], PROJECTION, max_length=prompt + 2)
    assert cut.tokens.tolist() == [2]
    with pytest.raises(InputError, match="no answer within"):
        row_gradients(model, tokenizer, ROWS[:1], PROJECTION, max_length=prompt)


def test_bad_input_is_refused(model: Any, base: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="no rows"):
        row_gradients(model, tokenizer, [], PROJECTION)
    merged = model.merge_and_unload()
    with pytest.raises(InputError, match="has no LoRA"):
        row_gradients(merged, tokenizer, ROWS, PROJECTION)
