"""python -m alexnet_repro.benchmark: a training step of ours, of ours with PyTorch's own response normalisation, and of
torchvision's `alexnet`, in turn in one process; medians and ratios.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from alexnet_repro import runtime
from alexnet_repro.config import BenchmarkConfig
from alexnet_repro.model import AlexNet, choose_devices, initialise, place
from alexnet_repro.model.layers import ResponseNorm
from alexnet_repro.training.sgd import PaperSGD
from data_prep.command import main

_CLASSES = 1000


def benchmark(config: BenchmarkConfig) -> None:
    devices, warning = choose_devices(config.model.columns, config.gpus, config.devices)
    if warning:
        print(f"warning: {warning}")
    runtime.configure(config.runtime)
    ours = place(initialise(AlexNet(config.model, _CLASSES), 0), devices)
    with_torch_norm = place(initialise(AlexNet(config.model, _CLASSES), 0), devices)
    _use_torch_norm(with_torch_norm)
    theirs = torchvision.models.alexnet(num_classes=_CLASSES).to(devices[0])
    size = config.model.input_size
    images = torch.randn(config.batch_size, 3, size, size, device=devices[0]) * 60
    columns = [images.to(device) for device in devices]  # as in training, where each column makes its own input
    labels = torch.randint(_CLASSES, (config.batch_size,), device=devices[0])
    steps = {
        f"{config.model.name}": _step(ours, columns, labels),
        f"{config.model.name}, nn.LocalResponseNorm": _step(with_torch_norm, columns, labels),
        "torchvision alexnet": _step(theirs, images, labels),
    }
    medians = _medians(steps, config.steps)
    print("; ".join(f"{key}: {value}" for key, value in runtime.machine().items()))
    placed = ", ".join(map(str, devices))
    print(f"columns on {placed}; batch {config.batch_size}; medians of {config.steps} steps, in turn")
    own = next(iter(medians.values()))
    for name, seconds in medians.items():
        print(
            f"{name:<32}{1000 * seconds:9.1f} ms  {config.batch_size / seconds:8.1f} images/s  {seconds / own:5.2f} x"
        )


def _use_torch_norm(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResponseNorm):
                c = child.config
                setattr(parent, name, nn.LocalResponseNorm(c.size, c.alpha * c.size, c.beta, c.k))


def _step(model: nn.Module, images: torch.Tensor | list[torch.Tensor], labels: torch.Tensor) -> Callable[[], None]:
    optimiser = PaperSGD(model.parameters(), 1e-4, 0.9, 5e-4)
    model.train()
    devices = {parameter.device for parameter in model.parameters()}

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
        for device in devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    return step


def _medians(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if repeat:  # the first is not counted
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main("benchmark", BenchmarkConfig, benchmark)
