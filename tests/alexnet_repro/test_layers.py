"""Layers and steps against their formulas, as plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_repro.config import NormConfig, TrainConfig
from alexnet_repro.model import AlexNet, initialise, response_norm
from alexnet_repro.model.layers import Dropout, LocalConv2d
from alexnet_repro.model.response_norm import SameMapNorm
from data_prep.common.cli import load


def same_map_by_loops(x: np.ndarray, n: int, alpha: float, beta: float, k: float) -> np.ndarray:
    y = np.empty_like(x)
    height, width = x.shape[2:]
    for r in range(height):
        for c in range(width):
            window = x[:, :, max(0, r - n // 2) : r + n // 2 + 1, max(0, c - n // 2) : c + n // 2 + 1]
            y[:, :, r, c] = x[:, :, r, c] * (k + alpha * (window**2).sum((2, 3))) ** -beta
    return y


@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    size=st.sampled_from([1, 5]),
    scale=st.sampled_from([1e-30, 1.0, 100.0, 1e12]),
    channels_last=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    plain=st.booleans(),
    seed=st.integers(0, 99),
)
def test_same_map_norm_is_the_formula_and_its_gradient(
    shape: tuple[int, ...], size: int, scale: float, channels_last: bool, dtype: torch.dtype, plain: bool, seed: int
) -> None:
    """Tolerances: a few roundings; for bfloat16 the last one alone, to 8 bits. `plain`: as on other devices. The
    gradient is a difference of two terms, so its error is relative to the larger, the output's at most.
    """
    rng = np.random.default_rng(seed)
    x, grad = (torch.from_numpy(rng.normal(size=shape) * by).to(dtype) for by in (scale, 1.0))
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    x.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(response_norm, "_cpu_norms", lambda x: None)
        y = SameMapNorm(NormConfig(size, 1e-3 / 25, 0.75, 1.0))(x)
        y.backward(grad)
    assert x.grad is not None and x.grad.dtype == y.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2**-8}[dtype]
    expected = same_map_by_loops(x.detach().double().numpy(), size, 1e-3 / 25, 0.75, 1.0)
    np.testing.assert_allclose(y.detach().double().numpy(), expected, rtol=tolerance)
    wide = x.detach().double().contiguous().requires_grad_()
    sums = torch.nn.functional.avg_pool2d(wide**2, size, 1, size // 2, divisor_override=1)
    (wide * (1.0 + 1e-3 / 25 * sums) ** -0.75).backward(grad.double())
    assert wide.grad is not None
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=tolerance, atol=3 * tolerance)


def test_same_map_norm_of_huge_values() -> None:
    huge = torch.full((1, 1, 3, 3), 1e30, requires_grad=True)
    SameMapNorm(NormConfig(5, 4e-5, 0.75, 1.0))(huge).sum().backward()
    assert torch.isfinite(huge.grad).all()  # type: ignore[arg-type]
    assert "alpha=0.1" in repr(SameMapNorm(NormConfig(5, 0.1, 0.75, 1.0)))


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


def test_rescaled_dropout_is_that_of_pytorch() -> None:
    """With the same masks, in training and at test."""
    ours, theirs, x = Dropout(0.25, rescaled=True), torch.nn.Dropout(0.25), torch.rand(40, 50) + 1
    torch.manual_seed(3)
    y = ours(x)
    torch.manual_seed(3)
    torch.testing.assert_close(y, theirs(x))
    assert torch.equal(ours.eval()(x), x)


def test_pooling_rounded_down_leaves_out_the_last_window() -> None:
    net = AlexNet.from_config("paper", 3, input_size=71, width=0.125, conv1={"then": ["activation", "floor_pool"]})
    assert net.conv1.then[0][-1](torch.zeros(1, 1, 16, 16)).shape == (1, 1, 7, 7)
    assert net.conv2.map_shape == (16, 7, 7) and net(torch.zeros(1, 3, 71, 71)).shape == (1, 3)


def test_a_locally_connected_layer_is_one_kernel_a_place() -> None:
    """Place by place in numpy, float64: 1e-12. Catches places or kernels in another order than the weights say."""
    rng = np.random.default_rng(0)
    layer = LocalConv2d(channels=3, kernels=4, size=3, padding=1, side=5).double()
    x = rng.normal(size=(2, 3, 5, 5))
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.empty((2, 4, 5, 5))
    for place, (row, column) in enumerate(np.ndindex(5, 5)):
        window = padded[:, :, row : row + 3, column : column + 3].transpose(0, 2, 3, 1).reshape(2, -1)
        expected[:, :, row, column] = window @ weight[place] + bias[place]
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-12)
    bound = 27**-0.5  # as torch.nn.Conv2d draws weights and biases
    for drawn in (weight, bias):
        assert 0.8 * bound < drawn.max() <= bound and -bound <= drawn.min() < -0.8 * bound


def test_the_cifar10_nets_pool_as_their_code_did() -> None:
    """Rounded up, and the mean over what lies inside the map: of the last window of 6, over 2 places, not 3."""
    net = AlexNet(load("train", TrainConfig, ["model=cifar10"]).model, classes=10)
    mean_pool = net.conv2.then[0][-1]
    x = torch.arange(6.0).expand(1, 1, 6, 6)
    assert mean_pool(x)[0, 0, 0].tolist() == [1.0, 3.0, 4.5]
    assert [tuple(layer.parts()[0].weight.shape) for layer in net.layers().values()] == [
        (32, 3, 5, 5), (32, 32, 5, 5), (64, 32, 5, 5), (10, 1024),
    ]  # fmt: skip


def test_a_narrower_network_keeps_the_size_of_its_sums() -> None:
    """A quarter of the kernels and units, and after conv1 weights of twice the spread."""
    whole, narrow = (
        initialise(AlexNet(load("train", TrainConfig, [f"model.width={width}"]).model, classes=10), seed=0)
        for width in (1.0, 0.25)
    )
    for (name, layer), thin in zip(whole.layers().items(), narrow.layers().values(), strict=True):
        weight, thin_weight = layer.parts()[0].weight, thin.parts()[0].weight
        assert len(thin_weight) == (10 if name == "fc8" else len(weight) // 4), name
        spread = 1.0 if name == "conv1" else 2.0
        assert thin_weight.std().item() / weight.std().item() == pytest.approx(spread, rel=0.05), name
