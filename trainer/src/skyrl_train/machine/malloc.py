"""Keeps freed memory in the process for the next tensor, when training on a CPU with glibc.

Otherwise glibc returns large blocks to the system, and the next tensor starts with a page fault for each 4 KiB: a tenth
of the update of a small model. On a GPU, torch keeps freed memory itself.
"""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_... in malloc.h
FROM_THE_SYSTEM = 32 * 2**20
"""Bytes from which a block comes from the system and is returned at once: the highest threshold of glibc."""
DEFAULT = 128 * 2**10
"""Both thresholds of glibc at the start of a process."""
KEPT = 512 * 2**20
"""Unused bytes to keep at the end of the heap."""


def keep_freed_memory() -> bool:
    """Keep freed memory from now on. Returns False without glibc, or if the user has tuned malloc."""
    return _set(FROM_THE_SYSTEM, KEPT)


def return_freed_memory() -> bool:
    """Undo ``keep_freed_memory``, and return what is kept to the system. Returns False if it did nothing."""
    return _set(DEFAULT, DEFAULT) and bool(ctypes.CDLL(None).malloc_trim(0))


def _set(mmap_threshold: int, trim_threshold: int) -> bool:
    tuned = os.environ.get("GLIBC_TUNABLES", "") + "".join(name for name in os.environ if name.startswith("MALLOC_"))
    if platform.libc_ver()[0] != "glibc" or tuned:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, mmap_threshold) and mallopt(TRIM_THRESHOLD, trim_threshold))
