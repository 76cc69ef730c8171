"""Writes a run's checkpoints while the run goes on, and tries again where the disk is full."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path

from torch import Tensor

from alexnet_repro.runs.checkpoint import Checkpoint
from alexnet_repro.runs.folder import LAST, PREVIOUS, RunFolder
from alexnet_repro.training.background import Background
from data_prep.common.errors import RunError

RETRY_SECONDS = 30.0


class Saver:
    """Writes checkpoints so that at any moment `last` or else `previous` is a whole one.

    The main thread copies a checkpoint, and `background` writes it. There is memory for one copy: the next save waits
    until the one before is written, or has failed. What a full disk refuses is pending: kept in memory, by name, and
    tried again.
    """

    def __init__(self, folder: RunFolder, minutes: float, background: Background) -> None:
        """`minutes`: within an epoch the last checkpoint gets no older than this."""
        self._folder = folder
        self._seconds = 60 * minutes
        self._background = background
        self._writing: Future[None] | None = None
        self._memory: dict[str, Tensor] = {}  # of the copy that is being written
        self._tried = time.monotonic()
        self._pending: dict[str, Checkpoint] = {}  # by name, with tensors of their own; see `_write_or_keep`

    def due(self) -> bool:
        """Whether the last checkpoint is too old, or a pending one is to be tried again."""
        return time.monotonic() - self._tried >= (min(RETRY_SECONDS, self._seconds) if self._pending else self._seconds)

    def pending(self) -> bool:
        """Whether something could not be written, once all has been tried."""
        self._wait()
        return bool(self._pending)

    def save(self, checkpoint: Checkpoint, also: Sequence[str] = ()) -> None:
        """Writes it as `last`, and under the names `also`, after all that was submitted to the background before."""
        self._wait()
        self._tried = time.monotonic()
        self._writing = self._background.submit(self._write_all, checkpoint.copied(self._memory), [*also, LAST])

    def finish(self, stop: Callable[[], bool]) -> None:
        """Tries until all is written. RunError if `stop` says so before."""
        while self.pending():
            if stop():
                raise RunError(f"{self._folder.checkpoints}: the last checkpoint could not be written; free some space "
                               "and start again to continue")  # fmt: skip
            time.sleep(min(1.0, RETRY_SECONDS))
            if self.due():
                self._tried = time.monotonic()
                self._write_pending()

    def raise_if_unsaved(self, step: int) -> None:
        """RunError if the run stops after `step` and that could not be saved."""
        if self.pending():
            raise RunError(f"{self._folder.checkpoints}: the checkpoint of step {step} could not be written; all "
                           "steps after the last checkpoint are lost. Free some space, and start again")  # fmt: skip

    def _wait(self) -> None:
        if self._writing is not None:
            wait([self._writing])

    def _write_all(self, checkpoint: Checkpoint, names: list[str]) -> None:
        if self._write_or_keep(checkpoint, names):
            self._write_pending()

    def _write_pending(self) -> None:
        for name, checkpoint in list(self._pending.items()):
            self._write_or_keep(checkpoint, [name])

    def _write_or_keep(self, checkpoint: Checkpoint, names: list[str]) -> bool:
        """False if the disk refuses it: says so once, and keeps it as pending under all `names`."""
        try:
            self._write(checkpoint, names)
        except OSError as error:
            for rest in (*self._folder.checkpoints.glob("*.partial"), self._folder.checkpoint_path("new")):
                rest.unlink(missing_ok=True)  # a full disk stays no fuller than it was
            if not all(name in self._pending for name in names):
                print(
                    f"warning: {self._folder.checkpoints}: the checkpoint of step {checkpoint.step} cannot be written "
                    f"({error.strerror or error}); the ones before are kept, and it is tried again every "
                    f"{RETRY_SECONDS:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
            is_pending = any(checkpoint is kept for kept in self._pending.values())
            self._pending |= dict.fromkeys(names, checkpoint if is_pending else checkpoint.copied())
            return False
        if any(name in self._pending for name in names):
            print(f"the checkpoint of step {checkpoint.step} is written", file=sys.stderr, flush=True)
        for name in names:
            self._pending.pop(name, None)
        return True

    def _write(self, checkpoint: Checkpoint, names: list[str]) -> None:
        """Writes one file under all names. `last` comes last: it is what a killed run continues from."""
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
    """A hard link: a second name for the same bytes. A copy where the file system has no hard links."""
    beside = target.with_name(target.name + ".partial")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
    beside.replace(target)
