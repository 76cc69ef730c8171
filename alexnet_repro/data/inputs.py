"""From pictures to the network's input: the mean image subtracted, patches mirrored and colour-shifted (sections 2 and
4.1), on the device of the column that will see them, from uint8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet_repro.data.augment import ColourNoise
from alexnet_repro.data.batch import Batch


def memory_format(device: torch.device, channels_last: bool | None) -> torch.memory_format:
    """How images lie in the memory of `device`; the network's maps follow. None: channels-last on a CPU."""
    chosen = device.type == "cpu" if channels_last is None else channels_last
    return torch.channels_last if chosen else torch.contiguous_format


@dataclass(frozen=True)
class InputRule:
    """What makes pictures the network's input, in training and at test alike; a checkpoint keeps it."""

    mean_image: np.ndarray  # float32 [S, S, C], 0..255
    size: int  # of a patch
    mean: str  # at_patch or centre, as in AugmentConfig
    scale: float  # of the result; 1 in the paper

    @property
    def margin(self) -> int:
        return len(self.mean_image) - self.size


class InputTransform:
    """uint8 patches to the network's input: minus the mean image, mirrored, colour-shifted."""

    def __init__(
        self, rule: InputRule, noise: ColourNoise | None, device: torch.device, channels_last: bool | None
    ) -> None:
        self.rule, self.device = rule, device
        mean = torch.from_numpy(rule.mean_image).permute(2, 0, 1).contiguous().to(device)  # [C, S, S]
        if rule.mean == "at_patch":
            windows = mean.unfold(1, rule.size, 1).unfold(2, rule.size, 1)
            self.mean_patches = windows.permute(1, 2, 0, 3, 4)  # [33, 33, C, size, size], a view
        else:
            start = rule.margin // 2
            self.mean_centre = mean[:, start : start + rule.size, start : start + rule.size]
        self.divisor = noise.divisor if noise else 1.0
        self.components = torch.from_numpy(noise.components).to(device) if noise else None
        self.memory_format = memory_format(device, channels_last)
        self.mean_lines, self.mean_lines_mirrored = (m.permute(1, 2, 0).flatten(1) for m in (mean, mean.flip(-1)))

    def __call__(self, patches: Tensor, top: Tensor, left: Tensor, mirror: Tensor, colour: Tensor | None) -> Tensor:
        """uint8 [N, size, size, C], int64 [N], int64 [N], bool [N], float32 [N, C] -> float32 [N, C, size, size].

        `colour` None: no noise, and nothing is divided for it.
        """
        device = self.device
        if device.type == "cpu" and self.memory_format == torch.channels_last:
            return self._image_by_image(patches, top, left, mirror, colour)
        x = patches.to(device, non_blocking=True).permute(0, 3, 1, 2)
        x = x.to(torch.float32, memory_format=self.memory_format)
        mirror = mirror.to(device, non_blocking=True)[:, None, None, None]
        if self.rule.mean == "at_patch":  # mirrored with the patch
            x -= self.mean_patches[top.to(device, non_blocking=True), left.to(device, non_blocking=True)]
            x = torch.where(mirror, x.flip(-1), x)
        else:
            x = torch.where(mirror, x.flip(-1), x).sub_(self.mean_centre)
        scale = self.rule.scale
        if colour is not None:
            assert self.components is not None
            shift = colour.to(device, non_blocking=True) @ self.components.T  # [N, C] grey levels
            x += shift[:, :, None, None]
            scale /= self.divisor
        return x if scale == 1 else x.mul_(scale)

    def _image_by_image(
        self, patches: Tensor, top: Tensor, left: Tensor, mirror: Tensor, colour: Tensor | None
    ) -> Tensor:
        """The same to the bit on a CPU, five times as fast: each image stays in the cache from one operation to the
        next, and is a matrix of whole lines, [size, size * C], for all of them.
        """
        count, size, _, channels = patches.shape
        x = torch.empty(count, size, size, channels)
        scale, shift = self.rule.scale, None
        if colour is not None:
            assert self.components is not None
            shift = (colour @ self.components.T).repeat(1, size)  # [N, size * C]: one line
            scale /= self.divisor
        places = zip(top.tolist(), left.tolist(), mirror.tolist(), strict=True)
        for i, (row, column, mirrored) in enumerate(places):
            x[i].copy_(patches[i].flip(1) if mirrored else patches[i])
            lines, mean = x[i].flatten(1), self.mean_lines
            if self.rule.mean == "centre":
                row = column = self.rule.margin // 2
            elif mirrored:
                mean, column = self.mean_lines_mirrored, self.rule.margin - column
            lines -= mean[row : row + size, column * channels : (column + size) * channels]
            if shift is not None:
                lines += shift[i]
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

    def __call__(
        self, patches: Mapping[torch.device, Tensor], top: Tensor, left: Tensor, mirror: Tensor, colour: Tensor | None
    ) -> list[Tensor]:
        """As InputTransform, from the patches on each device; one float32 [N, C, size, size] a column."""
        made = {d: transform(patches[d], top, left, mirror, colour) for d, transform in self._transforms.items()}
        return [made[device] for device in self.devices]

    def of_batches(self, batches: Mapping[torch.device, "Batch"], noise: bool) -> list[Tensor]:
        """The same from a copy of the batch on each device."""
        made = {}
        for device, transform in self._transforms.items():
            b = batches[device]
            made[device] = transform(b.images, b.top, b.left, b.mirror, b.colour if noise else None)
        return [made[device] for device in self.devices]

    def spread(self, images: Tensor) -> dict[torch.device, Tensor]:
        """uint8 images on every device that has a column."""
        return {device: images.to(device, non_blocking=True) for device in self._transforms}

    @property
    def use_gpu(self) -> bool:
        return any(device.type == "cuda" for device in self.devices)
