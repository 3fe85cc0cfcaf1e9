"""Memory that a training frees is kept for its next step, instead of being given back and fetched anew."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to keep what the process frees; a CPU training step then spends no time on fresh pages.

    It holds for the whole process, so programs call it and the library does not. A training's memory stays at its peak,
    which it returns to every step anyway. Measured in dev/LOG.md.

    Returns:
        Whether it took effect; False where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) == 1
