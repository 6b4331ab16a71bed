"""Keeps the C heap from holding on to memory that a budget says is not there."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def return_memory_early(threshold_nbytes: int = 1 << 20) -> bool:
    """Make glibc give freed activations back at once; False where the C library is another one.

    By default it raises its own thresholds with the sizes that it sees, up to 32 MiB, and the activations of a prefill
    leave holes in the heap that stay with the process: several times what was ever in use at one moment. Fixed
    thresholds cost a page fault for each new megabyte, which is little next to streaming a layer.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, threshold_nbytes)) and bool(mallopt(_M_TRIM_THRESHOLD, 16 << 20))
