"""One TensorBoard event file, written so that a full disk costs a training run nothing.

TensorBoard's own writer hands events to a thread that dies with the first failed write and leaves half a record behind.
Here events wait in memory until the next flush; what fails to be written is cut off again and waits for the one after.
"""

import io
import itertools
import os
import re
import socket
import sys
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

_SECONDS_BETWEEN_FLUSHES = 10.0  # TensorBoard looks every 30 seconds
_BYTES_THAT_WAIT = 64 << 20  # about a day of scalars; beyond, the oldest are given up
_counter = itertools.count()


class EventFile:
    """A new event file in `folder`. It is created with the first flush; `add` and `flush` never raise OSError.

    With `purge_step`, readers forget what earlier files of the folder have at that step and later.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        self.path = folder / _name_after(folder)
        self._waiting: list[bytes] = []
        self._good = 0  # bytes of the file that are known to be whole records
        self._flushed = time.monotonic()
        self._complained = False
        self._put(Event(file_version="brain.Event:2"))
        self._put(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Summary, step: int) -> None:
        self._put(Event(summary=summary, step=step))
        if time.monotonic() - self._flushed >= _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        block = b"".join(self._waiting)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Opened anew each time, because some file systems tell of a full disk only on closing.
            with self.path.open("ab", buffering=0) as file:
                rest = memoryview(block)
                while rest:
                    rest = rest[file.write(rest) :]
        except OSError as error:
            self._cut()
            self._complain(error)
            while sum(map(len, self._waiting)) > _BYTES_THAT_WAIT:
                del self._waiting[: 1 + len(self._waiting) // 2]
            return
        self._good += len(block)
        self._waiting.clear()

    def _put(self, event: Event) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self._waiting.append(record.getvalue())

    def _cut(self) -> None:
        """Back to whole records: readers stop for good at half a one."""
        try:
            if self.path.exists():
                os.truncate(self.path, self._good)
        except OSError:
            pass  # the next flush fails as well, or appends behind what TensorBoard skips

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            line = f"warning: {self.path}: cannot be written ({error.strerror}); training goes on and tries again"
            tqdm.write(line, file=sys.stderr)  # does not tear the progress line


def _name_after(folder: Path) -> str:
    """A name that sorts behind those in `folder`: TensorBoard reads in that order, and a clock may be set back."""
    try:
        found = [re.match(r"events\.out\.tfevents\.(\d+)", entry.name) for entry in folder.iterdir()]
    except OSError:
        found = []
    seconds = max([int(time.time()), *(int(match[1]) + 1 for match in found if match)])
    return f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{next(_counter)}"
