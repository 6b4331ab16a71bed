"""Keeps the C heap from holding on to memory that a budget says is not there."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def return_memory_early() -> bool:
    """Make glibc give freed activations back at once; False where the C library is another one.

    It starts by mapping everything above 128 KiB on its own, but raises that threshold with the sizes that it sees
    freed, up to 32 MiB. From then on the activations of a prefill leave holes in the heap that stay with the process:
    several times what was ever in use at one moment. A threshold that was set does not move. It costs a page fault for
    each new page, which is little next to streaming a layer.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    is_set = library.mallopt(_M_MMAP_THRESHOLD, 128 << 10) and library.mallopt(_M_TRIM_THRESHOLD, 16 << 20)
    library.malloc_trim(0)  # what imports and the tokenizer have left
    return bool(is_set)
