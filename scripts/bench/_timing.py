"""Times several ways of doing the same thing in turn and prints them as a table."""

import time
from collections.abc import Callable, Mapping
from statistics import median


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
