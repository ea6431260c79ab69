"""Keeping freed memory: a training step asks for the same large arrays again and again.

glibc gives each large array back to the kernel, which then has to clear every page of the next one. Told to keep
them, a step of a small GPT takes a fifth less time. Where the C library is another one nothing happens.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # names and numbers of malloc.h
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")


@cache
def keep_memory() -> bool:
    """Asks the C library to keep freed memory, once, unless the user has set one of its variables."""
    if any(name in os.environ for name in SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26))
    return all(mallopt(option, value) == 1 for option, value in wanted)
