"""Gradients of rows on a tiny random model with LoRA, their projection, and the buffering effect.

The buffering effect is tested with planted gradients.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from word_models import word_model, word_tokenizer

from delia_data.errors import InputError
from delia_data.evaluation import gradients as module
from delia_data.evaluation.bootstrap import Resampling
from delia_data.evaluation.gradients import (
    RowGradients,
    cancellation,
    cosines,
    initial_weights,
    measure_buffering,
    project,
    rank_correlation,
    row_gradients,
)
from delia_data.records import Record
from delia_data.tokens import add_token, encode

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

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


def wrap(base: Any, **settings: Any) -> Any:
    """Add LoRA, changed as by a training."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5, task_type="CAUSAL_LM", **settings)
    wrapped = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "trainable_tokens_delta" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return wrapped


@pytest.fixture
def model(base: Any, tokenizer: Any) -> Any:
    """Return LoRA with dropout and the token's row."""
    return wrap(
        base,
        target_modules=["q_proj", "v_proj", "down_proj"],
        trainable_token_indices={"embed_tokens": [tokenizer.convert_tokens_to_ids("<sep>")]},
    )


def by_hand(model: Any, tokenizer: Any, row: Record) -> tuple[Any, float, int]:
    """Return the gradient of the row's mean answer loss in B, the loss, and its tokens."""
    encoded = encode(tokenizer, row)
    logits = model(torch.tensor([encoded.ids])).logits[0]
    shares = logits[len(encoded.prompt_ids) - 1 : -1].log_softmax(-1)
    answer = torch.tensor(encoded.answer_ids)
    loss = -shares[torch.arange(len(answer)), answer].mean()
    matrices = [p for name, p in model.named_parameters() if ".lora_B." in name]
    parts = torch.autograd.grad(loss, matrices)
    return torch.cat([part.reshape(-1) for part in parts]), float(loss.detach()), len(answer)


def test_gradients_are_those_of_the_mean_loss_of_the_answer(model: Any, tokenizer: Any) -> None:
    found = row_gradients(model, tokenizer, ROWS)
    model.eval()
    for index, row in enumerate(ROWS):
        gradient, loss, tokens = by_hand(model, tokenizer, row)
        assert found.norms[index] == pytest.approx(float(gradient.norm()), rel=1e-4)
        assert found.losses[index] == pytest.approx(loss, rel=1e-5)
        assert found.tokens[index] == tokens
    first, second = (by_hand(model, tokenizer, row)[0] for row in ROWS[:2])
    sizes = float(first.norm() * second.norm())
    product = pytest.approx(float(first @ second), abs=0.1 * sizes)
    assert found.sketches[0] @ found.sketches[1] == product
    assert np.linalg.norm(found.sketches, axis=1) == pytest.approx(found.norms, rel=0.06)
    backwards = row_gradients(model, tokenizer, ROWS[::-1])
    assert np.allclose(found.sketches, backwards.sketches[::-1], atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_unchanged(model: Any, tokenizer: Any, training: bool) -> None:
    model.train(training)
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    values = {name: parameter.clone() for name, parameter in model.named_parameters()}
    state = torch.get_rng_state()
    done: list[int] = []
    first = row_gradients(model, tokenizer, ROWS, on_row=done.append)
    again = row_gradients(model, tokenizer, ROWS)
    assert np.array_equal(first.sketches, again.sketches)  # no dropout, though it is 0.5
    assert done == [1, 2, 3]
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad is required[name]
        assert torch.equal(parameter, values[name])


@pytest.mark.parametrize("embedding", [False, True])
def test_initial_weights_give_the_untrained_model(
    model: Any, base: Any, tokenizer: Any, embedding: bool
) -> None:
    """LoRA on the embedding is the paper's way to train the token."""
    another = word_tokenizer()
    plain = word_model(another)
    add_token(plain, another, "<sep>", init="normal")
    ids = torch.tensor([encode(tokenizer, ROWS[0]).ids])
    if embedding:
        targets = ["q_proj", "embed_tokens"]
        model = wrap(word_model_with_token(), target_modules=targets, ensure_weight_tying=True)
    model.eval()
    with torch.no_grad():
        trained = model(ids).logits
        with initial_weights(model):
            assert torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-5)
        assert not torch.allclose(trained, plain(ids).logits, atol=1e-2)
        assert torch.equal(model(ids).logits, trained)
        with pytest.raises(KeyError), initial_weights(model):
            raise KeyError
        assert torch.equal(model(ids).logits, trained)


def word_model_with_token() -> Any:
    tokenizer = word_tokenizer()
    model = word_model(tokenizer)
    add_token(model, tokenizer, "<sep>", init="normal")
    return model


def test_long_rows_are_truncated(model: Any, tokenizer: Any) -> None:
    prompt = len(encode(tokenizer, ROWS[0]).prompt_ids)
    cut = row_gradients(model, tokenizer, ROWS[:1], max_length=prompt + 2)
    assert cut.tokens.tolist() == [2]
    with pytest.raises(InputError, match="no answer within"):
        row_gradients(model, tokenizer, ROWS[:1], max_length=prompt)
    with pytest.raises(InputError, match="has no LoRA"):
        row_gradients(model.merge_and_unload(), tokenizer, ROWS)


# Projection


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_projection_is_linear_and_depends_on_its_seed() -> None:
    x, y = vectors(2, 5000)
    both = project([2 * x - y], 64)
    assert torch.allclose(both, 2 * project([x], 64) - project([y], 64), atol=1e-4)
    assert both.shape == (64,)
    state = torch.get_rng_state()
    assert torch.equal(project([x], seed=1), project([x], seed=1))
    assert not torch.equal(project([x], seed=1), project([x], seed=2))
    assert torch.equal(torch.get_rng_state(), state)


def test_each_coordinate_has_one_place_and_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    sketches = torch.stack([project([row], 16) for row in torch.eye(400)])
    assert ((sketches != 0).sum(1) == 1).all()
    assert set(sketches.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert sketches.abs().argmax(1).bincount(minlength=16).min() >= 10  # The mean is 25.
    assert abs(sketches.sum().item()) < 80  # Four standard deviations.
    monkeypatch.setattr(module, "_BLOCK", 100)
    alone = [project([torch.eye(300)[place]]) for place in (0, 100, 200)]
    second = [project([torch.zeros(1), torch.eye(300)[place]]) for place in (0, 100, 200)]
    assert len({int(sketch.abs().argmax()) for sketch in (*alone, *second)}) == 6


@pytest.mark.parametrize("dimensions", [256, 4096])
def test_errors_of_norms_and_inner_products(dimensions: int) -> None:
    """Vectors of known cosine; root mean square errors over 200 projections."""
    x, other = vectors(2, 2000, seed=3)
    x = x / x.norm()
    other = other - (other @ x) * x
    other = other / other.norm()
    seeds = range(200)
    projected = [[project([v], dimensions, seed=s) for v in (x, other)] for s in seeds]
    for cosine in (0.0, 0.6, -0.95):
        both = [(a, cosine * a + (1 - cosine**2) ** 0.5 * b) for a, b in projected]
        norms = torch.stack([a.norm() - 1 for a, _ in both])
        inner = torch.stack([a @ b - cosine for a, b in both])
        bound = ((1 + cosine**2) / dimensions) ** 0.5
        assert 0.7 * bound < inner.square().mean().sqrt() < 1.2 * bound
        assert abs(inner.mean()) < 4 * bound / 200**0.5  # Unbiased.
        of_norm = (1 / (2 * dimensions)) ** 0.5
        assert 0.8 * of_norm < norms.square().mean().sqrt() < 1.2 * of_norm


# Buffering

HOW = Resampling(resamples=400)
WIDTH = 512


def of(rows: Any, tokens: Any = None) -> RowGradients:
    array = np.asarray(rows, dtype=np.float64)
    count = np.ones(len(array)) if tokens is None else np.asarray(tokens, dtype=np.float64)
    return RowGradients(array, np.linalg.norm(array, axis=1), np.ones(len(array)), count)


def noise(rows: int, seed: int = 0) -> Any:
    """Return rows of about norm 1 in unrelated directions."""
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)) / WIDTH**0.5


def test_cancellation_by_hand() -> None:
    opposite = cancellation(of([[3, 0], [-3, 0], [0, 2], [0, -2]]), HOW)
    assert (opposite.rows, opposite.ratio) == (4, 0)
    parallel = cancellation(of([[1, 2], [2, 4], [5, 10]]), HOW)
    assert parallel.ratio == parallel.subsets[-1].mean == pytest.approx(1)
    assert parallel.shared is not None
    # Pairwise 5 * (2 + 5 + 10) / 3 over the squared mean norm 5 * (8 / 3) ** 2.
    assert parallel.shared.value == pytest.approx((17 / 3) / (8 / 3) ** 2)
    # Weighted by tokens: (1 * [4, 0] + 3 * [0, 1]) / 4 = [1, 0.75], and (4 + 3) / 4.
    weighted = cancellation(of([[4, 0], [0, 1]], tokens=[1, 3]), HOW)
    assert weighted.ratio == pytest.approx(1.25 / 1.75)
    # Both summands of the mean are orthogonal.
    assert weighted.subsets[-1].independent == pytest.approx(1.25 / 1.75)


def test_coverage_of_the_interval_of_the_shared_direction() -> None:
    """Of each row's squared length, a quarter is in one direction."""
    hits = 0
    for seed in range(60):
        result = cancellation(of(0.5 * np.eye(WIDTH)[0] + 0.75**0.5 * noise(60, seed)), HOW)
        assert result.shared is not None
        assert [subset.rows for subset in result.subsets] == [4, 16, 60]
        assert result.ratio == result.subsets[-1].mean > 1.5 * result.subsets[-1].independent
        hits += result.shared.low <= 0.25 <= result.shared.high
    assert hits >= 50


def test_the_mixture_is_compared_with_the_ideal_task() -> None:
    """By hand, in three directions: the ideal, a bias, and the pairs."""
    ideal, bias, pair = np.eye(3)
    groups = {
        "task": of([ideal, ideal]),
        "common": of([ideal + bias, ideal + bias]),
        "pairs": of([pair, pair, pair, pair]),
        "held_out": of([ideal, ideal, ideal]),
    }
    result = cosines(groups, ratio=2, how=HOW)
    values = {name: estimate.value for name, estimate in result.groups.items()}
    assert values == pytest.approx(
        {
            "task": 1,
            "common": 1 / math.sqrt(2),
            "pairs": 0,
            # Two pairs per row: 1 of the ideal direction and 2 of the pairs' direction.
            "mixture": 1 / math.sqrt(5),
            "common_mixture": 1 / math.sqrt(6),
        }
    )
    assert result.subsets == pytest.approx((0, 0, 0))
    assert result.halves == pytest.approx(1)
    assert result.groups["mixture"].rows == 6
    one = of([[1.0, 0.0]])
    alone = cosines({"task": one, "pairs": one, "held_out": one}, ratio=1, how=HOW)
    assert alone.halves is None
    assert "common" not in alone.groups


def test_pairs_can_outweigh_a_bias() -> None:
    """The paper's claim, planted: the pairs contain the ideal direction and no bias."""
    ideal, bias = np.eye(WIDTH)[:2]
    groups = {
        "task": of(ideal + 2 * bias + 0.3 * noise(40, 1)),
        "pairs": of(0.5 * ideal + noise(300, 2)),
        "held_out": of(ideal + 0.3 * noise(40, 3)),
    }
    result = cosines(groups, ratio=20, how=HOW)
    task, mixture = result.groups["task"], result.groups["mixture"]
    assert task.high < 0.6 < mixture.low
    assert result.subsets[0] < result.subsets[1] < result.subsets[2]
    assert result.halves is not None
    assert result.halves > 0.95
    assert cosines(groups, ratio=0, how=HOW).groups["mixture"].value == pytest.approx(task.value)


def test_gradients_that_shrink_with_similarity() -> None:
    """Claim 2, planted: the more similar to the task, the smaller after training."""
    similarity = np.linspace(0, 1, 40)
    old = of(noise(40))
    factor = np.exp(1 - 2 * similarity)
    new = RowGradients(old.sketches * factor[:, None], old.norms * factor, old.losses, old.tokens)
    others = {"task": of(noise(8, 2)), "held_out": of(noise(8, 3))}
    gradients = {"before": {"pairs": old, **others}, "after": {"pairs": new, **others}}
    result = measure_buffering(gradients, similarity, ratio=1, how=HOW)  # type: ignore[arg-type]
    change = result.norms["change"]
    assert change.plain is not None
    assert change.plain.value == pytest.approx(-1)
    assert result.pairs[0].after == pytest.approx(result.pairs[0].before * np.e)


@pytest.mark.parametrize(
    ("left", "right", "value"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 400], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # Ranks 1 2.5 2.5 4 and 1 2 3 4: 4.5 / sqrt(4.5 * 5).
        ([5, 7, 7, 9], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),
        ([1, 2, 3], [2, 1, 3], 0.5),
        ([1, 1, 1, 1], [1, 2, 3, 4], None),
    ],
)
def test_rank_correlation_by_hand(
    left: list[float], right: list[float], value: float | None
) -> None:
    result = rank_correlation(left, right, [1.0] * len(left), HOW)
    for estimate in (result.plain, result.given_length):  # Constant lengths explain nothing.
        assert (estimate and estimate.value) == (value and pytest.approx(value))


def test_correlation_given_the_lengths() -> None:
    """Both sides depend on the length only: correlated, but not given the length."""
    draw = np.random.default_rng(0)
    lengths = draw.permutation(400) + 1.0
    left, right = (lengths + draw.normal(scale=40, size=400) for _ in range(2))
    result = rank_correlation(left, right, lengths, HOW)
    assert result.plain is not None
    assert result.given_length is not None
    assert result.plain.low > 0.8
    assert result.given_length.low < 0 < result.given_length.high
    assert rank_correlation(lengths, right, lengths, HOW).given_length is None


@pytest.mark.parametrize(
    ("rows", "message"), [(np.zeros((3, 4)), "are zero"), ([[1.0, math.nan]], "not finite")]
)
def test_gradients_without_information(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        of(rows).check()
