"""Freed host memory, kept for what comes next instead of given back to the kernel."""

import ctypes
import sys

# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_LARGEST_BLOCK = 32 << 20  # the largest threshold that glibc takes


def keep_freed_memory(most: int | None = None) -> None:
    """From now on, glibc keeps up to `most` bytes at the end of this process's heap; None: all, whatever the size.

    What is done again and again, a training step or a picture, takes the same large blocks each time. Fresh pages for
    them, which the kernel maps and fills with zeros, took a third of a training step on a CPU, and a thirtieth of a
    picture's time (docs/results.md). Does nothing where there is no glibc.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    if most is None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_TOP_PAD, 64 << 20)
    else:
        mallopt(_M_MMAP_THRESHOLD, min(most, _LARGEST_BLOCK))
        mallopt(_M_TRIM_THRESHOLD, most)
