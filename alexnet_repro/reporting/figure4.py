"""Figure 4 of the paper: what the network says of test pictures, and which training pictures look alike to it."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_repro.reporting.figures import plt, save
from alexnet_repro.reporting.text import short

RIGHT, WRONG = "#c2410c", "#3b6ea5"  # the right label's bar, and the others'
_ACROSS = 4  # pictures in a row, as in the paper
_NAME, _CAPTION = 26, 18  # characters


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
