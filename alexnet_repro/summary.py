"""python -m alexnet_repro.summary [model=...]: layer by layer, what lives where, what it costs, what crosses over."""

import math

import torch

from alexnet_repro.config import SummaryConfig
from alexnet_repro.model import AlexNet, choose_devices
from alexnet_repro.model.alexnet import Layer, Weights
from data_prep.command import main

_FLOAT_BYTES = 4


def summary(config: SummaryConfig) -> None:
    devices, warning = choose_devices(config.model.columns, config.gpus, config.devices)
    if warning:
        print(f"warning: {warning}")
    with torch.device("meta"):
        model = AlexNet(config.model, config.classes, config.channels)
    print(f"{'layer':<8}{'device':<9}{'weights':>20}{'output':>16}{'parameters':>13}{'mult-adds':>15}{'bytes in':>12}")
    totals = [0, 0, 0]
    for name, layer in model.layers().items():
        for column, part, device in zip(layer.names, layer.parts(), devices, strict=False):
            row = _costs(layer, part, config.model.columns)
            totals = [total + value for total, value in zip(totals, row, strict=True)]
            weights, output = ("x".join(map(str, shape)) for shape in (part.weight.shape, layer.map_shape))
            print(
                f"{name + '.' + column:<8}{device!s:<9}{weights:>20}{output:>16}" + "{:>13,}{:>15,}{:>12,}".format(*row)
            )
    print(f"{'total':<53}" + "{:>13,}{:>15,}{:>12,}".format(*totals))
    print("output: of the weights, before pooling. bytes in: float32 from the other columns, for one image forward.")


def _costs(layer: Layer, part: Weights, columns: int) -> tuple[int, int, int]:
    """(parameters, multiply-adds for one image, bytes that come from the other columns for one image)."""
    assert part.bias is not None
    positions = math.prod(layer.map_shape[1:])
    foreign = layer.input_elements * (columns - 1) // columns if layer.reads == "both" else 0
    return part.weight.numel() + part.bias.numel(), part.weight.numel() * positions, foreign * _FLOAT_BYTES


if __name__ == "__main__":
    main("summary", SummaryConfig, summary)
