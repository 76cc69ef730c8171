"""Initial weights (section 5): N(0, weight_std), and the constant biases that start the ReLUs with positive inputs."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from alexnet_repro.model.alexnet import AlexNet


def initialise(model: AlexNet, seed: int) -> AlexNet:
    """Draws every weight on the CPU, layer by layer in column order, so that they follow from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    for name, layer in model.layers().items():
        config = getattr(model.config, name)
        narrowed = 1.0 if name == "conv1" else math.sqrt(model.config.width)  # conv1 reads the image, always whole
        for part in layer.parts():
            weight = torch.randn(part.weight.shape, generator=generator) * (config.weight_std / narrowed)
            with torch.no_grad():
                part.weight.copy_(weight)
            nn.init.constant_(cast(Tensor, part.bias), config.bias)
    return model
