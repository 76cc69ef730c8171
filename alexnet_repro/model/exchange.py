"""Where the columns talk (section 3.2): the only file in which a tensor changes device.

Copies between two GPUs are queued on both devices' streams and never make the host wait. A copy to the
CPU has to wait, because the CPU would otherwise read memory that is still being written.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; differentiable, and asynchronous where that is safe."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def spread(images: Tensor | Sequence[Tensor], devices: Sequence[torch.device]) -> list[Tensor]:
    """The same images for every column, each column's copy on its own device."""
    copies = [images] * len(devices) if isinstance(images, Tensor) else list(images)
    if len(copies) != len(devices):
        raise ValueError(f"{len(copies)} batches of images for {len(devices)} columns; give one, or one a column")
    return [to_device(batch, device) for batch, device in zip(copies, devices, strict=True)]


def gather(columns: Sequence[Tensor], devices: Sequence[torch.device]) -> list[Tensor]:
    """For each device, the maps of all columns, in column order along dimension 1.

    Columns that share a device share the result, so that on one device nothing is copied twice.
    """
    if len(columns) == 1:
        return [to_device(columns[0], device) for device in devices]
    whole = {device: torch.cat([to_device(column, device) for column in columns], dim=1) for device in set(devices)}
    return [whole[device] for device in devices]
