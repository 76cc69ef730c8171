"""Files that are whole or not there, held by one process, known by their checksum, or appended to."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from data_prep.common.errors import RequestError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MOST_WAITING = 64 << 20  # bytes; about a day of a training's scalars


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Replaces `path` by what `write` writes: whenever the program or the machine stops, the file is the old or the new
    one, whole.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # of a full disk Python names no file
            error.filename = str(path)
        partial.unlink(missing_ok=True)  # a full disk stays no fuller than it was
        raise
    partial.replace(path)


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Holds a lock on the file `path`; RequestError, about `what`, if another process does.

    No lock where there is no flock: on Windows, and, with a warning, on file systems without it (some NFS and Lustre).
    """
    with path.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(f"{what}: another process is at work on it; wait for it, or stop it") from None
            except OSError as error:
                print(
                    f"warning: {path}: cannot be locked on this file system ({error.strerror}); see to it that no "
                    "second process works on the same folder",
                    file=sys.stderr,
                )
            # The process before may have removed the file since it was opened here; a lock on it would mean nothing.
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                raise RequestError(f"{what}: another process has just finished it; start again to see")
        yield


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class AppendOnlyFile:
    """Appends records to a file, whole ones only; a full disk costs no record and stops no run.

    Records wait in memory until `flush`. What a failed write leaves is cut off again, the records wait for the next
    flush, and one line on stderr says so. Beyond _MOST_WAITING bytes the oldest are given up.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        """Appends after the first `length` bytes of the file, which the first flush creates if there is none."""
        self.path = path
        self._length = length
        self._waiting: list[bytes] = []
        self._failed = False

    def append(self, record: bytes) -> None:
        self._waiting.append(record)

    def flush(self) -> None:
        """Writes what waits. Never raises OSError."""
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        try:
            self._cut()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:  # anew each time: some file systems report a full disk on closing only
                file.write(data)
        except OSError as error:
            with suppress(OSError):
                self._cut()  # at once, for readers stop at half a record
            while sum(map(len, self._waiting)) > _MOST_WAITING:
                del self._waiting[: 1 + len(self._waiting) // 2]
            if not self._failed:  # tqdm.write, which does not tear a progress bar
                line = f"warning: {self.path}: cannot be written ({error.strerror}); the run goes on and tries again"
                tqdm.write(line, file=sys.stderr)
            self._failed = True
            return
        self._length += len(data)
        self._waiting, self._failed = [], False

    def _cut(self) -> None:
        if self.path.exists() and self.path.stat().st_size > self._length:
            os.truncate(self.path, self._length)
