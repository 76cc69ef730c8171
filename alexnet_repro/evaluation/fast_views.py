"""Test views in the fast form of the network: all views of a batch in one pass, as far as memory allows."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from alexnet_repro.data import Batch, InputRule, View, view_draws
from alexnet_repro.data.fused_input import FusedInputTransform
from alexnet_repro.model import AlexNet, LayerObserver
from alexnet_repro.model.fast import FastNetwork

_AT_ONCE = 1280  # views in a pass at most: ten of a batch of 128
_SHARE = 0.25  # of the free memory, for the input and the maps of conv1, which are the largest
_COPIES = 3  # of conv1's maps in memory at a time, the smaller maps counted in


class FastViews:
    """A `Forward` of inference.py. It reads the weights anew at every call."""

    def __init__(self, model: AlexNet, rule: InputRule, precision: str) -> None:
        self.network = FastNetwork(model, precision)
        self._transforms = [
            FusedInputTransform(rule, None, device, self.network.layout, self.network.dtype)
            for device in self.network.devices
        ]
        layout, conv1 = self.network.layout, model.conv1
        maps = len(conv1.column_names) * math.prod(conv1.map_shape) * _COPIES  # numbers, for one view
        self.at_once = min(_AT_ONCE, self.network.most_images)
        if all(device.type == "cuda" for device in self.network.devices):
            free = min(torch.cuda.mem_get_info(device)[0] for device in self.network.devices)
            each = (layout.blocks**2 * layout.channels + maps) * self.network.dtype.itemsize
            self.at_once = views_that_fit(free, each, self.at_once)

    @torch.inference_mode()
    def __call__(self, batch: Batch, views: list[View], observe: LayerObserver | None = None) -> tuple[Tensor, Tensor]:
        parts = [self._views(images, views, observe) for images in batch.images.split(self.at_once)]
        probabilities = torch.cat(parts, 1)  # [views, N, K]
        return probabilities[0], probabilities.mean(0)

    def _views(self, images: Tensor, views: Sequence[View], observe: LayerObserver | None) -> Tensor:
        """[views, N, K], as many views in a pass as memory allows."""
        each = max(1, self.at_once // len(images))
        passes = [self._one_pass(images, views[first : first + each], observe) for first in range(0, len(views), each)]
        return torch.cat(passes).unflatten(0, (len(views), len(images)))

    def _one_pass(self, images: Tensor, views: Sequence[View], observe: LayerObserver | None) -> Tensor:
        """[views * N, K], one view of all images after the other."""
        inputs = []
        for device, transform in zip(self.network.devices, self._transforms, strict=True):
            whole = images.to(device, non_blocking=True)
            inputs.append(transform(whole, view_draws(views, len(images), device)))
        return self.network(inputs, observe=observe).float().softmax(1)


def views_that_fit(free: int, each: int, most: int) -> int:
    """How many views one pass takes: as many as fit, at `each` bytes, into _SHARE of the `free` bytes; 1 to `most`."""
    return max(1, min(most, int(free * _SHARE) // each))
