"""How the C library keeps the memory that tensors free, and how much of it a process has had."""

import ctypes
import sys

import torch

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


def peak_memory(device: torch.device) -> str:
    """The most that this process has had."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_reserved(device) / 2**30:.1f} GiB of the GPU's memory"
    if sys.platform == "win32":
        return "memory unknown"
    from resource import RUSAGE_SELF, getrusage  # which Windows has not

    return f"{getrusage(RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB of memory"
