"""The pictures of a run: the kernels of conv1 as in Figure 3, and its learning curves."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from torchvision.utils import make_grid

from alexnet_repro.model import AlexNet

matplotlib.use("Agg")
import itertools

import matplotlib.pyplot as plt

_KERNELS_A_ROW = 16  # Figure 3 has three rows of 16 for each GPU


def kernel_grid(model: AlexNet) -> np.ndarray:
    """Figure 3: the kernels of conv1, those of column a above those of column b. uint8 [H, W, 3].

    Each kernel is stretched to the full range by itself.
    """
    kernels = torch.cat([part.weight.detach().cpu() for part in model.conv1.parts()])
    grid = make_grid(kernels, nrow=_KERNELS_A_ROW, padding=2, normalize=True, scale_each=True, pad_value=1.0)
    pixels: np.ndarray = (grid.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return pixels


def save_kernels(model: AlexNet, path: Path) -> None:
    pixels = kernel_grid(model)
    plt.imsave(path, np.kron(pixels, np.ones((4, 4, 1), np.uint8)))


def save_curves(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Loss and errors by epoch; dotted lines where the learning rate was divided."""
    epochs = [row["epoch"] for row in history]
    figure, (loss_axes, error_axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, label in (("train_loss", "training"), ("val_loss", "validation, centre patch")):
        loss_axes.plot(epochs, [row[name] for row in history], marker="o", markersize=3, label=label)
    for name, label in (
        ("train_top1_error", "training, top-1"),
        ("val_top1_error", "validation, top-1"),
        ("val_top5_error", "validation, top-5"),
    ):
        error_axes.plot(epochs, [100 * row[name] for row in history], marker="o", markersize=3, label=label)
    for axes, ylabel in ((loss_axes, "log-loss (nats)"), (error_axes, "error (%)")):
        for before, after in itertools.pairwise(history):
            if after["learning_rate"] != before["learning_rate"]:
                axes.axvline(before["epoch"] + 0.5, color="grey", linestyle=":")
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
