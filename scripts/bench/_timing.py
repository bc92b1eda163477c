"""Times several ways of doing the same thing in turn and prints them as a table."""

import time
from collections.abc import Callable
from statistics import median


def measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
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
    """One line for each way: median, spread (slowest minus fastest, over the median), how often faster than the peer."""
    print(f"### {title}\n")
    print("| way | CPU time, median | spread | against the peer |")
    print("| --- | ---: | ---: | ---: |")
    for name, times in seconds.items():
        middle = median(times)
        spread = (max(times) - min(times)) / middle if middle else 0.0
        ratio = median(seconds[peer]) / middle if middle else float("inf")
        print(f"| {name} | {_readable(middle)} | {spread:.0%} | {ratio:.1f}x |")
    print(f"\nTarget: {target:g}x.\n" if target else "")


def _readable(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
