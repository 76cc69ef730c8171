"""Which column lives on which device. Everything else takes its device from the column's weights."""

import sys
from collections.abc import Sequence
from itertools import permutations

import torch

from alexnet_repro.model.alexnet import AlexNet
from data_prep.common.errors import RequestError


def choose_devices(
    columns: int,
    gpus: int | None = None,
    devices: Sequence[str] | None = None,
    process: int = 0,
    processes: int = 1,
) -> tuple[list[torch.device], str | None]:
    """One device a column, and a warning if the machine could not give what was asked for.

    `devices` places the columns by hand (one name for all, or one a column). Otherwise `gpus`: None takes one GPU a
    column if there are so many, else one, else the CPU; 0 is the CPU, 1 one GPU for all columns. Too few GPUs, a GPU
    that is counted but cannot be used (a broken card, a driver older than PyTorch's CUDA), or two between which copies
    arrive wrong, give one device for all columns and a warning; with other `processes` the latter two are refused.
    Where `processes` of this machine train copies of the network (torchrun), each has an equal share of its GPUs, in
    order; names of GPUs by hand are then those of all processes, one after the other.
    """
    available = torch.cuda.device_count()
    if devices is not None:
        return _by_hand(columns, _names_of(process, processes, columns, devices), available), None
    if gpus is not None and gpus not in (0, 1, columns):
        several = f", 1, or {columns}: one a column" if columns > 1 else " or 1: the network has one column"
        raise RequestError(f"gpus={gpus}: must be 0{several}")
    if gpus != 0 and 0 < available < processes:
        raise RequestError(
            f"torchrun started {processes} processes, and this machine has {available} GPU(s); give "
            f"--nproc-per-node={available}, or gpus=0 to train on the CPU"
        )
    each = available // processes
    mine = list(range(process * each, (process + 1) * each))
    wanted = columns if gpus is None else gpus  # 0, 1 or columns
    chosen = mine[:wanted] if wanted <= len(mine) else mine[:1]
    for index in chosen:
        if problem := _problem(torch.device("cuda", index)):
            if processes > 1:  # the others would wait for this one
                raise RequestError(f"cuda:{index} cannot be used ({problem}); give gpus=0 to train on the CPU")
            one = torch.device("cpu")
            return [one] * columns, f"cuda:{index} cannot be used ({problem}): all columns run on {one}"
    if len(chosen) == columns:
        placed = [torch.device("cuda", index) for index in chosen]
        if not (problem := _copy_problem(placed)):
            return placed, None
        if processes > 1:
            raise RequestError(f"{problem}; give gpus=1 and --nproc-per-node={available}")
        return placed[:1] * columns, f"{problem}: all columns run on {placed[0]}"
    one = torch.device("cuda", chosen[0]) if chosen else torch.device("cpu")
    warning = None
    if gpus is not None and gpus > len(mine):
        found = {0: "no GPU", 1: "one GPU"}.get(available, f"{available} GPUs")
        shared = f" for {processes} processes" if processes > 1 else ""
        warning = f"gpus={gpus}, but this machine has {found}{shared}: all columns run on {one}"
    return [one] * columns, warning


def devices_for(columns: int, gpus: int | None, devices: Sequence[str] | None) -> list[torch.device]:
    """`choose_devices` for a command of one process, which prints the warning."""
    chosen, warning = choose_devices(columns, gpus, devices)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    return chosen


def _names_of(process: int, processes: int, columns: int, names: Sequence[str]) -> Sequence[str]:
    if processes == 1 or not any(name.startswith("cuda") for name in names):
        return names
    if len(names) != columns * processes:
        raise RequestError(
            f"devices: {len(names)} names for {processes} processes of {columns} column(s); give "
            f"{columns * processes}, process by process"
        )
    return names[process * columns :][:columns]


def _by_hand(columns: int, names: Sequence[str], available: int) -> list[torch.device]:
    chosen = []
    for name in names:
        try:
            device = torch.device(name)
        except RuntimeError:
            raise RequestError(f"devices: {name!r} is no device; use names like cpu or cuda:0") from None
        if device.type not in ("cpu", "cuda", "mps"):
            raise RequestError(f"devices: {name} is not supported; use names like cpu, cuda:0 or mps")
        # By the number that tensors carry, as batches are found by their device: a GPU's always, the CPU's never.
        number = device.index or 0
        if device.type == "cpu" and number:
            raise RequestError(f"devices: {name} does not exist; all cores are one device, cpu")
        if device.type == "cuda" and number >= available:
            raise RequestError(f"devices: {name} does not exist; this machine has {available} CUDA device(s)")
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise RequestError(f"devices: {name} does not exist; this is no Mac with a GPU that PyTorch can use")
        device = torch.device("cpu") if device.type == "cpu" else torch.device(device.type, number)
        if device not in chosen and (problem := _problem(device)):
            raise RequestError(f"devices: {name} cannot be used ({problem}); give devices=[cpu] to compute on the CPU")
        chosen.append(device)
    if len(chosen) == 1:
        chosen *= columns
    if len(chosen) != columns:
        raise RequestError(f"devices: {len(chosen)} names for {columns} column(s); give one, or one a column")
    if problem := _copy_problem(chosen):
        raise RequestError(f"devices: {problem}; put all columns of a process on one of them")
    return chosen


def _problem(device: torch.device) -> str | None:
    """Why nothing can be computed on `device`; None if something was."""
    try:
        torch.ones(1, device=device).add(1).item()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # PyTorch raises whatever it likes
        return " ".join(str(error).split("\n\n")[0].split())[:200].rstrip(".") or type(error).__name__
    return None


def _copy_problem(devices: Sequence[torch.device]) -> str | None:
    """Between which of these GPUs copies arrive wrong; None if none do. Some machines, most often with an IOMMU
    switched on, deliver zeros and report no error; each column would then learn without the other.
    """
    gpus = dict.fromkeys(device for device in devices if device.type == "cuda")
    for source, target in permutations(gpus, 2):
        if not _arrives(source, target):
            return f"copies from {source} to {target} arrive wrong (docs/two-gpus.md)"
    return None


def _arrives(source: torch.device, target: torch.device) -> bool:
    """Whether a megabyte arrives unchanged, contiguous and not, which PyTorch copies in different ways."""
    sent = torch.arange(1.0, 2.0**18 + 1, device=source).view(512, 512)
    for part in (sent, sent[:, 1:]):
        arrived = torch.full_like(part, -1, device=target)
        arrived.copy_(part)
        if not torch.equal(arrived.cpu(), part.cpu()):
            return False
    return True


def place(model: AlexNet, devices: Sequence[torch.device | str]) -> AlexNet:
    """Moves column i of every layer to devices[i], such as "cuda:1"; returns `model`."""
    for layer in model.layers().values():
        for part, device in zip(layer.parts(), devices, strict=False):  # fc8 may live in the first column only
            part.to(device)
    return model
