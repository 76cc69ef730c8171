"""Parts of the fast form (fast.py) that do not depend on its plan of layers: the folded layout of an image, conv1's
kernels folded alike, the columns' weights joined as those of one layer in the precision that computes, and a
convolution with a faster gradient. Gradients reach the network's own parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_repro.config import ModelConfig


@dataclass(frozen=True)
class InputLayout:
    """An image as conv1 reads it: [blocks, blocks, channels], each block fold x fold places row by row, zeros after."""

    fold: int
    blocks: int
    channels: int  # fold^2 times the image's, up to a multiple of 8

    @classmethod
    def of(cls, config: ModelConfig, channels: int) -> "InputLayout":
        conv1, side = config.conv1, config.input_size + config.pad_right_bottom
        fold = conv1.stride if conv1.padding == 0 else 1
        if fold > 1:
            side = (side - conv1.size) // fold + -(-conv1.size // fold)  # what the last window reads, and no more
        return cls(fold, side, -(-fold * fold * channels // 8) * 8)


def folded(weight: Tensor, layout: InputLayout) -> Tensor:
    """conv1's [kernels, C, size, size] for images laid out so: [kernels, layout.channels, blocks, blocks]."""
    fold, (kernels, channels, size, _) = layout.fold, weight.shape
    blocks = -(-size // fold)
    rest = blocks * fold - size
    weight = F.pad(weight, (0, rest, 0, rest)).reshape(kernels, channels, blocks, fold, blocks, fold)
    weight = weight.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)  # within a block: rows, columns, channels
    return F.pad(weight, (0, 0, 0, 0, 0, layout.channels - weight.shape[1]))


class ConvolutionBothWays(torch.autograd.Function):
    """Stride 1. The gradient of the input is a convolution as well, of the gradient with the kernels turned round.
    Given to cuDNN as one, in float32, it is faster than cuDNN's own gradient (docs/results.md).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, padding: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, None, 1, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        grad_x = F.conv2d(grad, turned, None, 1, weight.shape[2] - 1 - ctx.padding)
        one, padding = [1, 1], [ctx.padding] * 2
        _, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, one, padding, one, False, [0, 0], 1, [False, True, False]
        )
        return grad_x, grad_weight, None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dtype: torch.dtype, *parts: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        whole = parts[0].new_empty((len(parts[0]) * len(parts), *parts[0].shape[1:]), dtype=dtype)
        if whole.dim() == 4:
            whole = whole.contiguous(memory_format=torch.channels_last)
        for place, part in zip(whole.chunk(len(parts)), parts, strict=True):
            place.copy_(part)
        ctx.count = len(parts)
        return whole

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        return None, *(part.to(torch.float32, memory_format=torch.contiguous_format) for part in grad.chunk(ctx.count))


def joined(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Columns' float32 weights or biases as those of one layer, in `dtype`; a convolution's channels-last."""
    if parts[0].dtype == dtype and parts[0].dim() < 4:
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return _Joined.apply(dtype, *parts)
