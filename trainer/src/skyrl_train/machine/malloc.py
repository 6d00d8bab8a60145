"""Memory that tensors free stays with the process for a while, where it trains on a CPU and the C library is glibc.

Otherwise glibc gives large blocks back, and the next tensor begins with a page fault for each 4 KiB of it: a tenth of
the update of a small model. A GPU's memory is kept by torch itself.
"""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_... in malloc.h
FROM_THE_SYSTEM = 32 * 2**20
"""Bytes of a block from which on it is the system's, and goes back at once: the most that glibc allows."""
KEPT = 512 * 2**20
"""Bytes at the end of the heap that may lie idle."""


def keep_freed_memory() -> bool:
    """From now on, in this process. Returns whether it could; whoever has tuned malloc is left alone."""
    tuned = os.environ.get("GLIBC_TUNABLES", "") + "".join(name for name in os.environ if name.startswith("MALLOC_"))
    if platform.libc_ver()[0] != "glibc" or tuned:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, FROM_THE_SYSTEM) and mallopt(TRIM_THRESHOLD, KEPT))
