"""What changes speed and rounding only: precision of matrix units, fast forms, host memory."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from packaging.version import Version

from alexnet_repro.config import LAYERS, ModelConfig, RuntimeConfig
from data_prep.common.errors import RequestError
from data_prep.common.memory import keep_freed_memory

_TRITON = "3.3"  # the first with what the kernels of model/fused.py use


def configure(config: RuntimeConfig) -> None:
    """Applies the settings to this process."""
    torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.deterministic = config.deterministic
    if config.keep_freed_memory:
        keep_freed_memory()


@contextmanager
def autocast(precision: str, devices: Sequence[torch.device]) -> Iterator[None]:
    """Within it, layers compute in bfloat16 on every kind of device, if `precision` is bf16."""
    with ExitStack() as stack:
        for kind in {device.type for device in devices} if precision == "bf16" else ():
            stack.enter_context(torch.autocast(kind, torch.bfloat16))
        yield


def exact_dtype(device: torch.device) -> torch.dtype:
    """For sums that must be exact: float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def fast_form(config: RuntimeConfig, model: ModelConfig, devices: Sequence[torch.device], processes: int = 1) -> bool:
    """Whether a network with its columns on `devices` is computed in its fast form (model/fast.py). RequestError if
    that was asked for and does not apply.
    """
    apart = len(set(devices)) > 1
    if config.fast is False or (config.fast is None and apart):  # between two GPUs nobody has run it yet
        return False
    obstacle = _obstacle(model, devices, processes)
    if config.fast and obstacle:
        raise RequestError(f"runtime.fast=true: {obstacle}; leave it out, or give runtime.fast=false")
    return obstacle is None


def _obstacle(model: ModelConfig, devices: Sequence[torch.device], processes: int) -> str | None:
    distinct = list(dict.fromkeys(devices))
    if others := [str(device) for device in distinct if device.type != "cuda"]:
        return f"needs every column on a GPU, and one is on {others[0]}"
    if old := [device for device in distinct if torch.cuda.get_device_capability(device) < (8, 0)]:
        major, minor = torch.cuda.get_device_capability(old[0])
        return f"needs GPUs of compute capability 8.0 or newer, and {old[0]} has {major}.{minor}"
    if 1 < len(distinct) < len(devices):
        return "needs all columns on one GPU, or each on its own"
    convolutions = [name for name in LAYERS if name.startswith("conv") and getattr(model, name) is not None]
    if dropped := [name for name in convolutions if "dropout" in getattr(model, name).then]:
        return f"has no dropout between maps, and model.{dropped[0]}.then has it"
    normalised = any("norm" in getattr(model, name).then for name in convolutions)
    if normalised and model.norm.across == "layer" and model.columns > 1:
        return "normalises within each column, and model.norm.across is layer"
    if model.fc8.split or model.bottleneck is not None:
        return "has no bottleneck before fc8, and all classes on one device (model.bottleneck, model.fc8.split)"
    if processes > 1:
        return "needs one process, and torchrun started several"
    try:
        import triton
    except ImportError:
        return "needs Triton, which PyTorch brings along on Linux, and it is not installed"
    if Version(triton.__version__) < Version(_TRITON):
        return f"needs Triton {_TRITON} or newer, which PyTorch 2.7 brings along, and has {triton.__version__}"
    if not (os.environ.get("CC") or any(shutil.which(name) for name in ("cc", "gcc", "clang"))):
        return "needs a C compiler, which Triton calls for its first kernel, and found no cc, gcc or clang"
    return None
