"""One thread beside the training, which encodes images and writes files: the main thread only copies."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_MOST = 200  # tasks that may wait; numbers, an image or two, and one checkpoint


class Background:
    """Runs tasks one after the other, in the order in which they were submitted; at the end of the context all are run.

    An exception of a task is raised in the main thread, once, by the next `submit` or at the end of the context. The
    tasks behind the failed one are dropped, since each may rely on those before it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")  # started by the first task
        self._submitted: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for task in self._submitted:
            task.result()  # raises what the task has raised

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Future[None]:
        """Waits only where _MOST tasks wait already. No argument may be changed afterwards."""
        while self._submitted and (self._submitted[0].done() or len(self._submitted) >= _MOST):
            self._submitted.popleft().result()
        self._submitted.append(self._pool.submit(self._run, task, arguments))
        return self._submitted[-1]

    def _run(self, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if self._failed:
            return
        try:
            task(*arguments)
        except BaseException:
            self._failed = True
            raise
