"""The kernels of fused.py, fused_same_map.py and fused_input.py on a GPU, against PyTorch's own in float64."""

import numpy as np
import pytest
import torch
from forms import CASES, conv_steps, error, run_steps

from alexnet_repro.config import NormConfig
from alexnet_repro.data import ColourNoise, Draws, InputRule, InputTransform
from alexnet_repro.model import fused
from alexnet_repro.model.response_norm import SameMapNorm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda", 0)
SHAPES = [(3, 96, 55, 55)] * 2 + [(3, 256, 27, 27)] + [(3, 256, 13, 13)] * 4 + [(2, 40, 12, 13)] * 3


@pytest.mark.parametrize(("case", "shape"), list(zip(CASES, SHAPES, strict=True)), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_follows_a_convolution_in_one_kernel(
    case: dict, shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 rounds what is written by 2^-9, 2e-3 in the mean of many. In float32 the error is 1e-7 in the maps; in a
    gradient it may be a few 1e-3, where two places of a window are equal to the last bit and the other one is taken.
    Few programs, so that each takes many tiles.
    """
    monkeypatch.setattr(fused, "_PROGRAMS", 9)
    for pieces in {1, case["groups"]}:
        ours, theirs = run_steps(conv_steps, case, pieces, dtype, GPU, shape)
        assert error(ours["maps"], theirs["maps"]) < (1e-6 if dtype == torch.float32 else 3e-3)
        for name in ("gradient", "of the bias"):
            assert error(ours[name], theirs[name]) < 5e-3, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_map_normalisation(dtype: torch.dtype) -> None:
    """Both forms, channels-last: PyTorch's own gradient of a padded mean pooling is wrong there in some versions."""
    from alexnet_repro.model.fused_same_map import same_map_norm

    norm = NormConfig(5, 4e-5, 0.75, 1.0)
    x = (torch.randn(3, 256, 27, 27, device=GPU) * 60).to(dtype).to(memory_format=torch.channels_last)
    grad = torch.randn_like(x)
    found = []
    for form in (lambda a: same_map_norm(a, norm), SameMapNorm(norm)):
        a = x.detach().requires_grad_()
        out = form(a)
        out.backward(grad)
        found.append((out, a.grad))
    on_cpu = x.cpu().double().contiguous().requires_grad_()
    expected = SameMapNorm(norm)(on_cpu)
    expected.backward(grad.cpu().double())
    for out, gradient in found:
        assert error(out.cpu(), expected) < (1e-6 if dtype == torch.float32 else 3e-3)
        assert error(gradient.cpu(), on_cpu.grad) < (1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("mean", ["at_patch", "centre"])
@pytest.mark.parametrize("noise", [True, False])
def test_the_input_is_the_plain_one(mean: str, noise: bool) -> None:
    """To the bit but for the colour noise, whose sum of three the compiler may round otherwise: 1e-4 of 255."""
    from alexnet_repro.data.fused_input import FusedInputTransform
    from alexnet_repro.model.fast_weights import InputLayout

    rng = np.random.default_rng(0)
    whole = torch.randint(0, 256, (8, 256, 256, 3), dtype=torch.uint8, device=GPU)
    top, left = torch.randint(0, 33, (2, 8), device=GPU)
    mirror = torch.rand(8, device=GPU) < 0.5
    places = zip(whole, top.tolist(), left.tolist(), strict=True)
    patches = torch.stack([image[t : t + 224, c : c + 224] for image, t, c in places])
    rule = InputRule(rng.random((256, 256, 3)).astype(np.float32) * 255, 224, mean, 1.0)
    colour_noise = ColourNoise(rng.standard_normal((3, 3)).astype(np.float32) * 50, 1.1)
    draws = Draws(top, left, mirror, torch.randn(8, 3, device=GPU) * 0.1 if noise else None)
    plain = InputTransform(rule, colour_noise, GPU, False)(patches, draws)
    padded = torch.nn.functional.pad(plain, (0, 4, 0, 4))
    expected = padded.reshape(8, 3, 57, 4, 57, 4).permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
    transform = FusedInputTransform(rule, colour_noise, GPU, InputLayout(4, 57, 48), torch.float32)
    for images in (patches, whole):
        found = transform(images, draws)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if noise else 0)
