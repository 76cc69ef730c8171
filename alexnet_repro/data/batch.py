"""A batch of images and what was drawn for them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """`images` uint8 [N, side, side, C]; `labels` int64 [N]; what was drawn for them as arrays of N."""

    images: Tensor
    labels: Tensor
    top: Tensor
    left: Tensor
    mirror: Tensor
    colour: Tensor
    counted: int = -1  # pictures of this batch that count: N (-1 on creation), or 0 if it is only a stand-in
    total: int = -1  # pictures of the global batch, over all ranks; N if it has no other ranks

    def __post_init__(self) -> None:
        self.counted = len(self.labels) if self.counted < 0 else self.counted
        self.total = len(self.labels) if self.total < 0 else self.total

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The same on `device`; itself if it is there already."""
        if all(tensor.device == device for tensor in self.tensors().values()):
            return self
        return self._with({k: v.to(device, non_blocking=non_blocking) for k, v in self.tensors().items()})

    def copied(self) -> "Batch":
        """With memory of its own."""
        return self._with({name: tensor.clone() for name, tensor in self.tensors().items()})

    def pin_memory(self) -> "Batch":
        return self._with({name: tensor.pin_memory() for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def _with(self, tensors: dict[str, Tensor]) -> "Batch":
        return Batch(**tensors, counted=self.counted, total=self.total)
