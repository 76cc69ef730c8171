"""python -m alexnet_repro.report.columns > FILE.svg: Figure 2, drawn from conf/model/paper.yaml.

Every size, step and crossing is read off the network that is built, so that the drawing follows the code. What it looks
like is in templates/columns.svg.j2.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alexnet_repro.config import ConvConfig, DenseConfig, ModelConfig, SummaryConfig
from alexnet_repro.model import AlexNet
from alexnet_repro.report.report import templates
from data_prep.common.cli import load

# Lengths in units of the drawing.
_LEFT, _GAP, _CROSSING = 28.0, 40.0, 62.0  # before the image, between two layers, and where columns cross
_SHEET_MAPS, _SHEET_STEP, _BAR_STEP = 16, 2.2, 9.0  # a sheet stands for 16 maps; a bar, for a step that follows


@dataclass
class Drawn:
    """The image or a layer, and where it lies."""

    name: str
    lines: list[str]  # what stands below the name
    columns: str  # ab, or a for fc8
    shape: tuple[int, ...]  # of one column: maps, height, width; or units
    pooled: tuple[int, ...] | None  # the shape after pooling
    steps: Sequence[str]
    both: bool  # reads both columns
    left: float

    @property
    def height(self) -> float:
        """Grows with the square root, since 6x6 beside 224x224 would be a dot."""
        return 7 * math.sqrt(self.shape[1]) if len(self.shape) == 3 else 2 * math.sqrt(self.shape[0])

    @property
    def width(self) -> float:
        return self.height if len(self.shape) == 3 else 14.0

    @property
    def sheets(self) -> list[float]:
        """How far each sheet lies behind the first, the last one first."""
        count = math.ceil(self.shape[0] / _SHEET_MAPS) if len(self.shape) == 3 else 1
        return [_SHEET_STEP * i for i in reversed(range(count))]

    @property
    def centre(self) -> float:
        return self.left + (self.width + self.sheets[0]) / 2

    @property
    def bars(self) -> list[float]:
        """Where the bar of each step begins, and last where the next would: there the arrows start."""
        first = self.left + self.width + self.sheets[0] + 4
        return [first + _BAR_STEP * i for i in range(len(self.steps) + 1)]

    @property
    def right(self) -> float:
        return self.bars[-1]


def draw(config: ModelConfig, classes: int = 1000) -> str:
    """The network of `config` as SVG, laid out for two columns, in colours for light and for dark pages."""
    with torch.device("meta"):  # shapes without numbers
        model = AlexNet(config, classes)
        image = torch.empty(1, 3, config.input_size, config.input_size)
    after: dict[str, tuple[int, ...]] = {}
    with model.observed(lambda name, columns: after.update({name: columns[0].shape[1:]})):
        model(image)

    drawn = [Drawn("image", ["RGB", "minus the mean"], "", tuple(image.shape[1:]), None, [], False, _LEFT)]
    for name, layer in model.layers().items():
        own = getattr(config, name)
        if isinstance(own, ConvConfig):
            stride = f", stride {own.stride}" if own.stride > 1 else ""
            lines = [f"{own.kernels} kernels", f"{own.size}×{own.size}{stride}"]
        else:
            lines = [f"{own.units} units" if isinstance(own, DenseConfig) else f"{classes} classes"]
        both = layer.reads == "both" and config.columns > 1
        left = drawn[-1].right + (_CROSSING if both else _GAP)
        pooled = after[name] if after[name] != layer.map_shape else None
        steps = getattr(own, "then", [])
        drawn.append(Drawn(name, lines, layer.column_names, layer.map_shape, pooled, steps, both, left))

    environment = templates(finalize=lambda value: f"{value:.5g}" if isinstance(value, float) else value)
    return environment.get_template("columns.svg.j2").render(layers=drawn, config=config, sheet_maps=_SHEET_MAPS)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(draw(load("summary", SummaryConfig).model), end="")
