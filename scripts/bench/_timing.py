"""Times several ways of doing the same thing in turn, prints them as a table; measures memory, in a copy of itself."""

import ctypes
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TypeVar

T = TypeVar("T")


def measure(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way in each round; the ways take turns, so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            seconds[name].append(time.process_time() - begin)
    return seconds


def memory(key: str = "VmHWM") -> float:
    """The most memory that this process has had, in MiB; VmRSS: what it has now, where the system tells it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text(encoding="ascii").partition(f"{key}:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def in_a_copy(action: Callable[[], T]) -> T:
    """What an action answers in a copy of this process (not on Windows), whose peak of memory is counted from now."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def act() -> None:
        peak = Path("/proc/self/clear_refs")
        if peak.exists():
            ctypes.CDLL(None).malloc_trim(0)  # what the parent has freed would be used again, and not be counted
            peak.write_text("5", encoding="ascii")
        sender.send(action())

    process = context.Process(target=act)
    process.start()
    sender.close()  # or one that fails would be waited for
    found: T = receiver.recv()
    process.join()
    return found


def print_table(title: str, seconds: dict[str, list[float]], peer: str, target: float | None = None) -> None:
    """One line for each way: median, spread (slowest minus fastest, over the median), the peer's over it."""
    print(f"{title}\n")
    print(f"{'':36}{'CPU time, median':>18}{'spread':>9}{'against the peer':>19}")
    for name, times in seconds.items():
        middle = median(times)
        spread = f"{(max(times) - min(times)) / middle:.0%}" if len(times) > 1 else "one run"
        print(f"{name:36}{_readable(middle):>18}{spread:>9}{median(seconds[peer]) / middle:>18.1f}x")
    print(f"target: {target:g}x\n" if target else "")


def _readable(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
