"""SIGINT (Ctrl-C) and SIGTERM: the first asks for an orderly end, the second gets one at once."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any


class Stopped(Exception):
    """The run was asked to stop, and has saved all steps that it did."""


class StopRequest:
    """True once a signal has asked the process to stop; `by` is its name. Listens while the context is open."""

    def __init__(self, same_within: float = 0.0) -> None:
        """`same_within`: seconds in which a second signal counts as the first. torchrun passes on to its processes what
        the terminal has sent to them already.
        """
        self.by: str | None = None
        self._when = 0.0
        self._same_within = same_within
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.by is not None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.by is not None:
            if now - self._when > self._same_within:
                os._exit(128 + number)
            return
        self.by, self._when = signal.Signals(number).name, now
        # Not print, which fails if the signal came while something else was being printed.
        stderr = sys.__stderr__.fileno() if sys.__stderr__ else 2
        os.write(stderr, b"\nstopping after this step; once more to stop at once\n")
