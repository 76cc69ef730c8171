"""Batches of uint8 from a prepared data set. Workers only read, decode and cut; the rest runs on the device.

A worker gets its work with each request, a few KB of index rows and offsets, and knows nothing else: it is cheap to
start by fork, spawn or forkserver, whatever the size of the data set. Its reply is the patches, in shared memory.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from alexnet_repro.config import RuntimeConfig
from alexnet_repro.data.augment import Draws
from alexnet_repro.data.batch import Batch
from alexnet_repro.data.resident import ResidentSplit
from alexnet_repro.data.workers import LoaderError, Loading, Request, patches_of
from data_prep.common.progress import progress_bar
from data_prep.reader import SplitReader

__all__ = ["Batch", "LoaderError", "Loading", "epoch_batches", "whole_images"]


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


def with_progress(batches: Iterable[Batch], images: int, what: str) -> Iterator[Batch]:
    """The same batches, with a bar on stderr that counts images and vanishes at the end."""
    with progress_bar(images, what, stays=False) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.labels))


def loading_for(
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
