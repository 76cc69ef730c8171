"""What changes speed and rounding only: precision of matrix units, loader processes, host memory."""

import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import nn

from alexnet_repro.config import RuntimeConfig
from alexnet_repro.data import Loading
from data_prep.command import RequestError
from data_prep.memory import keep_freed_memory


def configure(config: RuntimeConfig) -> None:
    """Applies the settings to this process."""
    torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.benchmark = True
    if config.keep_freed_memory:
        keep_freed_memory()


def loading(
    config: RuntimeConfig, pin: bool, processes: int = 1, asked_to_stop: Callable[[], bool] | None = None
) -> Loading:
    """How batches are read, by one of `processes` on this machine."""
    return Loading(loader_workers(config, processes), pin, config.loader_timeout, asked_to_stop)


def loader_workers(config: RuntimeConfig, processes: int = 1) -> int:
    """The processes that read and decode, besides each of the `processes` that train on this machine."""
    if config.workers is not None:
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores // processes - 1))


def autocast(precision: str, devices: Sequence[torch.device]) -> ExitStack:
    """While entered, layers compute in bfloat16 on every kind of device, if `precision` is bf16."""
    stack = ExitStack()
    for kind in {device.type for device in devices} if precision == "bf16" else ():
        stack.enter_context(torch.autocast(kind, torch.bfloat16))
    return stack


def compile_network(model: nn.Module, config: RuntimeConfig, devices: Sequence[torch.device]) -> None:
    """Has `model` run through torch.compile, if `config` wants it. RequestError where CUDA graphs do not apply."""
    if config.cuda_graphs and (len(set(devices)) > 1 or devices[0].type != "cuda"):
        raise RequestError(
            "runtime.cuda_graphs=true: needs all columns on one GPU, and they are on "
            f"{', '.join(map(str, devices))}; give runtime.cuda_graphs=false, or devices=[cuda:0]"
        )
    if config.cuda_graphs or config.compile:
        torch.compiler.reset()  # what networks before this one in the process left counts against a limit
    if config.cuda_graphs:
        model.compile(mode="reduce-overhead")
    elif config.compile:
        model.compile()


def machine() -> dict[str, str]:
    """What a measurement was made on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "gpus": ", ".join(gpus) or "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
