"""Signals that ask for an orderly end (endings.STOP_SIGNALS). A second SIGINT (Ctrl-C) or SIGTERM gets one at once; the
others may come again and again, as SIGXCPU does every second.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from data_prep.common.endings import STOP_SIGNALS, discard_unread_output

_AT_ONCE = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The run was asked to stop, and has saved all steps that it did."""


class StopRequest:
    """`asked` once a signal has asked the process to stop, `by` its name. Listens while the context is open."""

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
            for number in STOP_SIGNALS:
                # nohup has SIGHUP ignored, and it stays so.
                if number in _AT_ONCE or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        return self.by is not None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        discard_unread_output()  # of a closed terminal; else the next line printed would be an error
        if self.by is not None:
            if number in _AT_ONCE and now - self._when > self._same_within:
                os._exit(128 + number)
            return
        self.by, self._when = signal.Signals(number).name, now
        # Not print, which fails if the signal came while something else was being printed.
        stderr = sys.__stderr__.fileno() if sys.__stderr__ else 2
        with suppress(OSError):  # a pipe that nobody empties
            os.write(stderr, b"\nstopping after this step; once more to stop at once\n")
