"""python -m alexnet_repro.benchmark: response normalisation alone, and a whole training step, against PyTorch's own
`LocalResponseNorm` and torchvision's `alexnet`; in turn in one process, medians and ratios.
"""

from alexnet_repro.config import BenchmarkConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("benchmark", BenchmarkConfig)  # first, as the imports below take seconds

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from alexnet_repro import runtime
from alexnet_repro.data import Batch, ColourNoise, ColumnInputs, Draws, InputRule, memory_format
from alexnet_repro.model import AlexNet, devices_for, initialise, place
from alexnet_repro.model.response_norm import ResponseNorm
from alexnet_repro.report.environment import machine
from alexnet_repro.training.ranks import Ranks
from alexnet_repro.training.sgd import PaperSGD
from alexnet_repro.training.step import PendingResult

if TYPE_CHECKING:
    from alexnet_repro.training.fast_step import FastStepper

_CLASSES = 1000
_WARM_UP = 3  # the memory allocator needs as many to settle
_MARGIN = 32  # pixels that an image has more than a patch
_TORCHVISIONS_LEAST = 63  # pixels of the input of its alexnet, of which less leaves nothing to pool
_LAYOUTS = {"": torch.contiguous_format, ", channels-last": torch.channels_last}

Runs = dict[str, Callable[[], object]]


def benchmark(config: BenchmarkConfig) -> None:
    devices = devices_for(config.model.columns, config.gpus, config.devices)
    runtime.configure(config.runtime)
    if devices[0].type == "cuda":
        torch.cuda.set_device(devices[0])  # else what names no GPU would open a context on the first
    layout = memory_format(devices[0], config.runtime.channels_last)
    print("; ".join(f"{key}: {value}" for key, value in machine().items()))
    print(f"batch {config.batch_size}; medians of {config.steps}, in turn, after {_WARM_UP} that are not counted")

    with torch.device("meta"):
        conv1 = AlexNet(config.model, _CLASSES).conv1
    maps, *places = conv1.map_shape
    shape = (config.batch_size, maps * len(conv1.column_names), *places)  # as if in one column
    print(f"\nresponse normalisation of {'x'.join(map(str, shape))} on {devices[0]}, forward and backward")
    report(medians(_norms(config, shape, devices[0]), config.steps, devices), config.batch_size)

    name = "channels-last" if layout == torch.channels_last else "contiguous but for the fast form"
    print(f"\ntraining step; columns on {', '.join(map(str, devices))}, torchvision's on {devices[0]}; {name}")
    report(medians(_steps(config, devices, layout), config.steps, devices), config.batch_size)


def _norms(config: BenchmarkConfig, shape: Sequence[int], device: torch.device) -> Runs:
    """Layer by layer; and a copy of the tensor, for scale."""
    ours = ResponseNorm(config.model.norm)
    maps = torch.randn(shape, device=device).mul_(30).relu_()
    target = torch.empty_like(maps)
    runs = {}
    for name, norm in {"ours": ours, "nn.LocalResponseNorm": torch_norm(ours)}.items():
        for suffix, layout in _LAYOUTS.items():
            x = maps.clone(memory_format=layout).requires_grad_()
            runs[name + suffix] = _forward_backward(norm, x, torch.randn_like(x))
    return runs | {"copy": lambda: target.copy_(maps)}


def _forward_backward(norm: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], None]:
    def run() -> None:
        x.grad = None
        norm(x).backward(grad)

    return run


def torch_norm(ours: ResponseNorm) -> nn.LocalResponseNorm:
    """The same function, PyTorch's way."""
    c = ours.config
    return nn.LocalResponseNorm(c.size, c.torch_alpha, c.beta, c.k)


def _steps(config: BenchmarkConfig, devices: Sequence[torch.device], layout: torch.memory_format) -> Runs:
    ours, with_torch_norm = (place(initialise(AlexNet(config.model, _CLASSES), 0), devices) for _ in range(2))
    for parent in list(with_torch_norm.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, ResponseNorm):
                setattr(parent, child_name, torch_norm(child))
    size = config.model.input_size
    images = torch.randn(config.batch_size, 3, size, size, device=devices[0]).mul_(60).to(memory_format=layout)
    columns = [images.to(device) for device in devices]  # as in training, where each column makes its own input
    labels = torch.randint(_CLASSES, (config.batch_size,), device=devices[0])
    precision = config.runtime.precision
    runs: Runs = {
        config.model.name: training_step(ours, columns, labels, precision),
        f"{config.model.name}, nn.LocalResponseNorm": training_step(with_torch_norm, columns, labels, precision),
    }
    if size >= _TORCHVISIONS_LEAST:
        theirs = torchvision.models.alexnet(num_classes=_CLASSES).to(devices[0])
        runs["torchvision alexnet"] = training_step(theirs, images, labels, precision)
    if runtime.fast_form(config.runtime, config.model, devices):
        fast = place(initialise(AlexNet(config.model, _CLASSES), 0), devices)
        runs = {f"{config.model.name}, fast form": fast_step(fast, config.batch_size, precision), **runs}
    return runs


def fast_stepper(model: AlexNet, batch_size: int, precision: str) -> "FastStepper":
    """One that has a mean image of _MARGIN pixels more than a patch, and colour noise."""
    from alexnet_repro.training.fast_step import FastStepper  # needs Triton

    size, devices = model.config.input_size, model.column_devices()
    rule = InputRule(np.full((size + _MARGIN, size + _MARGIN, 3), 110, np.float32), size, "at_patch", 1.0)
    noise = ColourNoise(np.eye(3, dtype=np.float32), 1.0)
    optimiser = PaperSGD(model.parameters(), learning_rate=1e-4, momentum=0.9, weight_decay=5e-4)
    inputs = ColumnInputs(rule, devices, None, noise)
    return FastStepper(model.train(), optimiser, inputs, 0, Ranks(), precision, noise, batch_size)


def fast_step(model: AlexNet, batch_size: int, precision: str) -> Callable[[], PendingResult]:
    """The whole step of training in its fast form, from uint8 images to the update."""
    stepper, size = fast_stepper(model, batch_size, precision), model.config.input_size
    batch = Batch(
        images=torch.randint(256, (batch_size, size, size, 3), dtype=torch.uint8),
        labels=torch.randint(model.outputs, (batch_size,)),
        draws=Draws(
            top=torch.randint(_MARGIN + 1, (batch_size,)),
            left=torch.randint(_MARGIN + 1, (batch_size,)),
            mirror=torch.rand(batch_size) < 0.5,
            colour=torch.randn(batch_size, 3) * 0.1,
        ),
    )
    batches = {device: batch.to(device) for device in set(model.column_devices())}
    return lambda: stepper(batches, 0, True, False)


def training_step(
    model: nn.Module, images: Tensor | list[Tensor], labels: Tensor, precision: str = "fp32"
) -> Callable[[], None]:
    """Forward, backward and update, with the paper's optimiser; its numbers do not matter for speed."""
    optimiser = PaperSGD(model.parameters(), learning_rate=1e-4, momentum=0.9, weight_decay=5e-4)
    model.train()
    devices = [x.device for x in ([images] if isinstance(images, Tensor) else images)]

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with runtime.autocast(precision, devices):
            logits: Tensor = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()

    return step


def medians(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    devices: Sequence[torch.device] = (),
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = _WARM_UP,
) -> dict[str, float]:
    """Seconds until all devices are done, the runs taken in turn, after `warm_up` times that are not counted."""
    gpus = {device for device in devices if device.type == "cuda"}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(warm_up + repeats):
        for name, run in runs.items():
            started = clock()
            run()
            for gpu in gpus:
                torch.cuda.synchronize(gpu)
            if repeat >= warm_up:
                times[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def report(seconds: dict[str, float], images: int) -> None:
    own = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"{name:<38}{1000 * value:9.1f} ms  {images / value:9.1f} images/s  {value / own:5.2f} x")


if __name__ == "__main__":
    main(jobs, benchmark)
