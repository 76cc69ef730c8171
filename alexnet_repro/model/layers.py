"""Layers and steps that PyTorch has not, or has otherwise; the normalisations are in response_norm.py."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_repro.config import PoolConfig
from alexnet_repro.model.uncompiled import uncompiled


class LocalConv2d(nn.Module):
    """A locally connected layer: a convolution whose kernels and biases are each place's own.

    [N, C, H, W] -> [N, kernels, H', W'], with stride 1. `weight` [H' * W', size * size * C, kernels], `bias` [H' * W',
    kernels], places row by row, so that a place is one matrix product whose operands need no transposing.
    """

    def __init__(self, channels: int, kernels: int, size: int, padding: int, side: int) -> None:
        """`side`: of the square maps that come out."""
        super().__init__()
        self.size, self.padding, self.side = size, padding, side
        self.weight = nn.Parameter(torch.empty(side * side, size * size * channels, kernels))
        self.bias = nn.Parameter(torch.empty(side * side, kernels))
        bound = 1 / math.sqrt(channels * size * size)  # as PyTorch's own; `initialise` draws what the paper wants
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.pad(x.permute(2, 3, 0, 1), (0, 0, 0, 0) + (self.padding,) * 4)  # [H, W, N, C]
        rows = torch.cat([maps[:, j : j + self.side] for j in range(self.size)], -1)  # of windows: [H, W', N, size * C]
        windows = torch.cat([rows[i : i + self.side] for i in range(self.size)], -1).flatten(0, 1)
        maps = torch.baddbmm(self.bias.unsqueeze(1), windows, self.weight)  # [H' * W', N, kernels]
        return maps.unflatten(0, (self.side, self.side)).permute(2, 3, 0, 1)

    def extra_repr(self) -> str:
        return f"size={self.size}, padding={self.padding}, side={self.side}"


def pooling(step: str, pool: PoolConfig) -> nn.Module:
    """Section 3.4, by one of POOLS: the maximum, `floor_pool` without the window that would run past the edge; or the
    mean over what is inside the map.
    """
    if step == "mean_pool":
        return nn.AvgPool2d(pool.size, pool.stride, ceil_mode=True)
    return nn.MaxPool2d(pool.size, pool.stride, ceil_mode=step == "pool")


class Dropout(nn.Module):
    """Section 4.2: in training each output is zero with probability `p` and otherwise left as it is; at test all
    outputs are multiplied by 1 - p. `rescaled`: in training they are divided by it instead, as `torch.nn.Dropout` does.

    After `reseed` masks come from a generator of the module's own, so that a step's masks follow from its seed on any
    device of the same kind, in any memory layout; before, they come from PyTorch's global one.
    """

    def __init__(self, p: float, rescaled: bool = False) -> None:
        super().__init__()
        self.p, self.rescaled = p, rescaled
        self._seed: int | None = None
        self._generator: torch.Generator | None = None

    def reseed(self, seed: int) -> None:
        """The next mask follows from `seed` (0 <= seed < 2^63)."""
        self._seed = seed
        if self._generator is not None:
            self._generator.manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        return x * self._mask(x) if self.training else self.at_test(x)

    def at_test(self, x: Tensor) -> Tensor:
        """The outputs at test: multiplied by 1 - p (section 4.2), or as they are if `rescaled`."""
        return x if self.rescaled else x * (1 - self.p)

    @uncompiled  # a compiled graph would hold the seed
    def _mask(self, x: Tensor) -> Tensor:
        return self.draw(x.new_empty(x.shape))

    def draw(self, mask: Tensor) -> Tensor:
        """Fills `mask` with the next one, 0 or 1 (rescaled: 1 / (1 - p)), and returns it."""
        if self._seed is not None and (self._generator is None or self._generator.device != mask.device):
            self._generator = torch.Generator(mask.device).manual_seed(self._seed)
        mask.bernoulli_(1 - self.p, generator=self._generator)
        return mask.div_(1 - self.p) if self.rescaled else mask

    def extra_repr(self) -> str:
        return f"p={self.p}, rescaled={self.rescaled}"
