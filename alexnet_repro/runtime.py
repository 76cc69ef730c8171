"""What changes speed and rounding only: precision of matrix units, loader processes, host memory."""

import ctypes
import os
import platform
import sys

import torch

from alexnet_repro.config import RuntimeConfig

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def configure(config: RuntimeConfig) -> None:
    """Applies the settings to this process."""
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = True
    if config.keep_freed_memory:
        _keep_freed_memory()


def loader_workers(config: RuntimeConfig) -> int:
    """The processes that read and decode, besides this one."""
    if config.workers is not None:
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores - 1))


def _keep_freed_memory() -> None:
    """Has glibc keep large freed blocks for the next step instead of returning them to the kernel.

    A training step allocates the same hundreds of MiB again and again; mapping and zeroing fresh pages each time took
    about a third of a step on the CPU (docs/results.md).
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_TOP_PAD, 64 << 20)


def machine() -> dict[str, str]:
    """What a measurement was made on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "gpus": ", ".join(gpus) or "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
