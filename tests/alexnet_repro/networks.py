"""Networks for the tests: the real configuration, and the paper's geometry in narrow float64."""

import torch

from alexnet_repro.config import ModelConfig, TrainConfig
from alexnet_repro.model import AlexNet
from data_prep.command import load

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


def model_config(*overrides: str) -> ModelConfig:
    return load("train", TrainConfig, list(overrides)).model


def small(*overrides: str) -> AlexNet:
    """Narrow and in float64; every weight and bias random, so that nothing cancels."""
    model = AlexNet(model_config(*SMALL_MODEL, *overrides), classes=7).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1 + 0.01)
    return model
