"""The projection: linear, seeded, and as exact as its docstring says."""

from __future__ import annotations

import pytest

from delia_data.errors import InputError
from delia_data.evaluation import gradients as module
from delia_data.evaluation.gradients import Projection

torch = pytest.importorskip("torch")


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_linear() -> None:
    project = Projection(64)
    x, y = vectors(2, 5000)
    both = project([2 * x - y])
    assert torch.allclose(both, 2 * project([x]) - project([y]), atol=1e-4)
    assert both.shape == (64,)
    assert not project([torch.zeros(100)]).any()


def test_a_coordinate_goes_to_one_place_with_a_sign() -> None:
    project = Projection(16)
    sketches = torch.stack([project([row]) for row in torch.eye(400)])
    assert ((sketches != 0).sum(1) == 1).all()
    assert set(sketches.unique().tolist()) == {-1.0, 0.0, 1.0}
    places = sketches.abs().argmax(1).bincount(minlength=16)
    assert places.min() >= 10  # 25 each
    assert abs(sketches.sum().item()) < 80  # four standard deviations


def test_equal_seeds_give_equal_maps_and_others_do_not() -> None:
    x = vectors(3000)
    state = torch.get_rng_state()
    assert torch.equal(Projection(256, seed=1)([x]), Projection(256, seed=1)([x]))
    assert not torch.equal(Projection(256, seed=1)([x]), Projection(256, seed=2)([x]))
    assert torch.equal(torch.get_rng_state(), state)


def test_parts_and_blocks_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of ones must not be added to the same places as the part before it, nor a block."""
    monkeypatch.setattr(module, "_BLOCK", 100)
    one = torch.zeros(300)
    project = Projection(4096)
    sketches = []
    for place in (0, 100, 200):
        one.zero_()[place] = 1
        sketches.append(project([one]))
        sketches.append(project([torch.zeros(1), one.reshape(3, 100)]))
    assert len({int(s.abs().argmax()) for s in sketches}) == len(sketches)


@pytest.mark.parametrize("dimensions", [256, 1024, 4096])
def test_norms_and_inner_products_are_off_by_what_is_stated(dimensions: int) -> None:
    """Planted pairs of known cosine; root mean square errors over 200 maps."""
    x, other = vectors(2, 2000, seed=3)
    x = x / x.norm()
    other = other - (other @ x) * x
    other = other / other.norm()
    for cosine in (0.0, 0.6, -0.95):
        y = cosine * x + (1 - cosine**2) ** 0.5 * other
        norms, inner = [], []
        for seed in range(200):
            project = Projection(dimensions, seed=seed)
            a, b = project([x]), project([y])
            norms.append(float(a.norm()) - 1)
            inner.append(float(a @ b) - cosine)
        bound = ((1 + cosine**2) / dimensions) ** 0.5
        assert 0.7 * bound < torch.tensor(inner).square().mean().sqrt() < 1.2 * bound
        assert abs(torch.tensor(inner).mean()) < 4 * bound / 200**0.5  # unbiased
        of_norm = (1 / (2 * dimensions)) ** 0.5
        assert 0.8 * of_norm < torch.tensor(norms).square().mean().sqrt() < 1.2 * of_norm


def test_few_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="give thousands"):
        Projection(1)
