"""Batches of uint8 from a prepared data set. Workers only read, decode and cut; the rest runs on the device.

The way of a batch: `epoch_batches` makes a Request of each (which images, where to cut them); `Workers` writes it into
a free slot of the Ring, where a worker process adds the pixels (workers.py, ring.py); what the trainer gets is a Batch,
tensors in that slot, which `on_devices` copies to the GPUs (prefetch.py), and of which `ColumnInputs` makes the
network's input (inputs.py). The slot is free again when nothing holds the Batch.

A worker knows the shards and the ring. What it is to read, a few KB of index rows and offsets, lies in the batch's
slot, so it is cheap to start by fork, spawn or forkserver, whatever the size of the data set.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from alexnet_repro.config import RuntimeConfig
from alexnet_repro.data.batch import Batch, Draws
from alexnet_repro.data.resident import ResidentSplit
from alexnet_repro.data.workers import Loading, Request, Workers
from data_prep.common.errors import RequestError
from data_prep.common.progress import progress_bar
from data_prep.pool import cores, has_room_for_sockets
from data_prep.reader import SplitReader


def epoch_batches(
    reader: SplitReader | ResidentSplit,
    order: np.ndarray,
    draws: Draws,
    side: int,
    batch_size: int,
    loading: Loading | Workers,
    *,
    first: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """The global batches first, first + 1, ... of an epoch; of each the contiguous share of `rank` among `ranks`.

    order: int64 [M], the images of the epoch; draws: M, in the same order; side: of the patches. loading: the run's
    Workers, or how to read, by workers that live as long as the iterator. (A ResidentSplit is cut on its device.)
    The last batch may be short; a rank that would get nothing of it gets the batch's first image, not counted.
    RunError, naming the shard, if an image cannot be read; LoaderError if a worker process died or was too slow.
    """
    parts = []
    for start in range(first * batch_size, len(order), batch_size):
        count = min(batch_size, len(order) - start)
        begin, end = share(count, rank, ranks)
        own = end - begin
        chosen = slice(start + begin, start + end) if own else slice(start, start + 1)
        parts.append(_Part(chosen, elsewhere=count - own, stands_in=not own))
    return _batches(reader, order, draws, side, parts, loading)


def whole_images(
    reader: SplitReader | ResidentSplit,
    side: int,
    batch_size: int,
    loading: Loading | Workers,
    *,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """Every image of a split exactly once over all ranks, uncut, as the test views need them.

    side: of the images. A rank gets a contiguous share, in order; it may be empty. Errors as `epoch_batches`.
    """
    begin, end = share(len(reader), rank, ranks)
    parts = [_Part(slice(start, min(start + batch_size, end))) for start in range(begin, end, batch_size)]
    return _batches(reader, np.arange(len(reader)), None, side, parts, loading)


def share(count: int, rank: int, ranks: int) -> tuple[int, int]:
    """Which of `count` are of `rank`: from, to. Contiguous, the first count % ranks one longer, as np.array_split."""
    each, longer = divmod(count, ranks)
    begin = rank * each + min(rank, longer)
    return begin, begin + each + (rank < longer)


@dataclass(frozen=True)
class _Part:
    """One batch: which of the epoch's images, and Batch's own fields."""

    chosen: slice
    elsewhere: int = 0
    stands_in: bool = False


def _batches(
    reader: SplitReader | ResidentSplit,
    order: np.ndarray,
    draws: Draws | None,
    side: int,
    parts: list[_Part],
    loading: Loading | Workers,
) -> Iterator[Batch]:
    """The parts of `order` as batches, cut to `side`: at `draws`, or whole."""
    if isinstance(reader, ResidentSplit):
        return _cut_on_device(reader, order, draws, side, parts)

    def request(part: _Part) -> Request:
        numbers = order[part.chosen]
        drawn = draws[part.chosen] if draws else None
        rows, labels = reader.index[numbers], reader.labels[numbers]
        return Request(reader.shards, side, rows, numbers, labels, drawn, part.elsewhere, part.stands_in)

    requests = map(request, parts)
    if isinstance(loading, Workers):
        return loading.read(requests)
    largest = max((part.chosen.stop - part.chosen.start for part in parts), default=0)
    of_their_own = replace(loading, workers=min(loading.workers, len(parts)))  # no more processes than batches
    return _read_alone(Workers([reader.shards], largest, side, of_their_own), requests)


def _cut_on_device(
    split: ResidentSplit, order: np.ndarray, draws: Draws | None, side: int, parts: list[_Part]
) -> Iterator[Batch]:
    """Order and draws are copied to the device once. A batch is slices of them, and one kernel that cuts its patches on
    the current stream: the host neither copies nor waits.
    """
    numbers = torch.from_numpy(order).to(split.images.device)
    draws = draws.to(split.images.device) if draws else None
    labels, patches = split.labels[numbers], split.patches(side)
    for part in parts:
        chosen = part.chosen
        drawn = draws[chosen] if draws else None
        top, left = (drawn.top, drawn.left) if drawn else (0, 0)
        yield Batch(patches[numbers[chosen], top, left], labels[chosen], drawn, part.elsewhere, part.stands_in)


def _read_alone(workers: Workers, requests: Iterator[Request]) -> Iterator[Batch]:
    with workers:
        yield from workers.read(requests)


def with_progress(batches: Iterable[Batch], images: int, what: str) -> Iterator[Batch]:
    """The same batches, with a bar on stderr that counts images and vanishes at the end."""
    with progress_bar(images, what, stays=False) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.labels))


def loading_for(
    config: RuntimeConfig, pin: bool, processes: int = 1, asked_to_stop: Callable[[], bool] | None = None
) -> Loading:
    """How batches are read, by one of `processes` here. RequestError if TMPDIR is too long for a fork server."""
    workers = loader_workers(config, processes)
    folder = tempfile.gettempdir()
    forkserver = multiprocessing.get_start_method() == "forkserver"  # which alone has a socket
    if workers and forkserver and not has_room_for_sockets(folder):
        raise RequestError(
            f"TMPDIR={folder}: too long for the sockets of loader processes; set TMPDIR to a shorter path, such as "
            "/tmp, or give runtime.workers=0"
        )
    return Loading(workers, pin, config.loader_timeout, asked_to_stop)


def loader_workers(config: RuntimeConfig, processes: int = 1) -> int:
    """The processes that read and decode, besides each of the `processes` that train on this machine."""
    if config.workers is not None:
        return config.workers
    return min(16, max(1, cores() // processes - 1))


def note_on_workers(config: RuntimeConfig, processes: int = 1) -> str | None:
    """A line about more loader processes than cores, on which they would only wait for each other."""
    workers = config.workers or 0
    if workers * processes <= cores():
        return None
    each = f" for each of {processes} processes" if processes > 1 else ""
    return f"note: runtime.workers={workers}{each}, and there are {cores()} cores; leave it out to take what fits"
