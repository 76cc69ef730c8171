"""One thread beside the training: it encodes images and writes files, so that the main thread need only copy."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_MOST = 200  # tasks that may wait; numbers, an image or two, and one checkpoint


class Background:
    """Runs tasks one after the other, in the order in which they were submitted.

    An exception in a task is raised in the main thread, once, by the next `submit`, `wait` or `close`; the tasks behind
    the failed one are dropped, since each may rely on those before it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")  # a thread once it is needed
        self._submitted: deque[Future[None]] = deque()
        self._error: BaseException | None = None
        self._failed = False

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Future[None]:
        """Waits only where too many tasks wait already. No argument may be changed afterwards."""
        while self._submitted and (self._submitted[0].done() or len(self._submitted) >= _MOST):
            self._submitted.popleft().result()
        self._raise()
        self._submitted.append(self._pool.submit(self._run, task, arguments))
        return self._submitted[-1]

    def wait(self, task: Future[None] | None = None) -> None:
        """Until all tasks are done, or those up to `task`, which `submit` gave."""
        while self._submitted and not (task and task.done()):
            self._submitted.popleft().result()
        self._raise()

    def close(self) -> None:
        """Until all tasks are done."""
        self._pool.shutdown()
        self._raise()

    def _run(self, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if not self._failed:
            try:
                task(*arguments)
            except BaseException as error:
                self._error, self._failed = error, True

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
