"""python tests/benchmarks/grouped_convolutions.py [key=value ...]: a training step of two columns against one of
grouped convolutions on the first device, with the keys of `python -m alexnet_repro.benchmark`.

Both use the project's own response normalisation and draw dropout masks, so that they differ in how convolutions and
dense layers are cut, and in what the columns must exchange.
"""

import sys

import torch
from torch import Tensor

from alexnet_repro import benchmark, runtime
from alexnet_repro.config import BenchmarkConfig
from alexnet_repro.data import memory_format
from alexnet_repro.model import AlexNet, choose_devices, initialise, place
from alexnet_repro.model.response_norm import ResponseNorm
from alexnet_repro.report.environment import machine
from data_prep.common.cli import load
from tests.alexnet_repro.grouped import Grouped


class Trained(Grouped):
    """Grouped in training mode, with the project's normalisation over each half of the maps, nothing copied."""

    def __init__(self, network: AlexNet, map_side: int) -> None:
        widths = {name: len(layer.column_names) * layer.map_shape[0] for name, layer in network.layers().items()}
        super().__init__(widths, network.outputs, map_side)
        self.ours = ResponseNorm(network.config.norm)
        self.hidden = (widths["fc6"], widths["fc7"])

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        masks = [images.new_empty(len(images), units).bernoulli_(0.5) for units in self.hidden]
        return super().forward(images, masks)

    def norm(self, x: Tensor, torch_alpha: float) -> Tensor:  # type: ignore[override]
        n, maps, height, width = x.shape
        if x.is_contiguous():
            return self.ours(x.view(2 * n, maps // 2, height, width)).view(x.shape)
        places = x.permute(0, 2, 3, 1)
        return self.ours(places.reshape(-1, maps // 2)).view(places.shape).permute(0, 3, 1, 2)


def main(overrides: list[str]) -> None:
    config = load("benchmark", BenchmarkConfig, overrides)
    if config.model.name != "paper":
        sys.exit("the grouped network is written for model=paper")
    devices, _ = choose_devices(2, config.gpus, config.devices)
    runtime.configure(config.runtime)
    layout = memory_format(devices[0], config.runtime.channels_last)
    two = place(initialise(AlexNet(config.model, 1000), 0), devices)
    one = Trained(two, map_side=6).to(devices[0])
    images = torch.randn(config.batch_size, 3, 224, 224, device=devices[0]).mul_(60).to(memory_format=layout)
    labels = torch.randint(1000, (config.batch_size,), device=devices[0])
    steps = {
        "two columns": benchmark.training_step(
            two, [images.to(device) for device in devices], labels, config.runtime.precision
        ),
        "grouped convolutions": benchmark.training_step(one, images, labels, config.runtime.precision),
    }
    print("; ".join(f"{key}: {value}" for key, value in machine().items()))
    benchmark.report(benchmark.medians(steps, config.steps, devices), config.batch_size)


if __name__ == "__main__":
    main(sys.argv[1:])
