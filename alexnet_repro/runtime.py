"""What changes speed, never the mathematics: precision of matrix units, loader processes, host memory."""

import ctypes
import os
import sys

import torch

from alexnet_repro.config import RuntimeConfig

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def configure(config: RuntimeConfig) -> None:
    """Applies the settings to this process."""
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = True
    _keep_freed_memory()


def loader_workers(config: RuntimeConfig) -> int:
    if config.workers is not None:
        return config.workers
    return (
        min(16, max(1, len(os.sched_getaffinity(0)) - 1)) if sys.platform == "linux" else min(16, os.cpu_count() or 1)
    )


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
