"""python -m alexnet_repro.summary [model=...]: for each layer its device, shapes, cost and traffic between columns;
then the neurons beside those of section 3.5.
"""

from alexnet_repro.config import LAYERS, SummaryConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("summary", SummaryConfig)  # first, as the imports below take seconds

import math
from collections.abc import Sequence

import torch

from alexnet_repro.model import AlexNet, devices_for
from alexnet_repro.model.alexnet import Layer, Part
from alexnet_repro.model.layers import LocalConv2d
from alexnet_repro.paper.numbers import CONV1_REMARK, NEURONS, NEURONS_OF_ABSTRACT

_FLOAT_BYTES = 4
_COSTS = "{:>13,}{:>15,}{:>12,}"


def summary(config: SummaryConfig) -> None:
    devices = devices_for(config.model.columns, config.gpus, config.devices)
    with torch.device("meta"):
        model = AlexNet(config.model, config.classes, config.channels)
    _print_costs(model, devices)
    print()
    _print_neurons(model)


def _print_costs(model: AlexNet, devices: Sequence[torch.device]) -> None:
    wide = max(8, *(len(f"{name}.a ") for name in model.layers()))
    heads = f"{'weights':>20}{'output':>16}{'parameters':>13}{'mult-adds':>15}{'bytes in':>12}"
    print(f"{'layer':<{wide}}{'device':<9}{heads}")
    totals = [0, 0, 0]
    for name, layer in model.layers().items():
        for index, (column, part, device) in enumerate(zip(layer.column_names, layer.parts(), devices, strict=False)):
            costs = _costs(layer, part, index, model.config.columns)
            totals = [total + cost for total, cost in zip(totals, costs, strict=True)]
            shapes = part.weight.shape, (_maps(part), *layer.map_shape[1:])
            weights, output = ("x".join(map(str, shape)) for shape in shapes)
            print(f"{name + '.' + column:<{wide}}{device!s:<9}{weights:>20}{output:>16}{_COSTS.format(*costs)}")
    print(f"{'total':<{wide + 45}}{_COSTS.format(*totals)}")
    print("output: of the weights, before pooling")
    print("bytes in: float32 from the other columns, for one image forward; gradients of the same size go back")


def _maps(part: Part) -> int:
    """How many maps or units it makes."""
    return part.get_parameter("bias").shape[-1]


def _costs(layer: Layer, part: Part, column: int, columns: int) -> tuple[int, int, int]:
    """(parameters, multiply-adds for one image, bytes read from the other columns for one image) of one column."""
    assert part.bias is not None
    positions = 1 if isinstance(part, LocalConv2d) else math.prod(layer.map_shape[1:])
    foreign = layer.input_elements * (columns - 1) // columns if layer.reads == "both" else 0
    foreign += layer.seam_elements * ((column > 0) + (column < columns - 1))
    return part.weight.numel() + part.bias.numel(), part.weight.numel() * positions, foreign * _FLOAT_BYTES


def _print_neurons(model: AlexNet) -> None:
    ours = {
        name: sum(_maps(part) for part in layer.parts()) * math.prod(layer.map_shape[1:])
        for name, layer in model.layers().items()
    }
    wide = max(8, *(len(f"{name} ") for name in ours))
    print(f"{'neurons':<{wide}}{'this network':>14}{'text of 3.5':>14}")
    for name in (name for name in LAYERS if name in ours or name in NEURONS):
        counts = (f"{counts[name]:,}" if name in counts else "-" for counts in (ours, NEURONS))
        print(f"{name:<{wide}}" + "{:>14}{:>14}".format(*counts) + (f"   {CONV1_REMARK}" if name == "conv1" else ""))
    totals = f"{sum(ours.values()):>14,}{sum(NEURONS.values()):>14,}"
    print(f"{'total':<{wide}}{totals}   the paper's abstract: {NEURONS_OF_ABSTRACT:,}")


if __name__ == "__main__":
    main(jobs, summary)
