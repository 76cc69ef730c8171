"""The kernels of conv1 as images (Figure 3)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from alexnet_repro.model import AlexNet

_KERNELS_A_ROW = 16  # Figure 3 has three rows of 16 for each GPU
_LINE, _GAP = 2, 6  # pixels around each kernel, and between two columns' kernels


def kernel_grid(kernels: Sequence[torch.Tensor]) -> np.ndarray:
    """Figure 3: the kernels of conv1, those of column a above those of column b, with a gap. uint8 [H, W, 3].

    `kernels`: of each column, [kernels, 3, 11, 11] on the CPU. Each kernel is stretched to the full range by itself.
    """
    grids = [_grid(part) for part in kernels]
    gap = np.full((_GAP, grids[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for grid in grids for part in (gap, grid)][1:])


def _grid(kernels: torch.Tensor) -> np.ndarray:
    """As torchvision.utils.make_grid lays them, uint8 [H, W, 3], without torchvision: its import loads torch._dynamo, a
    second of every training. One kernel has a frame, too.
    """
    low, high = kernels.amin((1, 2, 3), keepdim=True), kernels.amax((1, 2, 3), keepdim=True)
    scaled = ((kernels - low) / (high - low).clamp(min=1e-5) * 255).round().to(torch.uint8)
    a_row = min(_KERNELS_A_ROW, len(kernels))
    blank = -len(kernels) % a_row
    tiles = F.pad(scaled, (_LINE, 0, _LINE, 0, 0, 0, 0, blank), value=255).unflatten(0, (-1, a_row))
    grid = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # [rows, h, a row, w, C] -> [H, W, C]
    grid = F.pad(grid, (0, 0, 0, _LINE, 0, _LINE), value=255)
    return grid.expand(-1, -1, 3).numpy()  # also kernels for grey images


def colourfulness(model: AlexNet) -> dict[str, tuple[float, float]]:
    """How colourful conv1's kernels are: for each column, by its name, the mean and the standard deviation.

    A kernel's colourfulness is the share of its squared weights that is left once each place has lost its mean over
    red, green and blue: 0 for a kernel that sees brightness alone, 1 for one that sees only differences of colours.
    Random weights have 2/3.
    """
    result = {}
    for name, part in zip(model.conv1.column_names, model.conv1.parts(), strict=True):
        kernels = part.weight.detach().cpu().double()  # [kernels, colours, 11, 11]
        colour = kernels - kernels.mean(dim=1, keepdim=True)
        shares = (colour**2).sum((1, 2, 3)) / (kernels**2).sum((1, 2, 3)).clamp(min=1e-300)
        result[name] = (float(shares.mean()), float(shares.std(correction=0)))
    return result
