"""Response normalisation, same-map normalisation and dropout against the printed formulas, as plain loops."""

import numpy as np
import pytest
import torch

from alexnet_repro.config import NormConfig
from alexnet_repro.model.layers import Dropout, ResponseNorm, SameMapNorm


def response_norm_by_loops(a: np.ndarray, n: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """b^i = a^i / (k + alpha sum_{j=max(0,i-n/2)}^{min(N-1,i+n/2)} (a^j)^2)^beta, section 3.3."""
    b = np.empty_like(a)
    maps = a.shape[1]
    for i in range(maps):
        low, high = max(0, i - n // 2), min(maps - 1, i + n // 2)
        b[:, i] = a[:, i] / (k + alpha * (a[:, low : high + 1] ** 2).sum(1)) ** beta
    return b


def same_map_by_loops(x: np.ndarray, n: int, alpha: float, beta: float, k: float) -> np.ndarray:
    y = np.empty_like(x)
    height, width = x.shape[2:]
    for r in range(height):
        for c in range(width):
            window = x[:, :, max(0, r - n // 2) : r + n // 2 + 1, max(0, c - n // 2) : c + n // 2 + 1]
            y[:, :, r, c] = x[:, :, r, c] * (k + alpha * (window**2).sum((2, 3))) ** -beta
    return y


@pytest.mark.parametrize("shape", [(2, 7, 3, 5), (1, 1, 1, 1), (3, 2, 4, 1), (1, 96, 5, 5), (70, 4, 33, 33)])
@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_response_norm_is_the_formula(shape: tuple[int, ...], beta: float) -> None:
    config = NormConfig(size=5, alpha=1e-2, beta=beta, k=2.0)
    a = np.random.default_rng(0).normal(size=shape) * 30
    b = ResponseNorm(config)(torch.from_numpy(a))
    np.testing.assert_allclose(b.numpy(), response_norm_by_loops(a, 5, 1e-2, beta, 2.0), rtol=1e-12)


def test_response_norm_against_torch_with_its_other_alpha() -> None:
    a = torch.randn(3, 20, 6, 6, requires_grad=True)
    ours = ResponseNorm(NormConfig(5, 1e-4, 0.75, 2.0))(a * 100)
    theirs = torch.nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)(a * 100)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_gradients_of_the_norms(beta: float) -> None:
    a = (torch.randn(2, 7, 3, 4, dtype=torch.float64) * 3).requires_grad_()
    config = NormConfig(5, 0.1, beta, 2.0)
    assert torch.autograd.gradcheck(ResponseNorm(config), (a,))
    strided = (torch.randn(2, 3, 4, 7, dtype=torch.float64)).permute(0, 3, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(ResponseNorm(config), (strided,))
    assert torch.autograd.gradcheck(SameMapNorm(config), (a,))


def test_same_map_norm_is_the_formula() -> None:
    x = np.random.default_rng(1).normal(size=(2, 3, 6, 9)) * 20
    y = SameMapNorm(NormConfig(5, 1e-3 / 25, 0.75, 1.0))(torch.from_numpy(x))
    np.testing.assert_allclose(y.numpy(), same_map_by_loops(x, 5, 1e-3 / 25, 0.75, 1.0), rtol=1e-12)


def test_dropout_does_not_rescale_in_training_and_halves_at_test() -> None:
    layer = Dropout(0.5)
    x = torch.rand(400, 500) + 1
    layer.reseed(3)
    y = layer(x)
    kept = y != 0
    assert torch.equal(y[kept], x[kept])
    assert abs(kept.float().mean() - 0.5) < 0.005  # 4.5 standard deviations of 200,000 coins
    layer.reseed(3)
    assert torch.equal(layer(x), y)
    assert not torch.equal(layer(x), y)
    layer.eval()
    assert torch.equal(layer(x), x * 0.5)
