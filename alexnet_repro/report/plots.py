"""How figures are drawn, with matplotlib: Figures 1, 3 and 4 of the paper, and learning curves.

matplotlib takes half a second to import, so this is done when something is drawn, and without pyplot, which keeps every
figure until it is closed.
"""

import itertools
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from alexnet_repro.evaluation.metrics import GUESSES
from alexnet_repro.model import AlexNet
from alexnet_repro.model.kernels import colourfulness, kernel_grid
from data_prep.common.text import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RIGHT, _OTHER = "#c2410c", "#3b6ea5"  # the right label's bar; other labels' bars, and names of other classes
_ACROSS = 4  # images in a row, as in the paper
_NAME, _CAPTION = 26, 18  # characters
_DPI = 130


@dataclass
class LabelledImage:
    """An image of a prepared data set."""

    name: str  # split/key
    pixels: np.ndarray  # uint8 [S, S, C]
    label: str  # the name of the right class


def save(figure: "Figure", path: Path | BinaryIO) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script that the font lacks
        figure.savefig(path, dpi=_DPI)


def draw_kernels(model: AlexNet) -> "Figure":
    """Figure 3: the kernels of conv1, column by column."""
    grids = [kernel_grid([part.weight.detach().cpu()]) for part in model.conv1.parts()]
    width = 9.0
    heights = [grid.shape[0] / grid.shape[1] * width for grid in grids]
    figure = _figure(width, sum(heights) + 0.4 * len(grids))
    axes = figure.subplots(len(grids), 1, height_ratios=heights, squeeze=False)
    for axis, grid, (name, (mean, deviation)) in zip(axes[:, 0], grids, colourfulness(model).items(), strict=True):
        axis.imshow(grid, interpolation="nearest")
        axis.set_axis_off()
        colours = f": colourfulness {mean:.2f} ± {deviation:.2f}" if mean or deviation else ""  # grey kernels have none
        axis.set_title(f"column {name}{colours}", fontsize=10, loc="left")
    return figure


def draw_curves(history: list[dict[str, float]], steps: list[dict[str, float]], title: str) -> "Figure":
    """Loss and errors by epoch; dotted lines where the learning rate changed, with the new rate.

    `history`: the entries of the epochs; `steps`: those between them, whose loss is drawn thin.
    """
    epochs = [row["epoch"] for row in history]
    figure = _figure(10, 4)
    loss_axes, error_axes = figure.subplots(1, 2)
    if history:  # before there is one, nothing here says how many steps an epoch has
        steps_an_epoch = history[-1]["step"] / history[-1]["epoch"]
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
    return figure


def draw_training_errors(curves: Mapping[str, Sequence[Sequence[float]]], error: float) -> "Figure":
    """Figure 1: training errors (fractions) by epoch, for each kind of neuron those of several runs. The first kind is
    solid, the second dashed; a dotted line at `error`.
    """
    figure = _figure(5.5, 5)
    axes = figure.subplots()
    for (name, runs), style in zip(curves.items(), ("-", "--"), strict=True):
        for number, errors in enumerate(runs):
            label = name if number == 0 else None
            axes.plot(range(1, len(errors) + 1), errors, style, color="black", linewidth=1, label=label)
    axes.axhline(error, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="epochs", ylabel="training error", xlim=(0, None), ylim=(0, 0.8))
    axes.legend(frameon=False)
    return figure


def draw_labels(images: Sequence[LabelledImage], guesses: Sequence[Sequence[Mapping[str, Any]]]) -> "Figure":
    """Figure 4, left: each image with its right label above, and its most probable labels as bars below.

    `guesses`: of each image, most probable first; label, probability, and whether it is right.
    """
    rows = -(-len(images) // _ACROSS)
    across = min(_ACROSS, len(images))
    figure = _figure(2.6 * across, 3.9 * rows)
    axes = figure.subplots(2 * rows, across, height_ratios=[2.4, 1] * rows, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (image, best) in enumerate(zip(images, guesses, strict=True)):
        row, column = divmod(i, _ACROSS)
        above, bars = axes[2 * row, column], axes[2 * row + 1, column]
        _show(above, image)
        above.set_title(short(image.label, _NAME), fontsize=9, parse_math=False)
        places = range(len(best))
        colours = [_RIGHT if guess["right"] else _OTHER for guess in best]
        bars.barh(places, [guess["probability"] for guess in best], color=colours, height=0.85, alpha=0.55)
        for place, guess in zip(places, best, strict=True):
            bars.text(0.015, place, short(guess["label"], _NAME), fontsize=8, va="center", parse_math=False)
        bars.set(xlim=(0, 1), ylim=(GUESSES - 0.4, -0.6))
    return figure


def draw_neighbours(rows: list[list[LabelledImage]]) -> "Figure":
    """Figure 4, right: in each row a test image, framed, and the training images nearest to it, nearest first."""
    from matplotlib.patches import Rectangle

    across = max(len(row) for row in rows)
    figure = _figure(1.45 * across, 1.75 * len(rows))
    axes = figure.subplots(len(rows), across, squeeze=False, width_ratios=[1.0] * across)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, images in zip(axes, rows, strict=True):
        for axis, image in zip(line, images, strict=False):
            _show(axis, image)
            same = image.label == images[0].label
            caption = "\n".join(textwrap.wrap(short(image.label, 2 * _CAPTION), _CAPTION)[:2])
            axis.set_title(caption, fontsize=7, color="black" if same else _OTHER, parse_math=False)
        line[0].add_patch(
            Rectangle((0, 0), 1, 1, transform=line[0].transAxes, fill=False, linewidth=3, edgecolor="black")
        )
    return figure


def _figure(width: float, height: float) -> "Figure":
    """An empty figure of `width` x `height` inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _show(axis: "Axes", image: LabelledImage) -> None:
    grey = image.pixels.shape[-1] == 1
    axis.imshow(image.pixels.squeeze(-1) if grey else image.pixels, cmap="gray" if grey else None, vmin=0, vmax=255)
