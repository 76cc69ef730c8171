"""What follows a layer's weights: response normalisation, pooling, dropout.

All of them work within one column: a column's maps are the whole layer to them. The paper's sum over "N kernels
in the layer" would, across two GPUs, need the neighbour's maps at the seam; the code of 2012 never fetched them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_repro.config import NormConfig

# On a CPU the normalisation runs over blocks of this many bytes, so that its passes stay in the cache.
_BLOCK_BYTES = 2 << 20


def _images_per_block(x: Tensor) -> int:
    if x.device.type != "cpu":
        return max(1, x.shape[0])
    return max(1, _BLOCK_BYTES // max(1, x[:1].numel() * x.element_size()))


def _sum_over_neighbours(maps: Tensor, half: int, out: Tensor) -> Tensor:
    """out[:, i] = sum of maps[:, j] over |i - j| <= half, clipped at both ends."""
    out.copy_(maps)
    for shift in range(1, min(half, maps.shape[1] - 1) + 1):
        out[:, shift:] += maps[:, :-shift]
        out[:, :-shift] += maps[:, shift:]
    return out


def _negative_power(base: Tensor, beta: float, out: Tensor) -> Tensor:
    """out = base ** -beta, by square roots for the paper's beta of 0.75. Leaves base ** -1/2 in `base`."""
    if beta == 0.75:
        base.rsqrt_()
        return torch.sqrt(base, out=out).mul_(base)
    torch.pow(base, -beta, out=out)
    base.rsqrt_()
    return out


class _ResponseNorm(torch.autograd.Function):
    """Section 3.3 with its derivative by hand. Only the input is kept for the backward pass.

    With d = k + alpha * sum_j a_j^2 and b = a * d^-beta:
    grad_a_i = grad_b_i * d_i^-beta - 2 alpha beta a_i * sum_j grad_b_j * a_j * d_j^(-beta-1)
    """

    @staticmethod
    def forward(ctx, a: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:  # type: ignore[no-untyped-def]
        a = a.contiguous()
        b = torch.empty_like(a)
        block = _images_per_block(a)
        squares, base = torch.empty_like(a[:block]), torch.empty_like(a[:block])
        for a_block, b_block in zip(a.split(block), b.split(block), strict=True):
            sq, d = squares[: len(a_block)], base[: len(a_block)]
            torch.mul(a_block, a_block, out=sq)
            _sum_over_neighbours(sq, size // 2, out=d).mul_(alpha).add_(k)
            torch.mul(a_block, _negative_power(d, beta, out=sq), out=b_block)
        ctx.save_for_backward(a)
        ctx.constants = size, alpha, beta
        ctx.k = k
        return b

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (a,) = ctx.saved_tensors
        size, alpha, beta = ctx.constants
        grad = grad.contiguous()
        result = torch.empty_like(a)
        block = _images_per_block(a)
        scratch = [torch.empty_like(a[:block]) for _ in range(3)]
        for a_block, g_block, r_block in zip(a.split(block), grad.split(block), result.split(block), strict=True):
            sq, d, total = (s[: len(a_block)] for s in scratch)
            torch.mul(a_block, a_block, out=sq)
            _sum_over_neighbours(sq, size // 2, out=d).mul_(alpha).add_(ctx.k)
            torch.mul(g_block, _negative_power(d, beta, out=sq), out=r_block)  # d is now d^-1/2
            d.mul_(d).mul_(r_block).mul_(a_block)
            _sum_over_neighbours(d, size // 2, out=total)
            r_block.addcmul_(total, a_block, value=-2 * alpha * beta)
        return result, None, None, None, None


class ResponseNorm(nn.Module):
    """b_i = a_i / (k + alpha * sum_{|i-j| <= size/2} a_j^2)^beta over neighbouring maps of the column (section 3.3).

    [N, C, H, W] -> [N, C, H, W]. `alpha` multiplies the plain sum (`torch.nn.LocalResponseNorm` divides it by `size`).
    """

    def __init__(self, config: NormConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, a: Tensor) -> Tensor:
        c = self.config
        result: Tensor = _ResponseNorm.apply(a, c.size, c.alpha, c.beta, c.k)
        return result

    def extra_repr(self) -> str:
        return f"size={self.config.size}, alpha={self.config.alpha}, beta={self.config.beta}, k={self.config.k}"


class SameMapNorm(nn.Module):
    """y = x * (k + alpha * sum of x^2 over a centred size x size window of the same map)^-beta; as run in 2012, not in
    the paper. [N, C, H, W] -> [N, C, H, W]; the window is clipped at the borders.
    """

    def __init__(self, config: NormConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        c = self.config
        total = F.avg_pool2d(x * x, c.size, stride=1, padding=c.size // 2, divisor_override=1)
        return x * (c.k + c.alpha * total).pow(-c.beta)

    extra_repr = ResponseNorm.extra_repr


class Dropout(nn.Module):
    """Section 4.2: in training each output is zero with probability `p` and otherwise left as it is; at test all
    outputs are multiplied by 1 - p. (`torch.nn.Dropout` rescales in training instead.)

    The mask comes from a generator of the module's own, so that two columns never draw the same mask and a step's
    masks follow from its seed wherever the column lives.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._seed = 0
        self._generator: torch.Generator | None = None

    def reseed(self, seed: int) -> None:
        """The next mask follows from `seed` (0 <= seed < 2^63)."""
        self._seed = seed
        if self._generator is not None:
            self._generator.manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.p)
        if self._generator is None or self._generator.device != x.device:
            self._generator = torch.Generator(x.device).manual_seed(self._seed)
        return x * torch.empty_like(x).bernoulli_(1 - self.p, generator=self._generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"
