"""The kernels of conv1 as images (Figure 3)."""

from collections.abc import Sequence

import numpy as np
import torch

from alexnet_repro.model import AlexNet

_KERNELS_A_ROW = 16  # Figure 3 has three rows of 16 for each GPU
_GAP = 6  # pixels of the grid between two columns' kernels


def kernel_grid(kernels: Sequence[torch.Tensor]) -> np.ndarray:
    """Figure 3: the kernels of conv1, those of column a above those of column b, with a gap. uint8 [H, W, 3].

    `kernels`: of each column, [kernels, 3, 11, 11] on the CPU. Each kernel is stretched to the full range by itself.
    """
    from torchvision.utils import make_grid  # a quarter of a second, for which no start need wait

    grids = []
    for part in kernels:
        grid = make_grid(part, nrow=_KERNELS_A_ROW, padding=2, normalize=True, scale_each=True, pad_value=1.0)
        grids.append((grid.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    gap = np.full((_GAP, grids[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for grid in grids for part in (gap, grid)][1:])


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
