"""Processes that read, decode and cut into the slots of a ring, from the start of a run to its end; and what happens
when one of them dies, hangs, or is interrupted.

Batch k is read by worker k modulo their number, and taken in order. What is asked for lies in the slot, so that a
message is four integers (slot, images, side, source); the answer is empty, or a pickled error.
"""

import atexit
import multiprocessing
import pickle
import select
import signal
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import reduction, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import numpy as np
import torch

from alexnet_repro.data.batch import Batch, Draws
from alexnet_repro.data.ring import Ring
from data_prep.common.endings import STOP_SIGNALS
from data_prep.common.errors import RunError
from data_prep.common.text import one_line
from data_prep.reader import Shards

_MESSAGE = struct.Struct("4q")  # slot, images, side, source; Connection.send would pickle them
_AHEAD = 2  # batches that each worker may be ahead
_IN_USE = 3  # batches that may be in use meanwhile: one computed on, one being copied, one whose copy is just done
_LOOK_AFTER_WORKERS = 1.0  # seconds between two looks at whether all are alive
_PATIENCE = 5.0  # seconds that a batch may still take once the run is asked to stop
_DYING = 2.0  # seconds that a worker may take to be seen dead


class LoaderError(RunError):
    """A loader process died or was too slow. The data themselves may be sound."""


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
    """One batch: N images of a split, and where to cut them."""

    shards: Shards
    side: int
    rows: np.ndarray  # of the index, [N]
    numbers: np.ndarray  # int64 [N]: which images, for messages
    labels: np.ndarray  # int64 [N]
    draws: Draws | None  # what is drawn for the N images (colour all 0 without noise); None: whole images
    elsewhere: int = 0  # Batch's own fields
    stands_in: bool = False

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known before the images are read, under the names that Ring has for it."""
        if self.draws is None:
            draws = {"top": np.zeros_like(self.numbers), "left": np.zeros_like(self.numbers)}
        else:
            draws = {name: tensor.numpy() for name, tensor in vars(self.draws).items()}
        return {"rows": self.rows, "numbers": self.numbers, "labels": self.labels, **draws}

    def batch(self, found: dict[str, torch.Tensor]) -> Batch:
        """`found`: as `arrays`, and the images."""
        draws = self.draws and Draws(*(found[name] for name in vars(self.draws)))
        return Batch(found["images"], found["labels"], draws, self.elsewhere, self.stands_in)


@dataclass
class _UnderWay:
    request: Request
    stream: int
    worker: int
    slot: int
    arrays: dict[str, np.ndarray]  # in the slot, which they keep


class Workers:
    """The processes, while the context is open.

    Streams of requests are read one after the other, in the order in which `read` was called, also ahead of the batch
    that was asked for: while the last batches of one are taken, the first of the next are read.
    """

    def __init__(self, sources: Sequence[Shards], images: int, side: int, loading: Loading) -> None:
        """For requests of at most `images` images of these sources, cut to `side` at most."""
        if not hasattr(reduction, "DupFd"):  # Windows: no memory to share without a name
            loading = replace(loading, workers=0)
        self._sources, self._images, self._side, self._loading = list(sources), images, side, loading
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        self._pollers: list[select.poll] = []  # of the connections; Connection.poll would make one for each call
        self._streams: deque[tuple[int, Iterator[Request]]] = deque()
        self._under_way: deque[_UnderWay] = deque()  # in the order in which they are taken
        self._streams_begun = self._requests_given = 0

    def __enter__(self) -> "Workers":
        count = self._loading.workers
        if not count:
            return self
        slots, channels = _AHEAD * count + _IN_USE, self._sources[0].shape[2]
        try:
            self._ring = Ring(slots, self._images, self._side, channels, count, self._loading.pin)
            with _signals_blocked():
                for number in range(count):
                    connection, theirs = multiprocessing.Pipe()
                    process = multiprocessing.Process(
                        target=_work, args=(theirs, self._ring, number, self._sources), daemon=True
                    )
                    self._connections.append(connection)
                    self._pollers.append(select.poll())
                    self._pollers[-1].register(connection, select.POLLIN)
                    process.start()
                    self._processes.append(process)
                    theirs.close()
        except (OSError, MemoryError) as error:
            self.close()
            raise LoaderError(
                f"{count} loader processes cannot be started ({error}); start again with fewer runtime.workers"
            ) from None
        atexit.register(self.close)  # before multiprocessing waits for them
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, hanging ones too. They have nothing to lose, so they are not asked."""
        atexit.unregister(self.close)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(_DYING)
        for connection in self._connections:
            connection.close()
        self._processes, self._connections, self._pollers = [], [], []
        self._streams.clear()
        self._under_way.clear()

    def read(self, requests: Iterator[Request]) -> Iterator[Batch]:
        """The batches of a stream, in its order. Asking it for a batch gives up all earlier streams.

        RunError if an image cannot be read, LoaderError if a worker died or the wait was longer than loading.timeout;
        both name the shard. With workers the tensors lie in a slot of the ring: see ring.py for how long.
        """
        if not self._loading.workers:
            return (self._read_here(request) for request in requests)
        self._streams_begun += 1
        self._streams.append((self._streams_begun, requests))
        return self._batches(self._streams_begun)

    def _read_here(self, request: Request) -> Batch:
        known, side = request.arrays(), request.side
        images = np.empty((len(request.rows), side, side, request.shards.shape[2]), np.uint8)
        request.shards.patches(request.rows, request.numbers, known["top"], known["left"], images)
        del known["rows"]  # of a type that PyTorch lacks
        batch = request.batch({name: torch.from_numpy(a) for name, a in {**known, "images": images}.items()})
        return batch.map(torch.Tensor.pin_memory) if self._loading.pin else batch

    def _batches(self, stream: int) -> Iterator[Batch]:
        try:
            yield from iter(lambda: self._next(stream), None)  # nothing here holds a batch that was handed out
        except LoaderError:
            self.close()
            raise
        finally:
            self._give_up(stream)

    def _give_up(self, last: int) -> None:
        """Requests nothing more of the streams up to `last`."""
        while self._streams and self._streams[0][0] <= last:
            self._streams.popleft()

    def _next(self, stream: int) -> Batch | None:
        self._give_up(stream - 1)
        while True:
            self._give_work()
            if not self._under_way or self._under_way[0].stream > stream:
                return None
            done = self._under_way[0]
            error = self._answer(done)
            self._under_way.popleft()
            if done.stream < stream:  # given up
                self._ring.free.append(done.slot)
                continue
            found = self._ring.lend(done.slot, done.arrays)
            if error is not None:
                raise error
            batch = done.request.batch(found)
            # One slot stays in the ring: a caller who keeps all batches gets copies of the rest.
            return batch if self._under_way or self._ring.free else batch.map(torch.clone)

    def _give_work(self) -> None:
        """Gives the workers requests until each has as many as it may be ahead, or no slot is free."""
        ring, count = self._ring, len(self._processes)
        while self._streams and ring.free and len(self._under_way) < _AHEAD * count:
            stream, requests = self._streams[0]
            request = next(requests, None)
            if request is None:
                self._streams.popleft()
                continue
            slot, images = ring.take(), len(request.rows)
            arrays = ring.arrays(slot, images, request.side)
            for name, array in request.arrays().items():
                arrays[name][:] = array
            worker = self._requests_given % count
            self._under_way.append(_UnderWay(request, stream, worker, slot, arrays))
            self._requests_given += 1
            with suppress(OSError):  # it is dead: seen when its answer is waited for
                source = self._sources.index(request.shards)
                self._connections[worker].send_bytes(_MESSAGE.pack(slot, images, request.side, source))

    def _answer(self, asked: _UnderWay) -> RunError | None:
        """What the worker answers: None once the images are there, or why they are not."""
        connection, poller = self._connections[asked.worker], self._pollers[asked.worker]
        loading, started = self._loading, time.monotonic()
        while True:
            try:
                if poller.poll(1000 * _LOOK_AFTER_WORKERS):  # milliseconds
                    answer = connection.recv_bytes()
                    return pickle.loads(answer) if answer else None
            except (OSError, EOFError):
                self._processes[asked.worker].join(_DYING)
            for number, process in enumerate(self._processes):
                if not process.is_alive():
                    code = process.exitcode or 0
                    how = f"exit code {code}" if code >= 0 else f"signal: {signal.strsignal(-code)}"
                    raise LoaderError(
                        f"a loader process died ({how}); {self._whereabouts(number)}; was memory short? "
                        "Start again with fewer runtime.workers"
                    )
            limit = _PATIENCE if loading.asked_to_stop and loading.asked_to_stop() else loading.timeout
            if limit and time.monotonic() - started >= limit:
                raise LoaderError(
                    f"waited {limit:g} s for a batch; {self._whereabouts(asked.worker)}; look at the disk it lies on, "
                    "or start again with a longer runtime.loader_timeout"
                )

    def _whereabouts(self, worker: int) -> str:
        source, shard = self._ring.notes[worker].tolist()
        return f"it was reading {self._sources[source].path(shard)}" if shard >= 0 else "it had not begun to read"


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Around the start of workers, which inherit it: one that is still starting does not ignore them yet."""
    if multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # its own start would unblock them again
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _work(connection: Connection, ring: Ring, worker: int, sources: Sequence[Shards]) -> None:
    """The loop of a worker process; ends with the parent. Ctrl-C, and torchrun's SIGTERM, reach every process of the
    group and are ignored here: the parent hears them, finishes its step, and ends the workers.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    note = ring.notes[worker]
    with suppress(OSError, EOFError):
        while parent.sentinel not in wait([connection, parent.sentinel]):
            slot, images, side, source = _MESSAGE.unpack(connection.recv_bytes())
            batch, answer = ring.arrays(slot, images, side), b""
            note[:] = source, -1
            try:
                sources[source].patches(
                    batch["rows"], batch["numbers"], batch["top"], batch["left"], batch["images"], note[1:]
                )
            except RunError as error:  # raised here, it would reach the user as the worker's traceback
                answer = pickle.dumps(error)
            except (OSError, MemoryError) as error:
                answer = pickle.dumps(LoaderError(f"a loader process cannot go on ({one_line(error)})"))
            note[1] = -1
            connection.send_bytes(answer)
