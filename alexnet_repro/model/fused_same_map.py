"""Same-map normalisation (response_norm.SameMapNorm, as run in 2012) as GPU kernels (Triton), channels-last: one
forward and two backward. Like those of fused.py they compute in float32 whatever is stored.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import register_autograd, register_fake

from alexnet_repro.config import NormConfig
from alexnet_repro.model.fused import WARPS, custom_op, dense_places, powers, refuse, tile_of


@triton.jit
def _same_map(  # type: ignore[no-untyped-def]
    x_ptr, grad_ptr, products_ptr, out_ptr, places, alpha, beta, k,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, HALF: tl.constexpr,
    THREE_QUARTERS: tl.constexpr, STAGE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = x d^-beta, with d = k + alpha * sum of x^2 over a window of the same map (as run in 2012).

    STAGE 0 writes y; 1, given the gradient g of y, the products g x d^(-beta - 1); 2, given them too, the gradient of
    x: g d^-beta - 2 alpha beta x * sum of the products over the window.
    """
    place = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    within = place % (HEIGHT * WIDTH)
    row, column = within // WIDTH, within % WIDTH
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (place < places)[:, None] & (channel < CHANNELS)[None, :]
    squares = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    products = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for down in range(-HALF, HALF + 1):
        for right in range(-HALF, HALF + 1):
            there = (row + down >= 0) & (row + down < HEIGHT) & (column + right >= 0) & (column + right < WIDTH)
            near = (place + down * WIDTH + right)[:, None] * CHANNELS + channel[None, :]
            x = tl.load(x_ptr + near, mask=inside & there[:, None], other=0.0).to(tl.float32)
            squares += x * x
            if STAGE == 2:
                products += tl.load(products_ptr + near, mask=inside & there[:, None], other=0.0)
    at = place[:, None] * CHANNELS + channel[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    power, inverse = powers(k + alpha * squares, beta, THREE_QUARTERS)
    if STAGE == 0:
        result = x * power
    else:
        direct = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32) * power
        result = direct * x * inverse if STAGE == 1 else direct - 2 * alpha * beta * x * products
    tl.store(out_ptr + at, result.to(out_ptr.dtype.element_ty), mask=inside)


@custom_op("same_map_norm")
def _same_map_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    x = dense_places(x)
    return _same_map_pass(0, x, x, x, torch.empty_like(x), size, alpha, beta, k)


@custom_op("same_map_norm_backward")
def _same_map_norm_backward(grad: Tensor, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    x, grad = dense_places(x), dense_places(grad)
    products = torch.empty_like(x, dtype=torch.float32)
    _same_map_pass(1, x, grad, x, products, size, alpha, beta, k)
    return _same_map_pass(2, x, grad, products, torch.empty_like(x), size, alpha, beta, k)


def _same_map_pass(
    stage: int, x: Tensor, grad: Tensor, products: Tensor, out: Tensor, size: int, alpha: float, beta: float, k: float
) -> Tensor:
    """Fills `out` and returns it; see _same_map."""
    channels, places = x.shape[1], x.numel() // x.shape[1]
    tile = tile_of(min(channels, 128))
    del tile["MAPS"]
    with torch.cuda.device_of(x):
        _same_map[(triton.cdiv(places, tile["BLOCK_P"]), triton.cdiv(channels, tile["BLOCK_C"]))](
            x, grad, products, out, places, alpha, beta, k, *x.shape[2:], CHANNELS=channels, HALF=size // 2,
            THREE_QUARTERS=beta == 0.75, STAGE=stage, **tile, num_warps=WARPS,
        )  # fmt: skip
    return out


@register_fake("alexnet_repro::same_map_norm")
def _(x, *constants):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.channels_last)


@register_fake("alexnet_repro::same_map_norm_backward")
def _(grad, x, *constants):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.channels_last)


def _keep_input(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


register_autograd("alexnet_repro::same_map_norm_backward", refuse)
register_autograd(
    "alexnet_repro::same_map_norm",
    lambda ctx, grad: (_same_map_norm_backward(grad, *ctx.saved_tensors, *ctx.constants), *[None] * 4),
    setup_context=_keep_input,
)


def same_map_norm(x: Tensor, norm: NormConfig) -> Tensor:
    """As response_norm.SameMapNorm; [N, C, H, W] float32 or bfloat16, channels-last out."""
    result: Tensor = _same_map_norm(x, norm.size, norm.alpha, norm.beta, norm.k)
    return result
