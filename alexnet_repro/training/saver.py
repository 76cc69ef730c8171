"""Writes a run's checkpoints while the run goes on, and goes on trying where the disk is full."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from torch import Tensor

from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import LAST, PREVIOUS, RunFolder
from alexnet_repro.training.background import Background

RETRY_SECONDS = 30.0


class Saver:
    """At any moment, `last` or else `previous` holds a whole checkpoint, and each name one that was whole.

    The main thread copies a checkpoint, and `background` writes it. There is memory for one copy: the next save waits
    until the one before is written, or has failed.
    """

    def __init__(self, folder: RunFolder, minutes: float, background: Background) -> None:
        """`minutes`: within an epoch the last checkpoint gets no older than this."""
        self._folder = folder
        self._minutes = minutes
        self._background = background
        self._writing: Future[None] | None = None
        self._memory: dict[str, Tensor] = {}  # of the copy that is being written
        self._tried = time.monotonic()
        self._owed: dict[str, Checkpoint] = {}  # by name, with tensors of their own; changed while one is written

    def due(self) -> bool:
        """Whether the last checkpoint is too old, or one that could not be written is to be tried again."""
        waited = time.monotonic() - self._tried
        return waited >= (min(RETRY_SECONDS, 60 * self._minutes) if self._owed else 60 * self._minutes)

    def owes(self) -> bool:
        """Whether something could not be written, once all has been tried."""
        self._wait()
        return bool(self._owed)

    def save(self, checkpoint: Checkpoint, also: Sequence[str] = ()) -> None:
        """As `last`, and under the names `also`, after all that was submitted to the background before."""
        self._wait()
        self._tried = time.monotonic()
        self._writing = self._background.submit(self._save, checkpoint.copied(self._memory), [*also, LAST])

    def finish(self, stop: Callable[[], bool]) -> bool:
        """Goes on trying until all is written; False if `stop` says so before."""
        while self.owes():
            if stop():
                return False
            time.sleep(min(1.0, RETRY_SECONDS))
            if self.due():
                self._tried = time.monotonic()
                for name, checkpoint in list(self._owed.items()):
                    self._try(checkpoint, [name])
        return True

    def _wait(self) -> None:
        if self._writing is not None:
            self._background.wait(self._writing)

    def _save(self, checkpoint: Checkpoint, names: list[str]) -> None:
        if self._try(checkpoint, names):
            for name in [name for name in self._owed if name not in names]:
                self._try(self._owed[name], [name])

    def _try(self, checkpoint: Checkpoint, names: list[str]) -> bool:
        """False, with a line that says so, if it could not be written."""
        try:
            self._write(checkpoint, names)
        except OSError as error:
            for rest in self._folder.checkpoints.glob("*.partial"):
                rest.unlink(missing_ok=True)
            self._folder.checkpoint_path("new").unlink(missing_ok=True)
            already = all(name in self._owed for name in names)
            owed = any(checkpoint is kept for kept in self._owed.values())
            kept = checkpoint if owed else checkpoint.copied()
            self._owed |= {name: kept for name in names}
            if not already:
                print(
                    f"warning: {self._folder.checkpoints}: the checkpoint of step {checkpoint.step} cannot be written "
                    f"({error.strerror or error}); the ones before are kept, and it is tried again every "
                    f"{RETRY_SECONDS:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
            return False
        if any(name in self._owed for name in names):
            print(f"the checkpoint of step {checkpoint.step} is written", file=sys.stderr, flush=True)
        for name in names:
            self._owed.pop(name, None)
        return True

    def _write(self, checkpoint: Checkpoint, names: list[str]) -> None:
        """One file under all names; `last` comes last, for it is what a killed run goes on from."""
        new = self._folder.checkpoint_path("new")
        checkpoint.save(new)
        for name in names:
            path = self._folder.checkpoint_path(name)
            if name == LAST:
                if path.is_file():
                    path.replace(self._folder.checkpoint_path(PREVIOUS))
                new.replace(path)
            else:
                _link(new, path)
        new.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """A second name for the same bytes; a copy where the file system has no such thing."""
    beside = target.with_name(target.name + ".partial")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        beside.write_bytes(source.read_bytes())
    beside.replace(target)
