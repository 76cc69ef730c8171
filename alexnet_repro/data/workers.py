"""Processes that read, decode and cut, and what happens when one of them dies, hangs, or is interrupted."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data_prep.common.endings import STOP_SIGNALS
from data_prep.common.errors import RunError
from data_prep.reader import Shards

_AHEAD = 2  # batches that each worker may be ahead; each lies in shared memory, 19 MB for 128 patches of 224
_LOOK_AFTER_WORKERS = 1.0  # seconds between two looks at whether all are alive
_MORE_MEMORY = "start again with fewer runtime.workers (0: none), or more /dev/shm (docker run --shm-size=1g)"
_PATIENCE = 5.0  # seconds that a batch may still take once the run is asked to stop
_DYING = 2.0  # seconds that a worker may take to be seen dead after its connection broke


class LoaderError(RunError):
    """A loader process died or was too slow. The data may be well."""


@dataclass(frozen=True)
class Loading:
    """How batches are read: by how many processes besides this one, and whether into pinned memory.

    timeout: seconds to wait for one batch before the run stops; 0: for ever. asked_to_stop: once it says so, the wait
    for a batch is over after _PATIENCE seconds.
    """

    workers: int
    pin: bool = False
    timeout: float = 0
    asked_to_stop: Callable[[], bool] | None = None


@dataclass
class Request:
    """One batch: N images and where to cut them."""

    batch: int  # its place in the order of requests
    numbers: np.ndarray  # int64 [N]: which images, for messages
    rows: np.ndarray  # of the index, [N]
    top: np.ndarray  # int64 [N]
    left: np.ndarray  # int64 [N]


class _Patches(Dataset["Tensor | RunError"]):
    """Maps a Request to uint8 [N, side, side, C].

    An error is an item too: raised in a worker, it would reach the user as the worker's traceback.
    """

    def __init__(self, shards: Shards, side: int, workers: int) -> None:
        self.shards, self.side = shards, side
        # A line for each worker: the batch and the shard it is at. What it leaves behind if it dies.
        self.notes = torch.full((workers, 2), -1, dtype=torch.int64).share_memory_()

    def __getitem__(self, request: Request) -> Tensor | RunError:
        worker = get_worker_info()
        shape = (len(request.rows), self.side, self.side, self.shards.shape[2])
        try:
            images = _shared(shape) if worker else torch.empty(shape, dtype=torch.uint8)
            reading = None
            if worker:
                note = self.notes[worker.id].numpy()
                note[:] = request.batch, -1
                reading = note[1:]
            self.shards.patches(request.rows, request.numbers, request.top, request.left, images.numpy(), reading)
        except RunError as error:
            return error
        except (OSError, MemoryError, RuntimeError) as error:  # RuntimeError: no room in shared memory
            reason = " ".join(str(error).split())
            return LoaderError(f"a loader process cannot go on ({reason}); {_MORE_MEMORY}")
        return images


def _shared(shape: tuple[int, ...]) -> Tensor:
    """An uninitialised uint8 tensor in shared memory: filled there, it reaches the parent without a copy."""
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def patches_of(
    shards: Shards, side: int, requests: Iterator[Request], count: int, loading: Loading
) -> Iterator[Tensor]:
    """The patches of `count` requests in their order, each uint8 [N, side, side, C].

    RunError if an image cannot be read, LoaderError if a worker died or the wait was longer than loading.timeout;
    both name the shard.
    """
    if count == 0:
        return
    workers = min(loading.workers, count)
    dataset = _Patches(shards, side, workers)
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=requests,  # any iterable will do
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=loading.pin,
        timeout=_LOOK_AFTER_WORKERS if workers else 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # or the loader would draw from the run's own
    )
    with _undisturbed_start():
        iterator: Any = iter(loader)
    processes = iterator._workers if workers else []
    try:
        for batch in range(count):
            item = _next(iterator, processes, dataset, batch, loading)
            if isinstance(item, RunError):
                raise item
            yield item
    except LoaderError:
        for process in processes:
            process.kill()  # one that hangs would hold up the end of the run
        raise
    finally:
        if processes:
            iterator._shutdown_workers()  # now, not when the last traceback that holds the iterator is let go
            for process in processes:
                if process.is_alive():  # hanging, and deaf to the SIGTERM that it was sent
                    process.kill()


def _start_worker(_: int) -> None:
    """Ctrl-C, and torchrun's SIGTERM, reach every process of the group; the parent hears them, finishes its step, and
    ends the workers. A worker whose parent is gone ends by itself.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _undisturbed_start() -> Iterator[None]:
    """Around the start of workers.

    They inherit the signals blocked: a worker that is still starting has not yet said that it ignores them. And the
    handler by which DataLoader would raise a worker's death in the main thread, in the middle of whatever it is at, is
    taken away again: we look after the workers when we wait for them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # its own start would unblock them again
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _next(iterator: Any, processes: list[Any], dataset: _Patches, batch: int, loading: Loading) -> Any:
    """The loader's next item. DataLoader gives up after _LOOK_AFTER_WORKERS, and can be asked again."""
    started = time.monotonic()
    while True:
        try:
            return next(iterator)
        except (RuntimeError, OSError, EOFError) as error:
            if not processes:
                raise
            timed_out = "timed out" in str(error)
            _raise_if_dead(processes, dataset, 0 if timed_out else _DYING)
            if not timed_out:
                raise
        pinning = getattr(iterator, "_pin_memory_thread", None)
        if pinning is not None and not pinning.is_alive():
            raise LoaderError("the thread that pins memory died; start again with fewer runtime.workers")
        limit = _PATIENCE if loading.asked_to_stop and loading.asked_to_stop() else loading.timeout
        if limit and time.monotonic() - started >= limit:
            raise LoaderError(
                f"waited {limit:g} s for a batch; {_whereabouts(dataset, dataset.notes[:, 0] == batch)}; look at the "
                "disk it lies on, or start again with a longer runtime.loader_timeout"
            )


def _raise_if_dead(processes: list[Any], dataset: _Patches, patience: float) -> None:
    until = time.monotonic() + patience
    while True:
        dead = [number for number, process in enumerate(processes) if not process.is_alive()]
        if dead:
            code = processes[dead[0]].exitcode
            how = f"exit code {code}" if code >= 0 else f"signal: {signal.strsignal(-code)}"
            raise LoaderError(
                f"a loader process died ({how}); {_whereabouts(dataset, torch.tensor(dead))}; was memory short? "
                f"If so, {_MORE_MEMORY}"
            )
        if time.monotonic() >= until:
            return
        time.sleep(0.05)


def _whereabouts(dataset: _Patches, workers: Tensor) -> str:
    shards = [shard for shard in dataset.notes[workers, 1].tolist() if shard >= 0]
    return f"it was reading {dataset.shards.path(shards[0])}" if shards else "it had not begun to read"
