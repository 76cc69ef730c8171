"""Has glibc keep freed memory for the next piece of work instead of giving it back to the kernel."""

import ctypes
import sys

# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_LARGEST_BLOCK = 32 << 20  # the largest threshold that glibc takes


def keep_freed_memory(most_bytes: int | None = None) -> None:
    """From now on, glibc keeps up to `most_bytes` of freed memory at the end of this process's heap; None: all of it.

    Repeated work takes the same large blocks each time. Given back in between, the kernel must map fresh pages for them
    and fill these with zeros (docs/results.md: what that cost). Does nothing where there is no glibc.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    if most_bytes is None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_TOP_PAD, 64 << 20)
    else:
        mallopt(_M_MMAP_THRESHOLD, min(most_bytes, _LARGEST_BLOCK))
        mallopt(_M_TRIM_THRESHOLD, most_bytes)
