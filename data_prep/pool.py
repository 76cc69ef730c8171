"""Tasks run by several processes, which move one progress bar."""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.sharedctypes import SynchronizedArray
from multiprocessing.synchronize import Event
from typing import Protocol

from tqdm import tqdm

from data_prep.common.errors import RunError
from data_prep.common.memory import keep_freed_memory

_progress: "SynchronizedArray[int] | None" = None  # images done and bytes read, in all processes; set at their start
_stop: Event | None = None

_KEPT_BYTES = 64 << 20  # of freed memory, in each process: enough for an image of 12 megapixels
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Runnable(Protocol):
    def run(self) -> None: ...


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_image(size: int) -> None:
    """Tells the bar of an image of `size` bytes."""
    if _progress is not None:
        with _progress.get_lock():
            _progress[0] += 1
            _progress[1] += size


def is_stopped() -> bool:
    """Whether some other task has failed, or the user has interrupted."""
    return _stop is not None and _stop.is_set()


def _start_worker(progress: "SynchronizedArray[int]", stop: Event) -> None:
    global _progress, _stop
    _progress, _stop = progress, stop
    keep_freed_memory(_KEPT_BYTES)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and sets `stop`
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process if the parent alone is killed: it would go on writing what the next preparation writes, too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _context(tasks: Sequence[Runnable]) -> "multiprocessing.context.BaseContext":
    """Processes forked from one server that has imported what the tasks need; without one, each imports it anew."""
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    if not has_server or not has_room_for_sockets(tempfile.gettempdir()):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted({type(task).__module__ for task in tasks}))
    return context


def has_room_for_sockets(folder: str) -> bool:
    """Whether multiprocessing's fork server can listen below this temporary folder: the address of a socket holds 107
    bytes, on macOS 103.
    """
    return len(os.fsencode(folder)) + len("/pymp-XXXXXXXX/listener-XXXXXXXX") <= 103


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Gives processes that are started within it one thread each: there is one for every core; more would compete."""
    added = dict.fromkeys(set(_THREADS) - os.environ.keys(), "1")
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def run_tasks(tasks: Sequence[Runnable], workers: int, bar: "tqdm[None]") -> None:
    """Runs the tasks on `workers` processes, and moves the `bar` image by image. RunError if one fails."""
    if not tasks:
        return
    context = _context(tasks)
    progress, stop = context.Array("q", 2), context.Event()
    workers = min(workers, len(tasks))
    started = time.monotonic()
    with ProcessPoolExecutor(workers, context, _start_worker, (progress, stop)) as pool:
        try:
            with _one_thread_each():
                futures = {pool.submit(task.run) for task in tasks}  # which starts the processes
            pending = futures
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                images, read = progress[:]
                bar.set_postfix_str(f"{read / 1e6 / (time.monotonic() - started):.1f} MB/s", refresh=False)
                bar.update(images - (bar.n - bar.initial))
                for future in done:
                    future.result()
        except BrokenProcessPool:
            raise RunError("a worker process died (out of memory?); start again to continue") from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
