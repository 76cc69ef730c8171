"""A batch of images and what was drawn for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Where each of N images is cut, and how it is changed (section 4.1)."""

    top: Tensor  # int64 [N]: the patch's first row ...
    left: Tensor  # int64 [N]: ... and column
    mirror: Tensor  # bool [N]
    colour: Tensor | None  # float32 [N, C]: a_1, a_2, a_3 of section 4.1; None: without colour noise

    def __getitem__(self, chosen: slice | np.ndarray) -> "Draws":
        return self.map(lambda tensor: tensor[chosen])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        colour = None if self.colour is None else change(self.colour)
        return Draws(change(self.top), change(self.left), change(self.mirror), colour)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Draws":
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))


@dataclass(frozen=True)
class Batch:
    """Patches with their draws, for training; or whole images without any, for the test views to cut.

    Under torchrun it is one rank's share of a global batch. A rank for which nothing is left still takes the step, with
    one image that stands in and counts for nothing.
    """

    images: Tensor  # uint8 [N, side, side, C]
    labels: Tensor  # int64 [N]
    draws: Draws | None = None
    elsewhere: int = 0  # images of the global batch that other ranks have
    stands_in: bool = False

    @property
    def counted(self) -> int:
        """Images of this batch that count."""
        return 0 if self.stands_in else len(self.labels)

    @property
    def total(self) -> int:
        """Images of the global batch, over all ranks."""
        return self.counted + self.elsewhere

    def drawn(self, with_noise: bool) -> Draws:
        """The draws of a training batch, with their colour noise or without."""
        assert self.draws is not None
        return self.draws if with_noise else replace(self.draws, colour=None)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The same on `device`; itself if it is there already."""
        if all(tensor.device == device for tensor in self.tensors().values()):
            return self
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same with every tensor changed: moved, pinned or copied."""
        draws = self.draws.map(change) if self.draws else None
        return replace(self, images=change(self.images), labels=change(self.labels), draws=draws)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, those of the draws among them."""
        fields = {**vars(self), **(vars(self.draws) if self.draws else {})}
        return {name: value for name, value in fields.items() if isinstance(value, Tensor)}
