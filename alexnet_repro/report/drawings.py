"""The pictures of a run's own state: the kernels of conv1 as in Figure 3, and its learning curves."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from alexnet_repro.model import AlexNet
from alexnet_repro.model.kernels import colourfulness, column_grids

matplotlib.use("Agg")

import textwrap
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from data_prep.common.text import short

RIGHT, WRONG = "#c2410c", "#3b6ea5"  # the right label's bar, and the others'
_ACROSS = 4  # pictures in a row, as in the paper
_NAME, _CAPTION = 26, 18  # characters

_DPI = 130


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


@dataclass
class Picture:
    """A picture of a prepared data set."""

    name: str  # split/key
    pixels: np.ndarray  # uint8 [S, S, C]
    label: str  # the right class in words


@dataclass
class Judged:
    """A test picture and its five most probable labels, most probable first."""

    picture: Picture
    guesses: list[str]
    probabilities: list[float]
    right: list[bool]


@dataclass
class Alike:
    """A test picture and the training pictures nearest to it, nearest first."""

    picture: Picture
    neighbours: list[Picture]
    distances: list[float]


def choose(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Pictures to show, drawn by `seed` and not by their looks: int64 [up to count], of as many classes as can be."""
    order = np.random.default_rng(seed).permutation(len(labels))
    _, first_of_class = np.unique(labels[order], return_index=True)
    of_new_class = np.zeros(len(order), bool)
    of_new_class[first_of_class] = True
    return np.concatenate([order[of_new_class], order[~of_new_class]])[:count]


def save_labels(judged: list[Judged], path: Path) -> None:
    rows = -(-len(judged) // _ACROSS)
    across = min(_ACROSS, len(judged))
    figure, axes = plt.subplots(
        2 * rows, across, figsize=(2.6 * across, 3.9 * rows), height_ratios=[2.4, 1] * rows, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for i, one in enumerate(judged):
        row, column = divmod(i, _ACROSS)
        image, bars = axes[2 * row, column], axes[2 * row + 1, column]
        _show(image, one.picture)
        image.set_title(short(one.picture.label, _NAME), fontsize=9, parse_math=False)
        places = range(len(one.guesses))
        bars.barh(
            places, one.probabilities, color=[RIGHT if right else WRONG for right in one.right], height=0.85, alpha=0.55
        )
        for place, guess in zip(places, one.guesses, strict=True):
            bars.text(0.015, place, short(guess, _NAME), fontsize=8, va="center", parse_math=False)
        bars.set(xlim=(0, 1), ylim=(4.6, -0.6))
    save(figure, path)


def save_neighbours(found: list[Alike], path: Path) -> None:
    across = 1 + max(len(one.neighbours) for one in found)
    figure, axes = plt.subplots(
        len(found), across, figsize=(1.45 * across, 1.75 * len(found)), squeeze=False,
        gridspec_kw={"width_ratios": [1.0] * across}, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for row, one in zip(axes, found, strict=True):
        for axis, picture in zip(row, [one.picture, *one.neighbours], strict=False):
            _show(axis, picture)
            same = picture.label == one.picture.label
            caption = "\n".join(textwrap.wrap(short(picture.label, 2 * _CAPTION), _CAPTION)[:2])
            axis.set_title(caption, fontsize=7, color="black" if same else WRONG, parse_math=False)
        frame = plt.Rectangle((0, 0), 1, 1, transform=row[0].transAxes, fill=False, linewidth=3, edgecolor="black")
        row[0].add_patch(frame)
    save(figure, path)


def _show(axis: plt.Axes, picture: Picture) -> None:
    grey = picture.pixels.shape[-1] == 1
    axis.imshow(picture.pixels.squeeze(-1) if grey else picture.pixels, cmap="gray" if grey else None, vmin=0, vmax=255)
