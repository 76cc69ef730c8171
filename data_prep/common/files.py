"""Files on disk: written atomically, locked, and checked by their checksum."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.common.errors import RequestError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


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
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk stays no fuller than it was
        raise
    partial.replace(path)


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Holds a lock on the file `path`; RequestError, about `what`, if another process does. No lock where there is no
    flock (Windows).
    """
    with path.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RequestError(f"{what}: another process is at work on it; wait for it, or stop it") from None
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
