"""How the C library keeps the memory that tensors free."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's mallopt
KEPT = 2**31 - 1
STEP = 64 * 2**20


def keep_freed_memory() -> None:
    """Don't give each freed tensor's memory back to the system, which would clear it again for the next one.

    A training step frees and asks for the same sizes over and over: on processors that took 5 to 9 % of the time.
    It is glibc that does so; elsewhere this changes nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, STEP)):
            mallopt(parameter, value)
