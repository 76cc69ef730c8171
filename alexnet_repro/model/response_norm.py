"""Response normalisation over neighbouring maps (section 3.3).

`response_norm` is the formula, and what exported graphs hold. Everything after it is the same function and its gradient
made fast, near the cost of reading and writing the maps once. (On GPUs, model/fused.py joins it with its neighbours.)

It works within one column: a column's maps are the whole layer to it, as in the code of 2012. The text's "N kernels in
the layer", taken literally, are those of all columns: `norm_across_columns`, with model.norm.across=layer.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_repro.config import NormConfig
from alexnet_repro.model import exchange


def response_norm(a: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Section 3.3: b_i = a_i / (k + alpha * sum_j a_j^2)^beta, the sum over the `size` maps around i, as far as there
    are so many: j = i - size // 2 ... i + size // 2.

    [N, maps, ...] -> the same. `alpha` multiplies the plain sum (`torch.nn.LocalResponseNorm` divides it by the size).
    """
    maps, beyond = a.shape[1], size // 2
    squares = F.pad(a * a, (0, 0) * (a.dim() - 2) + (beyond, beyond))  # zeros before the first map and after the last
    sums = squares[:, :maps]
    for shift in range(1, size):
        sums = sums + squares[:, shift : shift + maps]
    return a * (k + alpha * sums) ** -beta


class ResponseNorm(nn.Module):
    """`response_norm` as a layer, in its fast form.

    [N, C, ...] -> [N, C, ...] in the same dtype, channels-last if the input is and contiguous otherwise; float16 and
    bfloat16 are computed in float32.
    """

    def __init__(self, config: NormConfig) -> None:
        super().__init__()
        self.config = config

    # torch.compile would fuse the powers into every window that they are in, and take minutes for a step on a CPU.
    @torch.compiler.disable
    def forward(self, a: Tensor) -> Tensor:
        c = self.config
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # for export: a graph holds no loop over blocks
            wide = a.to(torch.promote_types(a.dtype, torch.float32))
            return response_norm(wide, c.size, c.alpha, c.beta, c.k).to(a.dtype)
        result: Tensor = _ResponseNorm.apply(a, c.size, c.alpha, c.beta, c.k)
        return result

    def extra_repr(self) -> str:
        return str(self.config)


def norm_across_columns(norms: Sequence[ResponseNorm], columns: Sequence[Tensor]) -> list[Tensor]:
    """The columns of a layer, [N, maps, ...] each on its device, normalised as if all maps were in one: at each seam a
    column reads the size // 2 nearest maps of its neighbour, which reads as many of its own.

    Each column has size // 2 maps or more, and size is 3 or more.
    """
    beyond = norms[0].config.size // 2
    wide = [norm(x) for norm, x in zip(norms, exchange.with_neighbours(columns, beyond), strict=True)]
    first = [0] + [beyond] * (len(columns) - 1)  # of a column's own maps, after its neighbour's
    return [y[:, start : start + x.shape[1]] for y, start, x in zip(wide, first, columns, strict=True)]


# The fast form. A tensor is taken as it lies in memory, [rows, maps, inner]: rows are images and inner the places of a
# map, or, in channels-last, rows are places and inner is 1. The work goes block by block, so that on a CPU its passes
# stay in the cache, and on a GPU its scratch memory stays small. Only the input is kept for the backward pass.

_CPU_BLOCK_BYTES = 512 << 10  # of one buffer, for each thread; a few of them fit into a core's own cache
_GPU_BLOCK_BYTES = 64 << 20  # large enough to hide the launches, small enough that scratch memory does not count


def _rows(x: Tensor) -> Tensor:
    """x [N, C, ...], dense in either layout, as [rows, maps, inner]; a view."""
    if x.is_contiguous():
        return x.unsqueeze(-1).flatten(2)
    return x.permute(0, 2, 3, 1).flatten(0, 2).unsqueeze(-1)


def _dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """x in the memory layout of `like`, by default in its own if that is one of the two."""
    like = x if like is None else like
    channels_last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last and not like.is_contiguous() else torch.contiguous_format
    return x.contiguous(memory_format=layout)


class _Windows:
    """Sums over windows of `size` neighbouring maps, for one block of rows after another.

    The rows of a block lie in a buffer without gaps, each with size // 2 maps of padding (-) at either end. So all sums
    of the block are size - 1 additions of the buffer to itself, moved by one map more each time: long runs of memory,
    and no window to be clipped at the end of a row. For size 3, and maps 0 1 2:

        buffer         - 0 1 2 -   - 0 1 2 -   ...    a map every `inner` numbers
        moved by 1     0 1 2 -   - 0 1 2 -     ...
        moved by 2     1 2 -   - 0 1 2 -       ...
        sums           0 1 2 . .   0 1 2 . .   ...    of what stands above: the sum around map 0, around map 1, ...

    Where two rows meet (.), the sums mean nothing, and are never read.
    """

    def __init__(self, rows: Tensor, size: int) -> None:
        _, self.maps, self.inner = rows.shape
        self.size, self.half = size, size // 2
        self.dtype = torch.promote_types(rows.dtype, torch.float32)
        self.device = rows.device
        row_bytes = self.maps * self.inner * self.dtype.itemsize
        on_cpu = rows.device.type == "cpu"
        block_bytes = _CPU_BLOCK_BYTES * torch.get_num_threads() if on_cpu else _GPU_BLOCK_BYTES
        self.block = max(1, min(len(rows), block_bytes // max(1, row_bytes)))

    def blocks(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(_rows(tensor).split(self.block) for tensor in tensors), strict=True)

    def buffer(self, value: float) -> Tensor:
        """[block, half + maps + half, inner], all `value`."""
        shape = (self.block, self.maps + 2 * self.half, self.inner)
        return torch.full(shape, value, dtype=self.dtype, device=self.device)

    def terms(self, buffer: Tensor, rows: int) -> Tensor:
        """What is summed, [rows, maps, inner]."""
        return buffer[:rows, self.half : self.half + self.maps]

    def sums(self, buffer: Tensor, rows: int) -> Tensor:
        """The sum around each of the terms, [rows, maps, inner]."""
        return buffer[:rows, : self.maps]

    def flat(self, buffer: Tensor, rows: int, shift: int = 0) -> Tensor:
        """`buffer` shifted by so many maps, as far as there are sums."""
        length = max(0, rows * (self.maps + 2 * self.half) - 2 * self.half) * self.inner
        return buffer.view(-1).narrow(0, shift * self.inner, length)

    def add_up(self, buffer: Tensor, rows: int, out: Tensor) -> Tensor:
        """Fills `out` with the sums over the windows of `buffer`; returns them flat."""
        total = self.flat(out, rows)
        if self.size == 1:
            return total.copy_(self.flat(buffer, rows))
        torch.add(self.flat(buffer, rows), self.flat(buffer, rows, 1), out=total)
        for shift in range(2, self.size):
            total += self.flat(buffer, rows, shift)
        return total


class _Scale:
    """d = k + alpha * sum_j a_j^2 of a block, to the powers that are needed.

    k / size is added to every square, beyond the ends too, and so k to every sum.
    """

    def __init__(self, windows: _Windows, alpha: float, beta: float, k: float) -> None:
        self._windows, self._alpha, self._beta = windows, alpha, beta
        self._k_share = torch.full((), k / windows.size, dtype=windows.dtype, device=windows.device)
        self._squares = windows.buffer(k / windows.size)
        self._d, self._power = windows.buffer(0.0), windows.buffer(0.0)

    def of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [rows, maps, inner] -> d^-beta and d^-1/2, the same; both are scratch memory, good until the next call."""
        windows, n = self._windows, len(x)
        torch.addcmul(self._k_share, x, x, value=self._alpha, out=windows.terms(self._squares, n))
        d, power = windows.add_up(self._squares, n, out=self._d), windows.flat(self._power, n)
        if self._beta == 0.75:  # the paper's, by square roots
            torch.sqrt(d.rsqrt_(), out=power).mul_(d)
        else:
            torch.pow(d, -self._beta, out=power)
            d.rsqrt_()
        return windows.sums(self._power, n), windows.sums(self._d, n)


class _ResponseNorm(torch.autograd.Function):
    """With d = k + alpha * sum_j a_j^2 and b = a * d^-beta, sums over |i - j| <= size / 2:

    grad_a_i = grad_b_i * d_i^-beta - 2 alpha beta a_i * sum_j grad_b_j * a_j * d_j^(-beta - 1)
    """

    @staticmethod
    def forward(ctx, a: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:  # type: ignore[no-untyped-def]
        a = _dense(a)
        b = torch.empty_like(a)
        windows = _Windows(_rows(a), size)
        scale = _Scale(windows, alpha, beta, k)
        for a_block, b_block in windows.blocks(a, b):
            x = a_block.to(windows.dtype)
            power, _ = scale.of(x)
            torch.mul(x, power, out=b_block)
        ctx.save_for_backward(a)
        ctx.constants = size, alpha, beta, k
        return b

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (a,) = ctx.saved_tensors
        size, alpha, beta, k = ctx.constants
        result = torch.empty_like(a)
        windows = _Windows(_rows(a), size)
        scale, products, sums = _Scale(windows, alpha, beta, k), windows.buffer(0.0), windows.buffer(0.0)
        for a_block, g_block, r_block in windows.blocks(a, _dense(grad, like=a), result):
            n, x = len(a_block), a_block.to(windows.dtype)
            power, root = scale.of(x)
            direct = power.mul_(g_block)  # grad_b d^-beta
            torch.mul(direct, x, out=windows.terms(products, n)).mul_(root).mul_(root)  # grad_b a d^(-beta - 1)
            windows.add_up(products, n, out=sums)
            torch.addcmul(direct, windows.sums(sums, n), x, value=-2 * alpha * beta, out=r_block)
        return result, None, None, None, None
