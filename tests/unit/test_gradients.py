"""Gradients of rows on a tiny random model with LoRA, their projection, and the buffering effect.

The buffering effect is tested with planted gradients.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from word_models import word_model, word_tokenizer

from delia_data.errors import InputError
from delia_data.evaluation import gradients as module
from delia_data.evaluation.bootstrap import Resampling, rank_correlation
from delia_data.evaluation.gradients import (
    Projection,
    RowGradients,
    cancellation,
    cosines,
    initial_weights,
    lora_b_matrices,
    measure_buffering,
    read_gradients,
    row_gradients,
    task_similarity,
)
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
    """Return LoRA with dropout and the token's row, both changed as by a training."""
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
    """Return the gradient of the row's mean answer loss in B, the loss, and its tokens."""
    encoded = encode(tokenizer, row)
    logits = model(torch.tensor([encoded.ids])).logits[0]
    shares = logits[len(encoded.prompt_ids) - 1 : -1].log_softmax(-1)
    answer = torch.tensor(encoded.answer_ids)
    loss = -shares[torch.arange(len(answer)), answer].mean()
    matrices = list(lora_b_matrices(model).values())
    parts = torch.autograd.grad(loss, matrices)
    return torch.cat([part.reshape(-1) for part in parts]), float(loss.detach()), len(answer)


def test_gradients_are_those_of_the_mean_loss_of_the_answer(model: Any, tokenizer: Any) -> None:
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


def test_a_gradient_does_not_depend_on_other_rows(model: Any, tokenizer: Any) -> None:
    together = row_gradients(model, tokenizer, ROWS, PROJECTION)
    backwards = row_gradients(model, tokenizer, ROWS[::-1], PROJECTION)
    assert np.allclose(together.sketches, backwards.sketches[::-1], atol=1e-6)
    assert together.norms == pytest.approx(backwards.norms[::-1])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_unchanged(model: Any, tokenizer: Any, training: bool) -> None:
    model.train(training)
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
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
        assert parameter.requires_grad is required[name]
        assert torch.equal(parameter, values[name])


def test_initial_weights_give_the_untrained_model(model: Any, base: Any, tokenizer: Any) -> None:
    ids = torch.tensor([encode(tokenizer, ROWS[0]).ids])
    another = word_tokenizer()
    plain = word_model(another)
    add_token(plain, another, "<sep>", init="normal")
    model.eval()
    with torch.no_grad():
        trained = model(ids).logits
        with initial_weights(model):
            begun = model(ids).logits
        assert torch.allclose(begun, plain(ids).logits, atol=1e-5)
        assert not torch.allclose(begun, trained, atol=1e-2)
        assert torch.equal(model(ids).logits, trained)


def test_lora_on_the_embedding_is_reset_too(base: Any, tokenizer: Any) -> None:
    """The paper's code trains the token this way."""
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
        with initial_weights(wrapped):
            begun = wrapped(ids).logits
        assert torch.allclose(begun, plain, atol=1e-5)
        assert not torch.allclose(trained, plain, atol=1e-2)
        assert torch.equal(wrapped(ids).logits, trained)


def test_trained_weights_are_restored_after_an_error(model: Any) -> None:
    values = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(KeyError), initial_weights(model):
        raise KeyError
    assert all(torch.equal(p, values[name]) for name, p in model.named_parameters())


def test_initially_only_b_has_gradients(model: Any, tokenizer: Any) -> None:
    """The gradient of A is zero at the start of a training, so that of B is compared."""
    with initial_weights(model):
        encoded = encode(tokenizer, ROWS[0])
        ids = torch.tensor([encoded.ids])
        model.eval()
        loss = model(ids, labels=ids).loss
        matrices = [p for name, p in model.named_parameters() if ".lora_A." in name]
        assert matrices
        assert not any(g.any() for g in torch.autograd.grad(loss, matrices))
        found = row_gradients(model, tokenizer, ROWS, PROJECTION)
    assert (found.norms > 0.01).all()


def test_long_rows_are_truncated(model: Any, tokenizer: Any) -> None:
    prompt = len(encode(tokenizer, ROWS[0]).prompt_ids)
    cut = row_gradients(model, tokenizer, ROWS[:1], PROJECTION, max_length=prompt + 2)
    assert cut.tokens.tolist() == [2]
    with pytest.raises(InputError, match="no answer within"):
        row_gradients(model, tokenizer, ROWS[:1], PROJECTION, max_length=prompt)


def test_rows_or_models_without_gradients(model: Any, base: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="no rows"):
        row_gradients(model, tokenizer, [], PROJECTION)
    merged = model.merge_and_unload()
    with pytest.raises(InputError, match="has no LoRA"):
        row_gradients(merged, tokenizer, ROWS, PROJECTION)


# Projection


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_projection_is_linear() -> None:
    project = Projection(64)
    x, y = vectors(2, 5000)
    both = project([2 * x - y])
    assert torch.allclose(both, 2 * project([x]) - project([y]), atol=1e-4)
    assert both.shape == (64,)
    assert not project([torch.zeros(100)]).any()


def test_each_coordinate_has_one_place_and_a_sign() -> None:
    project = Projection(16)
    sketches = torch.stack([project([row]) for row in torch.eye(400)])
    assert ((sketches != 0).sum(1) == 1).all()
    assert set(sketches.unique().tolist()) == {-1.0, 0.0, 1.0}
    places = sketches.abs().argmax(1).bincount(minlength=16)
    assert places.min() >= 10  # The mean is 25.
    assert abs(sketches.sum().item()) < 80  # Four standard deviations.


def test_equal_seeds_give_equal_projections() -> None:
    x = vectors(3000)
    state = torch.get_rng_state()
    assert torch.equal(Projection(256, seed=1)([x]), Projection(256, seed=1)([x]))
    assert not torch.equal(Projection(256, seed=1)([x]), Projection(256, seed=2)([x]))
    assert torch.equal(torch.get_rng_state(), state)


def test_parts_and_blocks_have_different_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 100)
    one = torch.zeros(300)
    project = Projection(4096)
    sketches = []
    for place in (0, 100, 200):
        one.zero_()[place] = 1
        sketches.append(project([one]))
        sketches.append(project([torch.zeros(1), one.reshape(3, 100)]))
    assert len({int(s.abs().argmax()) for s in sketches}) == len(sketches)


@pytest.mark.parametrize("dimensions", [256, 4096])
def test_errors_of_norms_and_inner_products(dimensions: int) -> None:
    """Vectors of known cosine; root mean square errors over 200 projections."""
    x, other = vectors(2, 2000, seed=3)
    x = x / x.norm()
    other = other - (other @ x) * x
    other = other / other.norm()
    projected = [
        (project([x]), project([other]))
        for project in (Projection(dimensions, seed=seed) for seed in range(200))
    ]
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


def test_opposite_gradients_cancel() -> None:
    result = cancellation(of([[3, 0], [-3, 0], [0, 2], [0, -2]]), HOW)
    assert result.rows == 4
    assert result.norm_of_mean == pytest.approx(0)
    assert result.mean_of_norms == pytest.approx(2.5)
    assert result.ratio == pytest.approx(0)


def test_gradients_of_one_direction_do_not_cancel() -> None:
    result = cancellation(of([[1, 2], [2, 4], [5, 10]]), HOW)
    assert result.ratio == pytest.approx(1)
    assert result.subsets[-1].mean == pytest.approx(1)
    assert result.shared is not None
    # Pairwise 5 * (2 + 5 + 10) / 3 over the squared mean norm 5 * (8 / 3) ** 2.
    assert result.shared.value == pytest.approx((17 / 3) / (8 / 3) ** 2)


def test_rows_are_weighted_by_their_tokens() -> None:
    """By hand: (1 * [4, 0] + 3 * [0, 1]) / 4 = [1, 0.75], and (4 + 3) / 4 the mean norm."""
    result = cancellation(of([[4, 0], [0, 1]], tokens=[1, 3]), HOW)
    assert result.norm_of_mean == pytest.approx(1.25)
    assert result.mean_of_norms == pytest.approx(1.75)
    # Both summands of the mean are orthogonal.
    assert result.subsets[-1].independent == pytest.approx(1.25 / 1.75)


def test_unrelated_gradients_decrease_with_the_root_of_the_rows() -> None:
    result = cancellation(of(noise(256)), HOW)
    assert [subset.rows for subset in result.subsets] == [4, 16, 64, 256]
    for subset in result.subsets:
        assert subset.mean == pytest.approx(subset.rows**-0.5, rel=0.1)
        assert subset.independent == pytest.approx(subset.rows**-0.5, rel=0.05)
        assert subset.low <= subset.mean <= subset.high
    assert result.ratio == result.subsets[-1].mean
    assert result.shared is not None
    assert result.shared.low < 0 < result.shared.high
    assert abs(result.shared.value) < 0.002


@pytest.mark.parametrize("part", [0.3, 0.8])
def test_a_shared_direction_in_noise(part: float) -> None:
    """Of each row's squared length, a share of `part ** 2` is in one direction."""
    direction = np.zeros(WIDTH)
    direction[0] = 1
    rows = part * direction + (1 - part**2) ** 0.5 * noise(200)
    result = cancellation(of(rows), HOW)
    assert result.shared is not None
    assert result.shared.value == pytest.approx(part**2, rel=0.1)
    assert 0 < result.shared.low < part**2 < result.shared.high
    assert result.ratio > 1.5 * result.subsets[-1].independent


def test_coverage_of_the_interval_of_the_shared_direction() -> None:
    hits = 0
    for seed in range(60):
        rows = 0.5 * np.eye(WIDTH)[0] + 0.75**0.5 * noise(60, seed)
        shared = cancellation(of(rows), HOW).shared
        assert shared is not None
        hits += shared.low <= 0.25 <= shared.high
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


def test_one_held_out_row_has_no_halves() -> None:
    one = of([[1.0, 0.0]])
    result = cosines({"task": one, "pairs": one, "held_out": one}, ratio=1, how=HOW)
    assert result.halves is None
    assert "common" not in result.groups


def test_gradients_that_shrink_with_similarity() -> None:
    """Claim 2, planted: the more similar to the task, the smaller after training."""
    similarity = np.linspace(0, 1, 40)
    old = of(noise(40))
    factor = np.exp(1 - 2 * similarity)
    new = RowGradients(old.sketches * factor[:, None], old.norms * factor, old.losses, old.tokens)
    others = {"task": of(noise(8, 2)), "held_out": of(noise(8, 3))}
    result = measure_buffering(
        {"before": {"pairs": old, **others}, "after": {"pairs": new, **others}},
        similarity,
        ratio=1,
        how=HOW,
    )
    change = result.norms["change"]
    assert change.plain is not None
    assert change.plain.value == pytest.approx(-1)
    assert result.pairs[0].after == pytest.approx(result.pairs[0].before * np.e)
    assert result.projection_error == pytest.approx(0, abs=1e-12)


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


def test_similarity_is_the_mean_cosine_to_the_task() -> None:
    known = {"q1\na1": [1.0, 0.0], "q2\na2": [0.0, 1.0], "p\nx": [0.6, 0.8], "r\ny": [-1.0, 0.0]}
    similarity = task_similarity(
        [Record.pair("p", "x"), Record.pair("r", "y")],
        [Record.pair("q1", "a1"), Record.pair("q2", "a2")],
        lambda texts: np.asarray([known[text] for text in texts], dtype=np.float32),
    )
    assert similarity == pytest.approx([0.7, -0.5])


def test_gradients_are_saved_to_a_file(tmp_path: Path) -> None:
    made = of(noise(3), tokens=[1, 2, 3])
    made.save(tmp_path / "g.npz")
    read = read_gradients(tmp_path / "g.npz")
    assert len(read) == 3
    for name in ("sketches", "norms", "losses", "tokens"):
        assert np.array_equal(getattr(read, name), getattr(made, name))
    assert [path.name for path in tmp_path.iterdir()] == ["g.npz"]


def test_gradients_without_information() -> None:
    with pytest.raises(InputError, match="all gradients are zero"):
        cancellation(of(np.zeros((3, 4))), HOW)
    with pytest.raises(InputError, match="not finite"):
        cancellation(of([[1.0, math.nan]]), HOW)
    with pytest.raises(InputError, match="no gradients: measure"):
        cancellation(of(np.zeros((0, 4))), HOW)
    one = of([[1.0, 2.0]])
    with pytest.raises(InputError, match="no gradients of held_out, pairs"):
        cosines({"task": one}, ratio=1, how=HOW)
    with pytest.raises(InputError, match="ratio -1"):
        cosines({"task": one, "pairs": one, "held_out": one}, ratio=-1, how=HOW)
    for lengths in ([1, 2], [1, 2, 3]):
        with pytest.raises(InputError, match="at least 3"):
            rank_correlation([1, 2], [1, 2], lengths, HOW)
    with pytest.raises(InputError, match="0 pairs"):
        task_similarity([], [Record.pair("a", "b")], lambda texts: np.ones((1, 2)))


def test_groups_that_do_not_match() -> None:
    groups = {name: of(noise(8, seed)) for seed, name in enumerate(("pairs", "task", "held_out"))}
    fewer = {**groups, "task": of(noise(5))}
    with pytest.raises(InputError, match="measure the same rows"):
        measure_buffering({"before": groups, "after": fewer}, [0.1] * 8, ratio=1, how=HOW)
    with pytest.raises(InputError, match="7 pairs have a similarity"):
        measure_buffering({"before": groups, "after": groups}, [0.1] * 7, ratio=1, how=HOW)
