"""The network's input as one GPU kernel (Triton): what InputTransform in inputs.py does step by step, laid out as the
fast form of the network reads it (InputLayout in model/fast_weights.py), with the zeros that belong around an image.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet_repro.data.augment import ColourNoise
from alexnet_repro.data.batch import Draws
from alexnet_repro.data.inputs import InputRule
from alexnet_repro.model.fast_weights import InputLayout


@triton.jit
def _input(  # type: ignore[no-untyped-def]
    images_ptr, cut_rows_ptr, cut_columns_ptr, mean_ptr, mean_rows_ptr, mean_columns_ptr, mirror_ptr, shift_ptr,
    out_ptr, images, scale, image_side, mean_side, size, blocks,
    CHANNELS: tl.constexpr, FOLD: tl.constexpr, STORED: tl.constexpr, NOISE: tl.constexpr,
    MIRROR_MEAN: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One row of blocks of one image: a tile [WIDTH, DEPTH] of blocks and what is stored of each."""
    image = tl.program_id(0).to(tl.int64)
    block, stored = tl.arange(0, WIDTH)[:, None], tl.arange(0, DEPTH)[None, :]
    row = tl.program_id(1) * FOLD + stored // (FOLD * CHANNELS)
    column = block * FOLD + stored % (FOLD * CHANNELS) // CHANNELS
    channel = stored % CHANNELS
    inside = (row < size) & (column < size) & (stored < FOLD * FOLD * CHANNELS)
    source = tl.where(tl.load(mirror_ptr + image) != 0, size - 1 - column, column)
    line = (image % images * image_side + tl.load(cut_rows_ptr + image) + row) * image_side
    at = (line + tl.load(cut_columns_ptr + image) + source) * CHANNELS + channel
    x = tl.load(images_ptr + at, mask=inside, other=0).to(tl.float32)
    line = (tl.load(mean_rows_ptr + image) + row) * mean_side + tl.load(mean_columns_ptr + image)
    at = (line + (source if MIRROR_MEAN else column)) * CHANNELS + channel
    x -= tl.load(mean_ptr + at, mask=inside, other=0.0)
    if NOISE:
        x += tl.load(shift_ptr + image * CHANNELS + channel)
    x = tl.where(inside, x * scale, 0.0)
    at = ((image * blocks + tl.program_id(1)) * blocks + block) * STORED + stored
    tl.store(out_ptr + at, x.to(out_ptr.dtype.element_ty), mask=(block < blocks) & (stored < STORED))


class FusedInputTransform:
    """As InputTransform, on one GPU, for the fast form of the network."""

    def __init__(
        self, rule: InputRule, noise: ColourNoise | None, device: torch.device, layout: InputLayout, dtype: torch.dtype
    ) -> None:
        self.rule, self.layout, self.dtype = rule, layout, dtype
        self.mean = torch.from_numpy(rule.mean_image).to(device).contiguous()  # [S, S, C]
        self.divisor = noise.divisor if noise else 1.0
        self.components = torch.from_numpy(noise.components).to(device) if noise else None

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 [N, side, side, C] and M draws -> [M, channels, blocks, blocks], channels-last.

        The images are patches of the rule's size, cut where `draws` says, or whole, to be cut there. M is a multiple of
        N: the images are gone through so many times.
        """
        rule, layout, count = self.rule, self.layout, len(draws.top)
        side, channels = images.shape[1], images.shape[3]
        drawn = draws.top, draws.left
        cut = drawn if side > rule.size else (torch.zeros_like(draws.top),) * 2
        mean_at = drawn if rule.mean == "at_patch" else (torch.full_like(draws.top, rule.centre),) * 2
        shift, scale = self.mean, rule.scale  # without noise nothing is read of `shift`
        if draws.colour is not None:
            assert self.components is not None
            shift = draws.colour @ self.components.T  # [M, C] grey levels
            scale /= self.divisor
        shape = (count, layout.channels, layout.blocks, layout.blocks)
        out = torch.empty(shape, dtype=self.dtype, device=images.device, memory_format=torch.channels_last)
        with torch.cuda.device_of(images):  # Triton launches on the current GPU
            _input[(count, layout.blocks)](
                images, *cut, self.mean, *mean_at, draws.mirror, shift, out, len(images), scale, side, len(self.mean),
                rule.size, layout.blocks, CHANNELS=channels, FOLD=layout.fold, STORED=layout.channels,
                NOISE=draws.colour is not None, MIRROR_MEAN=rule.mean == "at_patch",
                WIDTH=triton.next_power_of_2(layout.blocks), DEPTH=triton.next_power_of_2(layout.channels),
            )  # fmt: skip
        return out
