"""The pictures of a run's own state: the kernels of conv1 as in Figure 3, and its learning curves."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torchvision.utils import make_grid

from alexnet_repro.model import AlexNet

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

_KERNELS_A_ROW = 16  # Figure 3 has three rows of 16 for each GPU
_GAP = 6  # pixels of the grid between two columns' kernels
_DPI = 130


def kernel_grid(kernels: Sequence[torch.Tensor]) -> np.ndarray:
    """Figure 3: the kernels of conv1, those of column a above those of column b, with a gap. uint8 [H, W, 3].

    `kernels`: of each column, [kernels, 3, 11, 11] on the CPU. Each kernel is stretched to the full range by itself.
    """
    grids = [_grid(part) for part in kernels]
    gap = np.full((_GAP, grids[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for grid in grids for part in (gap, grid)][1:])


def column_grids(model: AlexNet) -> list[np.ndarray]:
    """One uint8 [H, W, 3] a column."""
    return [_grid(part.weight.detach().cpu()) for part in model.conv1.parts()]


def colourfulness(model: AlexNet) -> dict[str, tuple[float, float]]:
    """Of conv1's kernels in each column, by its name: the mean and the standard deviation over its kernels.

    A kernel's colourfulness is the share of its squared weights that is left once each place has lost its mean over
    red, green and blue: 0 for a kernel that sees brightness alone, 1 for one that sees only differences of colours.
    Random weights have 2/3.
    """
    result = {}
    for name, part in zip(model.conv1.names, model.conv1.parts(), strict=True):
        kernels = part.weight.detach().cpu().double()  # [kernels, colours, 11, 11]
        colour = kernels - kernels.mean(dim=1, keepdim=True)
        shares = (colour**2).sum((1, 2, 3)) / (kernels**2).sum((1, 2, 3)).clamp(min=1e-300)
        result[name] = (float(shares.mean()), float(shares.std(correction=0)))
    return result


def save_kernels(model: AlexNet, path: Path) -> None:
    grids = column_grids(model)
    width = 9.0
    heights = [grid.shape[0] / grid.shape[1] * width for grid in grids]
    figure, axes = plt.subplots(
        len(grids), 1, figsize=(width, sum(heights) + 0.4 * len(grids)), height_ratios=heights, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, grid, (name, (mean, deviation)) in zip(axes[:, 0], grids, colourfulness(model).items(), strict=True):
        axis.imshow(grid, interpolation="nearest")
        axis.set_axis_off()
        colours = f": colourfulness {mean:.2f} ± {deviation:.2f}" if mean or deviation else ""  # grey kernels have none
        axis.set_title(f"column {name}{colours}", fontsize=10, loc="left")
    save(figure, path)


def save_curves(history: list[dict[str, float]], steps: list[dict[str, float]], path: Path, title: str) -> None:
    """Loss and errors by epoch; dotted lines where the learning rate changed, with what it changed to.

    `history`: the entries of the epochs; `steps`: those between them, whose loss is drawn thin.
    """
    epochs = [row["epoch"] for row in history]
    steps_an_epoch = history[-1]["step"] / history[-1]["epoch"] if history else 1
    figure, (loss_axes, error_axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    between = [row["step"] / steps_an_epoch for row in steps]
    loss_axes.plot(between, [row["loss"] for row in steps], color="C0", linewidth=0.6, alpha=0.5)
    for name, label in (("train_loss", "training"), ("val_loss", "validation, centre patch")):
        loss_axes.plot(epochs, [row[name] for row in history], marker="o", markersize=3, label=label)
    for name, label in (
        ("train_top1_error", "training, top-1"),
        ("val_top1_error", "validation, top-1"),
        ("val_top5_error", "validation, top-5"),
    ):
        error_axes.plot(epochs, [100 * row[name] for row in history], marker="o", markersize=3, label=label)
    for axes, ylabel in ((loss_axes, "log-loss (nats)"), (error_axes, "error (%)")):
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        for before, after in itertools.pairwise(history):
            if after["learning_rate"] != before["learning_rate"]:
                axes.axvline(before["epoch"] + 0.5, color="grey", linestyle=":")
                axes.text(
                    before["epoch"] + 0.5, 0.99, f" {after['learning_rate']:g}", transform=axes.get_xaxis_transform(),
                    fontsize=8, color="dimgrey", va="top",
                )  # fmt: skip
        axes.legend(frameon=False)
        axes.spines["top"].set_visible(False)
    loss_axes.spines["right"].set_visible(False)
    accuracy = error_axes.secondary_yaxis("right", functions=(lambda e: 100 - e, lambda a: 100 - a))
    accuracy.set_ylabel("accuracy (%)")
    figure.suptitle(title, parse_math=False)
    save(figure, path)


def save_training_errors(curves: Mapping[str, Sequence[Sequence[float]]], error: float, path: Path) -> None:
    """Figure 1: training errors (fractions) by epoch, for each kind of neuron those of several runs. The first kind is
    solid, the second dashed; a dotted line at `error`.
    """
    figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
    for (name, runs), style in zip(curves.items(), ("-", "--"), strict=True):
        for number, errors in enumerate(runs):
            label = name if number == 0 else None
            axes.plot(range(1, len(errors) + 1), errors, style, color="black", linewidth=1, label=label)
    axes.axhline(error, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="epochs", ylabel="training error", xlim=(0, None), ylim=(0, 0.8))
    axes.legend(frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script that the font lacks
        figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _grid(kernels: torch.Tensor) -> np.ndarray:
    grid = make_grid(kernels, nrow=_KERNELS_A_ROW, padding=2, normalize=True, scale_each=True, pad_value=1.0)
    pixels: np.ndarray = (grid.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return pixels
