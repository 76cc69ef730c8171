"""Response normalisation over neighbouring maps (section 3.3); and same-map normalisation, over neighbouring places, as
run in 2012.

It works within one column: a column's maps are the whole layer to it, as in the code of 2012. The text's "N kernels in
the layer", taken literally, are those of all columns: `norm_across_columns`, with model.norm.across=layer.

`normalised` and `gradient` are the plain form, the one to read. On CPUs cpu_norms.py computes the same, faster; on GPUs
the fast form does (fused.py, fused_same_map.py).
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_repro.config import NormConfig
from alexnet_repro.model import exchange
from alexnet_repro.model.uncompiled import uncompiled

Sums = Callable[[Tensor, int], Tensor]  # [N, maps, H, W] -> its sums over the window of that size around each number


def normalised(x: Tensor, c: NormConfig, sums: Sums) -> Tensor:
    """y = x / (k + alpha * sum x^2)^beta; with `sums_across_maps` the formula of section 3.3, whose a is x and b is y.

    [N, maps, H, W], float32 or float64 -> the same. `alpha` multiplies the plain sum (`torch.nn.LocalResponseNorm`
    divides it by the size).
    """
    return x * (c.k + c.alpha * sums(x * x, c.size)) ** -c.beta


def gradient(x: Tensor, grad_y: Tensor, c: NormConfig, sums: Sums) -> Tensor:
    """Of the loss with respect to x, from that with respect to y. With d = k + alpha * sum x^2, sums over the same
    windows:

    grad_x = grad_y * d^-beta - 2 alpha beta x * sum (grad_y * x * d^(-beta - 1))
    """
    d = c.k + c.alpha * sums(x * x, c.size)
    direct = grad_y * d**-c.beta
    return direct - 2 * c.alpha * c.beta * x * sums(direct * x / d, c.size)


def sums_across_maps(x: Tensor, size: int) -> Tensor:
    """Over the `size` maps around each, as far as there are so many: i - size // 2 ... i + size // 2."""
    maps, beyond = x.shape[1], size // 2
    padded = F.pad(x, (0, 0, 0, 0, beyond, beyond))  # zeros before the first map and after the last
    sums = padded[:, :maps]
    for shift in range(1, size):
        sums = sums + padded[:, shift : shift + maps]
    return sums


def sums_over_places(x: Tensor, size: int) -> Tensor:
    """Over the size x size places around each, in the same map, as far as there are so many."""
    # size^2 times the mean, zeros beyond the border included: ONNX knows no other divisor, and PyTorch's exporter drops
    # `divisor_override` without a word. (Its own gradient, which PyTorch 2.11 computes wrong for padded channels-last
    # maps on GPUs, is not used.)
    return size**2 * F.avg_pool2d(x, size, stride=1, padding=size // 2)


class _Norm(nn.Module):
    """[N, C, H, W] -> [N, C, H, W] in the same dtype, channels-last if the input is and contiguous otherwise; float16
    and bfloat16 are computed in float32. Differentiable once; only the input is kept for that.
    """

    sums: Sums

    def __init__(self, config: NormConfig) -> None:
        super().__init__()
        self.config = config

    # torch.compile would fuse the powers into every window that they are in, and take minutes for a step on a CPU.
    @uncompiled
    def forward(self, x: Tensor) -> Tensor:
        # `uncompiled` is for torch.compile. torch.export and torch.jit.trace run these lines, and get the plain form.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return normalised(x.to(_wide(x)), self.config, self.sums).to(x.dtype)
        if x.dim() != 4:
            raise ValueError(f"maps of shape {tuple(x.shape)}: must be [N, C, H, W]")
        return _NormWithGradient.apply(x, self.config, self.sums)

    def extra_repr(self) -> str:
        return str(self.config)


class ResponseNorm(_Norm):
    """Section 3.3."""

    sums = staticmethod(sums_across_maps)


class SameMapNorm(_Norm):
    """As run in 2012, not in the paper."""

    sums = staticmethod(sums_over_places)


class _NormWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, c: NormConfig, sums: Sums) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.c, ctx.sums = c, sums
        wide = x.to(_wide(x))
        if (cpu_norms := _cpu_norms(x)) is not None:
            return cpu_norms.run([wide], c, sums is sums_over_places).to(x.dtype)
        return normalised(wide, c, sums).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        wide, grad = x.to(_wide(x)), grad.to(_wide(x))
        if (cpu_norms := _cpu_norms(x)) is not None:
            return cpu_norms.run([wide, grad], ctx.c, ctx.sums is sums_over_places).to(x.dtype), None, None
        return gradient(wide, grad, ctx.c, ctx.sums).to(x.dtype), None, None


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _cpu_norms(x: Tensor) -> ModuleType | None:
    """The module, where it can compute."""
    if x.device.type != "cpu" or type(x) is not Tensor:  # such as PyTorch's fake tensors, which have no numbers
        return None
    cpu_norms = _imported()
    return None if cpu_norms is None or cpu_norms.forked else cpu_norms


@cache
def _imported() -> ModuleType | None:
    try:
        from alexnet_repro.model import cpu_norms  # imports Numba, which takes a third of a second
    except ImportError:  # a Python or NumPy newer than Numba's
        return None
    return cpu_norms


def norm_across_columns(norms: Sequence[ResponseNorm], columns: Sequence[Tensor]) -> list[Tensor]:
    """The columns of a layer, [N, maps, H, W] each on its device, normalised as if all maps were in one: at each seam a
    column reads the size // 2 nearest maps of its neighbour, which reads as many of its own.

    Each column has size // 2 maps or more, and size is 3 or more.
    """
    beyond = norms[0].config.size // 2
    wide = [norm(x) for norm, x in zip(norms, exchange.with_neighbours(columns, beyond), strict=True)]
    first = [0] + [beyond] * (len(columns) - 1)  # of a column's own maps, after its neighbour's
    return [y[:, start : start + x.shape[1]] for y, start, x in zip(wide, first, columns, strict=True)]
