"""From images to the network's input: the mean image subtracted (section 2), patches mirrored and colour-shifted (4.1),
on the device of the column that will see them, from uint8.

`InputTransform` is the rule, operation by operation. Two other bodies of it exist for speed and are compared with it
by tests: `_image_by_image` below, for CPUs, the same to the bit, and the GPU kernel in fused_input.py, whose colour
noise may round otherwise. A third, in export.py, holds the test views alone, as a graph that other runtimes can read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet_repro.data.augment import ColourNoise
from alexnet_repro.data.batch import Batch, Draws
from alexnet_repro.data.views import View, centre_of, view_draws


def memory_format(device: torch.device, channels_last: bool | None) -> torch.memory_format:
    """How images lie in the memory of `device`; the network's maps follow. None: channels-last on a CPU."""
    chosen = device.type == "cpu" if channels_last is None else channels_last
    return torch.channels_last if chosen else torch.contiguous_format


@dataclass(frozen=True)
class InputRule:
    """What makes images the network's input, in training and at test alike; a checkpoint keeps it."""

    mean_image: np.ndarray  # float32 [S, S, C], 0..255
    size: int  # of a patch
    mean: str  # at_patch or centre, as in AugmentConfig
    scale: float  # of the result; 1 in the paper

    @property
    def margin(self) -> int:
        """Image side minus patch side."""
        return len(self.mean_image) - self.size

    @property
    def centre(self) -> int:
        """First row and column of the centre patch."""
        return centre_of(self.margin)

    @property
    def centre_mean(self) -> np.ndarray:
        """The centre patch of the mean image, float32 [size, size, C]; a view."""
        centre = slice(self.centre, self.centre + self.size)
        return self.mean_image[centre, centre]


class InputTransform:
    """uint8 patches to the network's input: minus the mean image, mirrored, colour-shifted."""

    def __init__(
        self, rule: InputRule, noise: ColourNoise | None, device: torch.device, channels_last: bool | None
    ) -> None:
        self.rule, self.device = rule, device
        self.memory_format = memory_format(device, channels_last)
        self.divisor = noise.divisor if noise else 1.0
        self.components = torch.from_numpy(noise.components).to(device) if noise else None
        self.line_by_line = device.type == "cpu" and self.memory_format == torch.channels_last
        mean = torch.from_numpy(rule.mean_image).to(device)  # [S, S, C]
        if self.line_by_line:
            self.mean_lines, self.mean_lines_mirrored = mean.flatten(1), mean.flip(1).flatten(1)  # [S, S * C]
        else:
            windows = mean.permute(2, 0, 1).contiguous().unfold(1, rule.size, 1).unfold(2, rule.size, 1)
            self.mean_patches = windows.permute(1, 2, 0, 3, 4)  # [33, 33, C, size, size], a view

    def __call__(self, patches: Tensor, draws: Draws) -> Tensor:
        """uint8 [N, size, size, C], already cut where `draws` says -> float32 [N, C, size, size].

        Without colour noise in `draws`, nothing is divided for it either.
        """
        scale, shift = self.rule.scale, None
        asynchronous = self.device.type == "cuda"
        draws = draws.to(self.device, non_blocking=asynchronous)
        if draws.colour is not None:
            assert self.components is not None
            shift = draws.colour @ self.components.T  # [N, C] grey levels
            scale /= self.divisor
        if self.line_by_line:
            return self._image_by_image(patches, draws, shift, scale)
        x = patches.to(self.device, non_blocking=asynchronous).permute(0, 3, 1, 2)
        x = x.to(torch.float32, memory_format=self.memory_format)
        mirror = draws.mirror[:, None, None, None]
        if self.rule.mean == "at_patch":  # the mean image is mirrored with the patch
            x -= self.mean_patches[draws.top, draws.left]
            x = torch.where(mirror, x.flip(-1), x)
        else:
            x = torch.where(mirror, x.flip(-1), x).sub_(self.mean_patches[self.rule.centre, self.rule.centre])
        if shift is not None:
            x += shift[:, :, None, None]
        return x if scale == 1 else x.mul_(scale)

    def _image_by_image(self, patches: Tensor, draws: Draws, shift: Tensor | None, scale: float) -> Tensor:
        """The same to the bit on a CPU, five times as fast: each image stays in the cache from one operation to the
        next, and is a matrix of whole lines, [size, size * C], for all of them.
        """
        count, size, _, channels = patches.shape
        x = torch.empty(count, size, size, channels)
        shifts = None if shift is None else shift.repeat(1, size)  # [N, size * C]: one line
        places = zip(draws.top.tolist(), draws.left.tolist(), draws.mirror.tolist(), strict=True)
        for i, (row, column, mirrored) in enumerate(places):
            x[i].copy_(patches[i].flip(1) if mirrored else patches[i])
            lines, mean = x[i].flatten(1), self.mean_lines
            if self.rule.mean == "centre":
                row = column = self.rule.centre
            elif mirrored:
                mean, column = self.mean_lines_mirrored, self.rule.margin - column
            lines -= mean[row : row + size, column * channels : (column + size) * channels]
            if shifts is not None:
                lines += shifts[i]
            if scale != 1:
                lines *= scale
        return x.permute(0, 3, 1, 2)


class ColumnInputs:
    """The same images for every column, made on each column's device; columns on one device share them."""

    def __init__(
        self,
        rule: InputRule,
        devices: Sequence[torch.device],
        channels_last: bool | None,
        noise: ColourNoise | None = None,
    ) -> None:
        self.rule = rule
        self.devices = list(devices)
        self._transforms = {device: InputTransform(rule, noise, device, channels_last) for device in set(devices)}

    def of_batch(self, batch_on: Mapping[torch.device, Batch], with_noise: bool) -> list[Tensor]:
        """The network's input, float32 [N, C, size, size] a column, from a copy of a training batch on each device."""
        made = {d: t(batch_on[d].images, batch_on[d].drawn(with_noise)) for d, t in self._transforms.items()}
        return [made[device] for device in self.devices]

    def of_view(self, images: Mapping[torch.device, Tensor], view: View) -> list[Tensor]:
        """The same of one test view, from whole images on each device (`spread`)."""
        made = {}
        for device, transform in self._transforms.items():
            draws = view_draws([view], len(images[device]), device)
            made[device] = transform(view.cut(images[device], self.rule.size), draws)
        return [made[device] for device in self.devices]

    def spread(self, images: Tensor) -> dict[torch.device, Tensor]:
        """uint8 images on every device that has a column. The copies may not be done: hold the images until then."""
        return {device: images.to(device, non_blocking=device.type == "cuda") for device in self._transforms}

    @property
    def use_gpu(self) -> bool:
        return any(device.type == "cuda" for device in self.devices)
