"""One TensorBoard event file, written so that a full disk costs a training run nothing.

TensorBoard's own writer hands events to a thread that dies with the first failed write and leaves half a record behind.
"""

import io
import itertools
import os
import re
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from data_prep.common.files import AppendOnlyFile

_SECONDS_BETWEEN_FLUSHES = 10.0  # TensorBoard looks every 30 seconds
_counter = itertools.count()


class EventFile(AppendOnlyFile):
    """A new event file in `folder`. Readers forget what earlier files of the folder have at `purge_step` and later."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        super().__init__(folder / _name_after(folder))
        self._flushed = time.monotonic()
        self._put(Event(file_version="brain.Event:2"))
        self._put(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Summary, step: int) -> None:
        self._put(Event(summary=summary, step=step))
        if time.monotonic() - self._flushed >= _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        super().flush()

    def _put(self, event: Event) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self.append(record.getvalue())


def _name_after(folder: Path) -> str:
    """A name that sorts behind those in `folder`: TensorBoard reads in that order, and a clock may be set back."""
    try:
        found = [re.match(r"events\.out\.tfevents\.(\d+)", entry.name) for entry in folder.iterdir()]
    except OSError:
        found = []
    seconds = max([int(time.time()), *(int(match[1]) + 1 for match in found if match)])
    return f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{next(_counter)}"
