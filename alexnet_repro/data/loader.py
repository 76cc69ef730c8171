"""Batches of uint8 from a prepared data set. Workers only read, decode and cut; the rest runs on the device.

A worker gets its work with each request, a few KB of index rows and offsets, and knows nothing else: it is cheap to
start by fork, spawn or forkserver, whatever the size of the data set. Its reply is the patches, in shared memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet_repro.data.augment import Draws
from alexnet_repro.data.resident import ResidentSplit
from alexnet_repro.data.workers import LoaderError, Loading, Request, patches_of
from data_prep.reader import SplitReader

__all__ = ["Batch", "LoaderError", "Loading", "epoch_batches", "whole_images"]


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


def epoch_batches(
    reader: SplitReader | ResidentSplit,
    order: np.ndarray,
    draws: Draws,
    side: int,
    batch_size: int,
    loading: Loading,
    *,
    first: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """The global batches first, first + 1, ... of an epoch; of each the contiguous share of `rank` among `ranks`.

    order: int64 [M], the pictures of the epoch; draws: what was drawn for each, M too. Each is cut to `side` at its
    draw. The last batch may be short; a rank that would get nothing of it gets the batch's first picture, not counted.
    RunError, naming the shard, if a picture cannot be read; LoaderError if a worker process died or was too slow.
    Of a ResidentSplit they are cut on its device, whatever `loading` says.
    """
    shares = []
    for start in range(first * batch_size, len(order), batch_size):
        stop = min(start + batch_size, len(order))
        begin, end = share(stop - start, rank, ranks)
        counted = end - begin
        chosen = slice(start + begin, start + end) if counted else slice(start, start + 1)
        shares.append(_Share(chosen, counted, stop - start))
    return _batches(reader, order, draws, side, shares, loading)


def whole_images(
    reader: SplitReader | ResidentSplit,
    side: int,
    batch_size: int,
    loading: Loading,
    *,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """Every picture of a split exactly once over all ranks, uncut, as the test views need them.

    side: of the pictures. A rank gets a contiguous share, in order; it may be empty. Errors as `epoch_batches`.
    """
    count = len(reader)
    zeros = np.zeros(count, np.int64)
    draws = Draws(zeros, zeros, np.zeros(count, bool), np.zeros((count, reader.channels), np.float32))
    begin, end = share(count, rank, ranks)
    shares = []
    for start in range(begin, end, batch_size):
        stop = min(start + batch_size, end)
        shares.append(_Share(slice(start, stop), stop - start, stop - start))
    return _batches(reader, np.arange(count), draws, side, shares, loading)


def share(count: int, rank: int, ranks: int) -> tuple[int, int]:
    """Which of `count` are of `rank`: from, to. Contiguous, the first count % ranks one longer, as np.array_split."""
    each, longer = divmod(count, ranks)
    begin = rank * each + min(rank, longer)
    return begin, begin + each + (rank < longer)


@dataclass(frozen=True)
class _Share:
    chosen: slice  # of the epoch
    counted: int
    total: int


def _batches(
    reader: SplitReader | ResidentSplit,
    order: np.ndarray,
    draws: Draws,
    side: int,
    shares: list[_Share],
    loading: Loading,
) -> Iterator[Batch]:
    if isinstance(reader, ResidentSplit):
        return _cut_on_device(reader, order, draws, side, shares)
    return _read(reader, order, draws, side, shares, loading)


def _cut_on_device(
    split: ResidentSplit, order: np.ndarray, draws: Draws, side: int, shares: list[_Share]
) -> Iterator[Batch]:
    """Order and draws are copied to the device once. A batch is slices of them, and one kernel that cuts its patches on
    the current stream: the host neither copies nor waits.
    """
    arrays = (order, draws.top, draws.left, draws.mirror, draws.colour)
    numbers, top, left, mirror, colour = (torch.from_numpy(array).to(split.images.device) for array in arrays)
    labels, patches = split.labels[numbers], split.patches(side)
    for part in shares:
        c = part.chosen
        images = patches[numbers[c], top[c], left[c]]
        yield Batch(images, labels[c], top[c], left[c], mirror[c], colour[c], part.counted, part.total)


def _read(
    reader: SplitReader, order: np.ndarray, draws: Draws, side: int, shares: list[_Share], loading: Loading
) -> Iterator[Batch]:
    def request(batch: int) -> Request:
        numbers, drawn = order[shares[batch].chosen], draws[shares[batch].chosen]
        return Request(batch, numbers, reader.index[numbers], drawn.top, drawn.left)

    requests = (request(batch) for batch in range(len(shares)))
    for part, images in zip(shares, patches_of(reader.shards, side, requests, len(shares), loading), strict=True):
        drawn = draws[part.chosen]
        batch = Batch(
            images=images,
            labels=torch.from_numpy(reader.labels[order[part.chosen]]),
            top=torch.from_numpy(drawn.top),
            left=torch.from_numpy(drawn.left),
            mirror=torch.from_numpy(drawn.mirror),
            colour=torch.from_numpy(drawn.colour),
            counted=part.counted,
            total=part.total,
        )
        yield batch.pin_memory() if loading.pin else batch
