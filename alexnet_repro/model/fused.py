"""What follows a convolution, as one GPU kernel forward and one backward (Triton), channels-last:

    a = x + bias;  ReLU;  response normalisation (section 3.3);  max pooling (3.4);  ReLU

each of which may be left out. One by one they would read and write the largest maps of the network ten times. The plain
form, the one to read, is layers.py and response_norm.py; these kernels compute the same function, in float32 whatever
is stored.

A tile is [places, maps]. A thread holds chunks of eight neighbouring maps of a place, 16 bytes of bfloat16 and 8 of
int8, and the windows of section 3.3 reach over to the nearest maps of the chunks beside them, which the threads of a
warp hand each other.

Triton launches on the current GPU, whatever the tensors' own, hence `device_of` at every launch.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import define, impl, infer_schema, register_autograd, register_fake

from alexnet_repro.config import NormConfig, PoolConfig

WINDOWS = (1, 3, 5, 9)  # of section 3.3: 5 is the paper's, 9 that of its CIFAR-10 nets
WIDEST_POOL = 11  # whose places are counted in 8 bits
_ELEMENTS = 2048  # of one tile, places x maps
WARPS = 8
# Eight for each processor of an H100; they share the tiles of a backward pass, each with a partial sum of the bias's
# gradient.
_PROGRAMS = 132 * 8
LARGEST = 2**31  # elements of a tensor: offsets are computed in 32 bits


@triton.jit
def _beside(x, step: tl.constexpr):  # type: ignore[no-untyped-def]
    """x [places, chunks] of the chunk `step` further on; 0 past the ends."""
    chunk = tl.arange(0, x.shape[1])[None, :] + step
    there = tl.broadcast_to((chunk >= 0) & (chunk < x.shape[1]), x.shape)
    return tl.where(there, tl.gather(x, tl.where(there, tl.broadcast_to(chunk, x.shape), 0), 1), 0.0)


@triton.jit
def _window_sums(x, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of x [places, maps] the sums over each map and its HALF (0, 1, 2 or 4) neighbours on either side."""
    if HALF == 0:
        return x
    even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 8, 2, 2, 2)))
    x04, x26 = tl.split(even)
    x15, x37 = tl.split(odd)
    x0, x4 = tl.split(x04)
    x2, x6 = tl.split(x26)
    x1, x5 = tl.split(x15)
    x3, x7 = tl.split(x37)
    if HALF == 4:
        x01, x23, x45, x67 = x0 + x1, x2 + x3, x4 + x5, x6 + x7
        low, high = x01 + x23, x45 + x67
        s0, s1 = _beside(high, -1) + low + x4, _beside(x5 + x67, -1) + low + x45
        s2, s3 = _beside(x67, -1) + low + x45 + x6, _beside(x7, -1) + low + high
        s4, s5 = low + high + _beside(x0, 1), x1 + x23 + high + _beside(x01, 1)
        s6, s7 = x23 + high + _beside(x01 + x2, 1), x3 + high + _beside(low, 1)
    else:
        before, after = _beside(x7, -1), _beside(x0, 1)
        s0, s1, s2, s3 = before + x0 + x1, x0 + x1 + x2, x1 + x2 + x3, x2 + x3 + x4
        s4, s5, s6, s7 = x3 + x4 + x5, x4 + x5 + x6, x5 + x6 + x7, x6 + x7 + after
        if HALF == 2:
            s0 += _beside(x6, -1) + x2
            s1 += before + x3
            s2 += x0 + x4
            s3 += x1 + x5
            s4 += x2 + x6
            s5 += x3 + x7
            s6 += x4 + after
            s7 += x5 + _beside(x1, 1)
    even = tl.join(tl.join(s0, s4), tl.join(s2, s6))
    odd = tl.join(tl.join(s1, s5), tl.join(s3, s7))
    return tl.reshape(tl.join(even, odd), x.shape)


@triton.jit
def powers(d, beta, THREE_QUARTERS: tl.constexpr):  # type: ignore[no-untyped-def]
    """d^-beta and 1 / d."""
    if THREE_QUARTERS:  # the paper's, by two roots
        root = tl.rsqrt(d)
        return root * tl.sqrt(root), root * root
    return tl.exp2(-beta * tl.log2(d)), 1.0 / d


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    x_ptr, bias_ptr, out_ptr, taken_ptr, places, first, alpha, beta, k,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr, OUT_CHANNELS: tl.constexpr, MAPS: tl.constexpr, HALF: tl.constexpr, RELU: tl.constexpr,
    NORM: tl.constexpr, THREE_QUARTERS: tl.constexpr, POOL: tl.constexpr, STRIDE: tl.constexpr,
    RELU_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A tile of `places` of the output, whose channel 0 is channel `first` of x. A place of x is normalised anew for
    each window that it is in.
    """
    OVER_THE_EDGE: tl.constexpr = (OUT_HEIGHT - 1) * STRIDE + POOL > HEIGHT or (OUT_WIDTH - 1) * STRIDE + POOL > WIDTH
    place = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    image, within = place // (OUT_HEIGHT * OUT_WIDTH), place % (OUT_HEIGHT * OUT_WIDTH)
    top, left = within // OUT_WIDTH * STRIDE, within % OUT_WIDTH * STRIDE
    of_tile = tl.max_contiguous(tl.arange(0, BLOCK_C), 8)  # to a thread, which would else get 16 of int8
    channel = tl.program_id(1) * MAPS + of_tile
    valid = (of_tile < MAPS) & (channel < OUT_CHANNELS)
    stored = (place < places)[:, None] & valid[None, :]
    bias = tl.load(bias_ptr + first + channel, mask=valid, other=0.0)[None, :]
    best = tl.full((BLOCK_P, BLOCK_C), float("-inf"), tl.float32)
    taken = tl.zeros((BLOCK_P, BLOCK_C), tl.int32)
    corner = ((image * HEIGHT + top) * WIDTH + left)[:, None] * CHANNELS + (first + channel)[None, :]
    for down in range(POOL):
        for right in tl.static_range(POOL):
            there = stored
            if OVER_THE_EDGE:
                there &= ((top + down < HEIGHT) & (left + right < WIDTH))[:, None]
            a = tl.load(x_ptr + corner + (down * WIDTH + right) * CHANNELS, mask=there, other=0.0).to(tl.float32) + bias
            if RELU:
                a = tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)
            if NORM:
                power, _ = powers(k + alpha * _window_sums(a * a, HALF), beta, THREE_QUARTERS)
                a *= power
            if OVER_THE_EDGE:
                a = tl.where(there, a, float("-inf"))
            taken = tl.where(a > best, down * POOL + right, taken)  # the first of equals, row by row
            best = tl.maximum(best, a, propagate_nan=tl.PropagateNan.ALL)
    if RELU_LAST:
        taken = tl.where(best <= 0, -1, taken)  # nobody gets a gradient
        best = tl.maximum(best, 0.0, propagate_nan=tl.PropagateNan.ALL)
    at = place[:, None] * OUT_CHANNELS + channel[None, :]
    tl.store(out_ptr + at, best.to(out_ptr.dtype.element_ty), mask=stored)
    if POOL > 1:
        tl.store(taken_ptr + at, taken.to(tl.int8), mask=stored)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    grad_ptr, taken_ptr, x_ptr, bias_ptr, grad_x_ptr, bias_sums_ptr, places, tiles, first, alpha, beta, k,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr, OUT_CHANNELS: tl.constexpr, MAPS: tl.constexpr, HALF: tl.constexpr, RELU: tl.constexpr,
    NORM: tl.constexpr, THREE_QUARTERS: tl.constexpr, POOL: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Tiles of `places` of x. A place gathers what the windows that took it hand back, so nothing is added up by
    atomics, and the result is the same every time.

    Places are of STRIDE^2 kinds, by row and column modulo STRIDE. A tile is of one kind, so that its places are in
    equally many windows (but for the edges): one, two or four with pooling of 3 and stride 2.
    """
    REACH: tl.constexpr = (POOL + STRIDE - 1) // STRIDE  # windows that contain a place, in each direction, at most
    KINDS: tl.constexpr = STRIDE * STRIDE
    ROWS: tl.constexpr = (HEIGHT + STRIDE - 1) // STRIDE  # of one kind, in an image
    COLUMNS: tl.constexpr = (WIDTH + STRIDE - 1) // STRIDE
    of_tile = tl.max_contiguous(tl.arange(0, BLOCK_C), 8)  # to a thread, which would else get 16 of int8
    channel = tl.program_id(1) * MAPS + of_tile
    valid = (of_tile < MAPS) & (channel < OUT_CHANNELS)
    bias = tl.load(bias_ptr + first + channel, mask=valid, other=0.0)[None, :]
    bias_sums = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for tile in range(tl.program_id(0), tiles * KINDS, tl.num_programs(0)):
        block = tile // KINDS
        kind = (tile + block // (tl.num_programs(0) // KINDS)) % KINDS  # or a program's tiles would all be of one
        first_down, first_right = kind // STRIDE, kind % STRIDE
        place = block * BLOCK_P + tl.arange(0, BLOCK_P)
        image, within = place // (ROWS * COLUMNS), place % (ROWS * COLUMNS)
        up, back = within // COLUMNS, within % COLUMNS
        row, column = up * STRIDE + first_down, back * STRIDE + first_right
        inside = (place < places) & (row < HEIGHT) & (column < WIDTH)
        there = inside[:, None] & valid[None, :]
        at = ((image * HEIGHT + row) * WIDTH + column)[:, None] * CHANNELS + (first + channel)[None, :]
        a = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32) + bias
        if RELU:
            a = tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)
        if POOL == 1:
            out_at = place[:, None] * OUT_CHANNELS + channel[None, :]
            g = tl.load(grad_ptr + out_at, mask=there, other=0.0).to(tl.float32)
        else:
            g = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
            for i in tl.static_range(REACH):
                for j in tl.static_range(REACH):
                    down, right = first_down + i * STRIDE, first_right + j * STRIDE
                    if (down < POOL) & (right < POOL):
                        out_row, out_column = up - i, back - j
                        window = inside & (out_row >= 0) & (out_row < OUT_HEIGHT)
                        window &= (out_column >= 0) & (out_column < OUT_WIDTH)
                        out_place = (image * OUT_HEIGHT + out_row) * OUT_WIDTH + out_column
                        out_at = out_place[:, None] * OUT_CHANNELS + channel[None, :]
                        read = window[:, None] & valid[None, :]
                        took = tl.load(taken_ptr + out_at, mask=read, other=-1) == down * POOL + right
                        g += tl.where(took, tl.load(grad_ptr + out_at, mask=read, other=0.0).to(tl.float32), 0.0)
        if NORM:
            power, inverse = powers(k + alpha * _window_sums(a * a, HALF), beta, THREE_QUARTERS)
            g *= power
            g -= 2 * alpha * beta * a * _window_sums(g * a * inverse, HALF)
        if RELU:
            g = tl.where(a > 0, g, 0.0)
        tl.store(grad_x_ptr + at, g.to(grad_x_ptr.dtype.element_ty), mask=there)
        bias_sums += g
    tl.store(bias_sums_ptr + tl.program_id(0) * CHANNELS + first + channel, tl.sum(bias_sums, axis=0), mask=valid)


def tile_of(maps: int) -> dict[str, int]:
    """How many places and maps a tile has, with MAPS of them in use: arguments of a kernel."""
    block = max(8, triton.next_power_of_2(maps))
    return {"MAPS": maps, "BLOCK_P": max(1, _ELEMENTS // block), "BLOCK_C": block}


def dense_places(x: Tensor) -> Tensor:
    """[N, C, H, W] in channels-last, as the kernels read it: place by place, each with all its maps."""
    if x.numel() >= LARGEST:
        raise ValueError(f"maps of {tuple(x.shape)}: 2^31 elements or more; compute fewer images at a time")
    return x.contiguous(memory_format=torch.channels_last)


def _empty(x: Tensor, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    shape = (len(x), channels, height, width)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


def _outputs(x: Tensor, pieces: int, pool: int, stride: int) -> list[Tensor]:
    """What _after_conv returns: the maps, piece by piece, then which place of its window each was taken from."""
    channels, height, width = x.shape[1] // pieces, *map(PoolConfig(pool, stride).windows, x.shape[2:])
    maps = [_empty(x, channels, height, width, x.dtype) for _ in range(pieces)]
    return maps + [_empty(x, channels if pool > 1 else 0, height, width, torch.int8) for _ in range(pieces)]


def custom_op(name: str) -> Callable[[Callable[..., Any]], Any]:
    """As torch.library.custom_op, for CPUs and CUDA only, but a call does not import torch._dynamo, the compiler of
    torch.compile, which takes a second. A module that calls this cannot be reloaded.
    """

    def register(function: Callable[..., Any]) -> Any:
        define(f"alexnet_repro::{name}", infer_schema(function, mutates_args=()))
        impl(f"alexnet_repro::{name}", ("cpu", "cuda"), function)
        return getattr(torch.ops.alexnet_repro, name)

    return register


@custom_op("after_conv")
def _after_conv(
    x: Tensor, bias: Tensor, groups: int, pieces: int, relu: bool, size: int, alpha: float, beta: float, k: float,
    pool: int, stride: int, relu_last: bool,
) -> list[Tensor]:  # fmt: skip
    x = dense_places(x)
    outputs = _outputs(x, pieces, pool, stride)
    channels = x.shape[1] // pieces
    tile = tile_of(x.shape[1] // groups if size else min(channels, 128))
    for piece in range(pieces):
        out, taken = outputs[piece], outputs[pieces + piece]
        places = out.numel() // channels
        with torch.cuda.device_of(x):
            _forward[(triton.cdiv(places, tile["BLOCK_P"]), triton.cdiv(channels, tile["MAPS"]))](
                x, bias, out, taken, places, piece * channels, alpha, beta, k, *x.shape[2:], *out.shape[2:],
                CHANNELS=x.shape[1], OUT_CHANNELS=channels, HALF=size // 2, RELU=relu, NORM=size > 0,
                THREE_QUARTERS=beta == 0.75, POOL=pool, STRIDE=stride, RELU_LAST=relu_last, **tile, num_warps=WARPS,
            )  # fmt: skip
    return outputs


@custom_op("after_conv_backward")
def _after_conv_backward(
    grads: list[Tensor], taken: list[Tensor], x: Tensor, bias: Tensor, groups: int, relu: bool, size: int, alpha: float,
    beta: float, k: float, pool: int, stride: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x = dense_places(x)
    result = torch.empty_like(x)
    channels = x.shape[1] // len(grads)
    tile = tile_of(x.shape[1] // groups if size else min(channels, 128))
    places = len(x) * triton.cdiv(x.shape[2], stride) * triton.cdiv(x.shape[3], stride)
    tiles = triton.cdiv(places, tile["BLOCK_P"])
    programs = min(tiles * stride**2, _PROGRAMS)
    bias_sums = torch.empty((programs, x.shape[1]), dtype=torch.float32, device=x.device)
    for piece, grad in enumerate(grads):
        with torch.cuda.device_of(x):
            _backward[(programs, triton.cdiv(channels, tile["MAPS"]))](
                dense_places(grad), taken[piece], x, bias, result, bias_sums, places, tiles, piece * channels, alpha,
                beta, k, *x.shape[2:], *grad.shape[2:], CHANNELS=x.shape[1], OUT_CHANNELS=channels, HALF=size // 2,
                RELU=relu, NORM=size > 0, THREE_QUARTERS=beta == 0.75, POOL=pool, STRIDE=stride, **tile,
                num_warps=WARPS,
            )  # fmt: skip
    return result, bias_sums.sum(0)


@register_fake("alexnet_repro::after_conv")
def _(x, bias, groups, pieces, relu, size, alpha, beta, k, pool, stride, relu_last):  # type: ignore[no-untyped-def]
    return _outputs(x, pieces, pool, stride)


@register_fake("alexnet_repro::after_conv_backward")
def _(grads, taken, x, bias, *constants):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.channels_last), torch.empty_like(bias)


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, bias, groups, ctx.pieces, *constants = inputs
    ctx.constants = groups, *constants[:-1]
    ctx.save_for_backward(x, bias, *output[ctx.pieces :])


def _hand_back(ctx, grads):  # type: ignore[no-untyped-def]
    x, bias, *taken = ctx.saved_tensors
    return *_after_conv_backward(grads[: ctx.pieces], taken, x, bias, *ctx.constants), *[None] * 10


def refuse(ctx, *grads):  # type: ignore[no-untyped-def]
    raise RuntimeError("the fast form has no second derivatives; the plain form has them (runtime.fast=false)")


register_autograd("alexnet_repro::after_conv_backward", refuse)
register_autograd("alexnet_repro::after_conv", _hand_back, setup_context=_keep)


def after_conv(
    x: Tensor,
    bias: Tensor | None = None,
    groups: int = 1,
    pieces: int = 1,
    relu: bool = False,
    norm: NormConfig | None = None,
    pool: tuple[int, int] = (1, 1),
    relu_last: bool = False,
) -> list[Tensor]:
    """x [N, C, H, W] (float32 or bfloat16) plus bias [C] float32, then the steps asked for, in the order of the
    arguments: [N, C, H', W'] channels-last in the dtype of x, cut into `pieces` of as many maps each.

    `groups` columns of C / groups maps lie side by side in x, and normalisation keeps within each; `pieces` is 1 or
    `groups`. `pool`: size and stride, rounded up; `relu_last` needs a pool before it.
    """
    window = norm.size if norm else 1
    if window not in WINDOWS or pool[0] > WIDEST_POOL:
        raise ValueError(
            f"a window of {window} maps and pooling of {pool[0]}: the kernel has windows of {WINDOWS}, and pooling of "
            f"{WIDEST_POOL} or less"
        )
    if bias is None:
        bias = torch.zeros(x.shape[1], dtype=torch.float32, device=x.device)
    constants = (norm.size, norm.alpha, norm.beta, norm.k) if norm else (0, 0.0, 0.0, 1.0)
    outputs: list[Tensor] = _after_conv(x, bias, groups, pieces, relu, *constants, *pool, relu_last)
    return outputs[:pieces]
