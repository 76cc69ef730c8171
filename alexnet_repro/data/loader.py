"""Batches of uint8 from a prepared data set. Workers only read, decode and cut; the rest runs on the device."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alexnet_repro.data.augment import Draws
from data_prep.command import RunError
from data_prep.format import SplitReader


@dataclass
class Batch:
    """`images` uint8 [N, side, side, C] in host memory; `draws` as arrays of N; `labels` int64 [N]."""

    images: Tensor
    labels: Tensor
    top: Tensor
    left: Tensor
    mirror: Tensor
    colour: Tensor

    def pin_memory(self) -> "Batch":
        return Batch(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


class _Batches(Dataset["Batch | RunError"]):
    """Item b is the b-th batch: the pictures at order[b*n : (b+1)*n], each cut at its own draw.

    An error is an item too: raised in a worker, it would reach the user as the worker's traceback.
    """

    def __init__(self, reader: SplitReader, order: np.ndarray, draws: Draws, side: int, batch_size: int) -> None:
        self.reader, self.order, self.draws = reader, order, draws
        self.side, self.batch_size = side, batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, number: int) -> Batch | RunError:
        try:
            return self._batch(number)
        except RunError as error:
            return error

    def _batch(self, number: int) -> Batch:
        chosen = slice(number * self.batch_size, (number + 1) * self.batch_size)
        numbers, draws, side = self.order[chosen], self.draws[chosen], self.side
        images = None
        for i, picture in enumerate(numbers):
            pixels, _ = self.reader[picture]
            if images is None:
                images = np.empty((len(numbers), side, side, pixels.shape[-1]), np.uint8)
            top, left = draws.top[i], draws.left[i]
            images[i] = pixels[top : top + side, left : left + side]
        assert images is not None
        return Batch(
            torch.from_numpy(images),
            torch.from_numpy(self.reader.labels[numbers]),
            torch.from_numpy(draws.top),
            torch.from_numpy(draws.left),
            torch.from_numpy(draws.mirror),
            torch.from_numpy(draws.colour),
        )


def epoch_batches(
    reader: SplitReader, order: np.ndarray, draws: Draws, side: int, batch_size: int, workers: int, pin: bool = False
) -> Iterator[Batch]:
    """The pictures `order` of a split, each cut to its `draws` and `side`, in batches (the last may be short)."""
    batches = _Batches(reader, order, draws, side, batch_size)
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=min(workers, len(batches)),
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
    )
    try:
        for item in loader:
            if isinstance(item, RunError):
                raise item
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError("a loader process died (out of memory?); start again with a lower runtime.workers") from None


def whole_images(reader: SplitReader, side: int, batch_size: int, workers: int, pin: bool = False) -> Iterator[Batch]:
    """Every picture of a split once, in order and uncut, as the test views need them."""
    count = len(reader)
    zeros = np.zeros(count, np.int64)
    draws = Draws(zeros, zeros, np.zeros(count, bool), np.zeros((count, reader.channels), np.float32))
    return epoch_batches(reader, np.arange(count), draws, side, batch_size, workers, pin)
