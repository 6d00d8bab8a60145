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
KEPT = 512 * 2**20
"""Unused bytes to keep at the end of the heap."""


def keep_freed_memory() -> bool:
    """Keep freed memory from now on. Returns False without glibc, or if the user has tuned malloc."""
    tuned = os.environ.get("GLIBC_TUNABLES", "") + "".join(name for name in os.environ if name.startswith("MALLOC_"))
    if platform.libc_ver()[0] != "glibc" or tuned:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, FROM_THE_SYSTEM) and mallopt(TRIM_THRESHOLD, KEPT))
