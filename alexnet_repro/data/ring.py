"""Slots of shared memory, one batch each: workers fill them in place, and devices copy from them.

When a slot is free again. The tensors of a batch lie in its slot and keep it: the slot returns to the ring when the
last tensor that shares its memory is gone, wherever it was passed on to. So whoever keeps a batch keeps its numbers;
and whoever copies from it asynchronously must hold the batch until the copy is done, as for any tensor in memory that
PyTorch did not allocate (on_devices does).

The memory is a file without a name, so nothing of it is left behind however a run ends, and it does not count against
/dev/shm.
"""

import mmap
import os
import sys
import tempfile
import weakref
from collections import deque
from contextlib import suppress
from multiprocessing import reduction

import numpy as np
import torch
from torch import Tensor

from data_prep.format import INDEX_DTYPE

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every GPU


class Ring:
    """`slots` of at most `images` images, [side, side, channels], with index rows, labels and draws; and for each of
    the workers a note, int64 [2], of what it is reading: which of the sources and which of its shards, -1 for none.

    Pickled while a process is started, it is the same memory there.
    """

    def __init__(self, slots: int, images: int, side: int, channels: int, workers: int, pin: bool) -> None:
        """`pin`: pages are pinned for GPUs before a slot is first filled. OSError if the memory cannot be had."""
        shapes: dict[str, tuple[np.dtype, int]] = {
            "images": (np.dtype(np.uint8), images * side * side * channels),
            "rows": (INDEX_DTYPE, images),
            **dict.fromkeys(("numbers", "labels", "top", "left"), (np.dtype(np.int64), images)),
            "mirror": (np.dtype(np.bool_), images),
            "colour": (np.dtype(np.float32), images * channels),
        }
        self._fields: dict[str, tuple[np.dtype, int]] = {}  # type, and first byte in a slot
        end = 0
        for name, (dtype, count) in shapes.items():
            self._fields[name] = dtype, end
            end += -(-dtype.itemsize * count // 64) * 64
        self._channels, self._workers = channels, workers
        self._bytes = _whole_pages(end)
        self._notes_bytes = _whole_pages(16 * workers)
        self._file = _nameless_file(self._notes_bytes + slots * self._bytes)
        self._map()
        self.notes[:] = -1
        self.free = deque(range(slots))  # the one used last comes last, and is used first: its pages are there
        self._pin, self._pinned = pin, set[int]()
        weakref.finalize(self._memory, _unpin, self._pinned).atexit = False

    def _map(self) -> None:
        self._memory = np.frombuffer(mmap.mmap(self._file, 0), np.uint8)
        self.notes = self._memory[: 16 * self._workers].view(np.int64).reshape(-1, 2)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)  # what is mapped of it stays

    def __getstate__(self) -> dict[str, object]:
        kept = "_fields", "_channels", "_workers", "_bytes", "_notes_bytes"
        return {"_file": reduction.DupFd(self._file), **{name: vars(self)[name] for name in kept}}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._file = state["_file"].detach()  # type: ignore[attr-defined]
        self._map()

    def arrays(self, slot: int, images: int, side: int) -> dict[str, np.ndarray]:
        """What lies in a slot, by name, for so many images of [side, side, channels]. All arrays keep one owner, which
        keeps the memory; it is made anew by each call.
        """
        start = self._notes_bytes + slot * self._bytes
        owner = np.frombuffer(memoryview(self._memory)[start : start + self._bytes], np.uint8)  # type: ignore[arg-type]
        shapes = {"images": (images, side, side, self._channels), "colour": (images, self._channels)}
        return {
            name: np.ndarray(shapes.get(name, (images,)), dtype, owner, offset)
            for name, (dtype, offset) in self._fields.items()
        }

    def take(self) -> int:
        """A free slot, to be filled."""
        slot = self.free.pop()
        address = self._memory.ctypes.data + self._notes_bytes + slot * self._bytes
        if self._pin and address not in self._pinned:
            cuda = torch.cuda.cudart()
            error = cuda.cudaHostRegister(address, self._bytes, _PORTABLE)
            if int(error):
                self._pin = False
                why = cuda.cudaGetErrorString(error)
                print(f"warning: batches are not in pinned memory, and copied more slowly ({why})", file=sys.stderr)
                with suppress(RuntimeError):  # takes the error back, which the next kernel would report as its own
                    torch.ones(1, device="cuda")
            else:
                self._pinned.add(address)
        return slot

    def lend(self, slot: int, arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """The `arrays` of a slot as tensors; call it once a slot. The slot is free again when nothing is left that
        shares their memory.
        """
        weakref.finalize(arrays["images"].base, self.free.append, slot).atexit = False
        return {name: torch.from_numpy(array) for name, array in arrays.items() if name != "rows"}


def _whole_pages(size: int) -> int:
    return -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def _nameless_file(size: int) -> int:
    """The descriptor of a file in memory, where the system has these; its pages are taken when they are first used."""
    try:
        file = os.memfd_create("batches")
    except (AttributeError, OSError):  # not Linux
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file


def _unpin(pinned: set[int]) -> None:
    for address in pinned:
        torch.cuda.cudart().cudaHostUnregister(address)
