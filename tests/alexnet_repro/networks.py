"""Networks for the tests: the real configuration, the paper's geometry in narrow float64, and weights that let every
pixel count.
"""

from collections.abc import Callable

import numpy as np
import torch
from packaging.version import Version

from alexnet_repro.config import ModelConfig, TrainConfig
from alexnet_repro.model import AlexNet
from data_prep.common.cli import load

SMALL_MODEL = [
    f"model.{key}"
    for key in (
        "input_size=67",
        "conv1.kernels=8",
        "conv2.kernels=12",
        "conv3.kernels=16",
        "conv4.kernels=8",
        "conv5.kernels=12",
        "fc6.units=20",
        "fc7.units=24",
    )
]

# For conftest's SMALL: initial weights that pass on as much of a picture as they get, N(0, 2 / inputs), and no biases.
_INPUTS = {"conv1": 363, "conv2": 100, "conv3": 144, "conv4": 72, "conv5": 72, "fc6": 16, "fc7": 32, "fc8": 32}
SENSITIVE_START = [
    *(f"model.{layer}.weight_std={(2 / inputs) ** 0.5}" for layer, inputs in _INPUTS.items()),
    *(f"model.{layer}.bias=0" for layer in ("conv2", "conv4", "conv5", "fc6", "fc7")),
]


# The compiler of older ones fails with "unsafe constant" where it has to stop within zip(..., strict=True).
COMPILES = Version(torch.__version__) >= Version("2.10")


def model_config(*overrides: str) -> ModelConfig:
    return load("train", TrainConfig, list(overrides)).model


def small(*overrides: str) -> AlexNet:
    """Narrow, sensitive, and in float64; every weight and bias random, so that nothing cancels."""
    return sensitive(AlexNet(model_config(*SMALL_MODEL, *overrides), classes=7).double())


@torch.no_grad()
def sensitive(model: AlexNet) -> AlexNet:
    """The same network with weights that pass on as much of a picture as they get, N(0, 2 / inputs), small biases, and
    logits that lie about 2 apart.

    The initial weights of section 5 give every picture the same answer: against biases of 1 their maps are nothing, and
    a wrong mean, mirroring, place or order stays below every tolerance.
    """
    generator = torch.Generator().manual_seed(0)
    for layer in model.layers().values():
        for part in layer.parts():
            scales = ((2 / part.weight[0].numel()) ** 0.5, 0.1)
            for parameter, scale in zip((part.weight, part.bias), scales, strict=True):
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)
    side, channels = model.config.input_size, model.conv1.parts()[0].weight.shape[1]
    noise = torch.rand(16, channels, side, side, generator=generator, dtype=torch.float64) * 255 - 127.5
    was_training = model.training
    logits = model.eval()(noise.to(model.conv1.parts()[0].weight.dtype))
    model.train(was_training)
    for parameter in model.fc8.parameters():
        parameter.mul_(2 / logits.std())
    return model


Answer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # uint8 [N, S, S, C], mean float [S, S, C] -> [N, classes]


def assert_sensitive(answer: Answer, images: np.ndarray, mean: np.ndarray, tolerance: float) -> None:
    """A comparison to within `tolerance` tells something: another picture, the mirrored one, the one moved by a pixel,
    and the one without its mean each move the answer for every picture by at least a hundred tolerances.
    """
    usual = answer(images, mean)
    changed = {
        "another picture": (np.roll(images, 1, axis=0), mean),
        "the mirrored picture": (images[:, :, ::-1].copy(), mean),
        "the picture moved by a pixel to the right": (np.roll(images, 1, axis=2), mean),
        "the picture moved by a pixel down": (np.roll(images, 1, axis=1), mean),
        "the picture without its mean": (images, np.zeros_like(mean)),
    }
    for what, arguments in changed.items():
        moved = np.abs(answer(*arguments) - usual).max(axis=1).min()
        assert moved >= 100 * tolerance, f"{what} moves the answer by {moved:.1e} only"


@torch.inference_mode()
def assert_network_sensitive(model: Callable[[torch.Tensor], torch.Tensor], tolerance: float, side: int = 67) -> None:
    """The same for the logits of a float64 network in test mode, whose pictures are noise and not cut any more."""
    rng = np.random.default_rng(0)

    def answer(images: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy((images - mean).transpose(0, 3, 1, 2).copy())).numpy()

    images = rng.integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    assert_sensitive(answer, images, rng.uniform(100, 130, (side, side, 3)), tolerance)
