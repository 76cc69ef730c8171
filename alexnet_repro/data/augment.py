"""Section 4.1: random patches, mirror images, colour noise, and the subtraction of the mean image (section 2); by the
text or as run in 2012, as conf/augment/ says.

What is drawn for an image is a function of (seed, epoch, position in the epoch): never of processes or timing. The
arithmetic runs on the device of the column that will see the images, from uint8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from alexnet_repro.config import AugmentConfig

if TYPE_CHECKING:
    from alexnet_repro.data.loader import Batch


@dataclass
class Draws:
    """What is drawn for N images, in the order in which they are shown."""

    top: np.ndarray  # int64 [N]: the patch's first row ...
    left: np.ndarray  # int64 [N]: ... and column
    mirror: np.ndarray  # bool [N]
    colour: np.ndarray  # float32 [N, 3]: a_1, a_2, a_3 of section 4.1

    def __getitem__(self, chosen: slice | np.ndarray) -> "Draws":
        return Draws(self.top[chosen], self.left[chosen], self.mirror[chosen], self.colour[chosen])


def shuffled(seed: int, epoch: int, images: int) -> np.ndarray:
    """The order in which the images are shown in `epoch`: int64 [images]."""
    return np.random.default_rng([seed, epoch, 0]).permutation(images)


def draw_epoch(config: AugmentConfig, seed: int, epoch: int, images: int, margin: int, channels: int = 3) -> Draws:
    """Everything random about the pictures of one epoch. `margin`: image side minus patch side, 32 for 256 and 224.

    Offsets are uniform on 0..margin, both ends included: 33 x 33 patches (the paper counts 32 x 32 x 2 = 2048).
    """
    rng = np.random.default_rng([seed, epoch, 1])
    drawn = -(-images // config.shared_by)
    centre = np.full((2, drawn), margin // 2, dtype=np.int64)
    top, left = rng.integers(0, margin + 1, (2, drawn)) if config.random_crop else centre
    mirror = rng.random(drawn) < 0.5 if config.mirror else np.zeros(drawn, dtype=bool)
    top, left, mirror = (array.repeat(config.shared_by)[:images] for array in (top, left, mirror))
    colour = rng.standard_normal((images, channels), dtype=np.float32) * np.float32(config.colour_noise)
    return Draws(top, left, mirror, colour)


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


@dataclass(frozen=True)
class ColourNoise:
    components: np.ndarray  # float32 [C, C]: column k is what a_k multiplies, in grey levels
    divisor: float  # of the whole input, while the noise is on


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
