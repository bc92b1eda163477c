"""Sigmoid focal loss, forward and backward: common.ops beside torchvision's, 80 classes, four numbers of rows.

python scripts/bench/focal_loss.py           CPU time and peak memory; with a GPU also its time and bandwidth
python scripts/bench/focal_loss.py --gpu     only the GPU, where there is one

CPU time is that of the process, the system's part of it included, both sides warm and in turns. Which side's memory
the system hands out anew decides much of it: glibc gives blocks above 32 MB back at once, so that at 200k rows each of
torchvision's temporaries is 64 MB of new pages, zeroed by the system. So all is measured twice, in a process each: as
it comes, and with memory that the process keeps (glibc's MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_), where what
is left is arithmetic. Peaks are measured with every large block given back.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _timing import measure, memory
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_loss

from common.ops import focal_loss_cuda, sigmoid_focal_loss

Step = Callable[[], Tensor]
OURS, PEER = "common.ops", "torchvision"
WAYS = (PEER, OURS)


def example(rows: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits around those of a new network, and a class or background for each row, one in ten positive."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator) * 2 - 4
    targets = torch.randint(0, classes * 10, (rows,), generator=generator).clamp(max=classes)
    return logits.to(dtype).requires_grad_(), targets


def one_hot(targets: Tensor, classes: int) -> Tensor:
    return (targets[:, None] == torch.arange(classes, device=targets.device)).float()


def step(loss: Callable[..., Tensor], logits: Tensor, targets: Tensor) -> Step:
    """The gradient of the summed loss."""
    return lambda: torch.autograd.grad(loss(logits, targets, gamma=2.0, alpha=0.25, reduction="sum"), logits)[0]


def peak(way: str, rows: int, classes: int) -> int:
    """Bytes that one forward and backward pass add to the largest memory this process ever had."""
    logits, targets = example(rows, classes)
    if way == PEER:
        targets = one_hot(targets, classes)
    loss = torchvision_loss if way == PEER else sigmoid_focal_loss
    step(loss, *(example(8, classes)[0], targets[:8]))()  # loads what the first call loads
    settle()
    before = memory()
    gradient = step(loss, logits, targets)()
    return int((memory() - before) * 2**20) if gradient is not None else 0


def settle() -> None:
    """Lets the peak start from what is in use now, where the system can."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def ways_on_cpu(rows: int, classes: int) -> dict[str, Step]:
    logits, targets = example(rows, classes)
    return {
        PEER: step(torchvision_loss, logits, one_hot(targets, classes)),
        OURS: step(sigmoid_focal_loss, logits, targets),
    }


def time_on_cpu(rows: int, classes: int, rounds: int) -> dict[str, tuple[float, float]]:
    """The least CPU seconds of each way, and the pages that a call of it gets from the system."""
    ways = ways_on_cpu(rows, classes)
    seconds = measure(ways, rounds)
    return {name: (min(seconds[name]), faults_of(way)) for name, way in ways.items()}


def faults_of(way: Step) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    way()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def compare_on_cpu(sizes: list[int], classes: int, rounds: int) -> None:
    ways = ways_on_cpu(sizes[0], classes)
    difference = max(float((way() - ways[PEER]()).abs().max()) for way in ways.values())
    print(f"{classes} classes, {torch.get_num_threads()} thread(s); gradients differ by at most {difference:.1e}.\n")
    for title, kept in (("as memory comes", None), ("with memory that the process keeps", 2**40)):
        print(f"Forward + backward on the CPU, {title}: least CPU time of {rounds}, pages from the system\n")
        print("| rows | " + " | ".join(f"{way} | pages" for way in WAYS) + " | torchvision's over ours |")
        print("| ---: |" + " ---: |" * (2 * len(WAYS) + 1))
        flags = ["--time", "--rounds", str(rounds)]
        for rows, found in zip(sizes, itself(flags, sizes, classes, kept), strict=True):
            cells = [cell for way in WAYS for cell in (f"{1000 * found[way][0]:.1f} ms", f"{found[way][1]:,}")]
            print(f"| {rows:,} | {' | '.join(cells)} | {found[PEER][0] / found[OURS][0]:.1f}x |")
        print()
    print("Extra peak memory, and as a multiple of the logits (the gradient itself is 1.0x)\n")
    print("| rows | " + " | ".join(WAYS) + " | torchvision's over ours |")
    print("| ---: |" + " ---: |" * (len(WAYS) + 1))
    peaks = [itself(["--peak", way], sizes, classes, 2**16) for way in WAYS]
    for rows, own in zip(sizes, zip(*peaks, strict=True), strict=True):
        cells = [f"{size / 1e6:.0f} MB ({size / (4 * rows * classes):.1f}x)" for size in own]
        print(f"| {rows:,} | {' | '.join(cells)} | {own[0] / max(own[1], 1):.1f}x |")
    print()


def itself(flags: list[str], sizes: list[int], classes: int, largest_kept: int | None) -> list[Any]:
    """What this program prints for each size in a process of its own, which keeps blocks up to so many bytes."""
    command = [sys.executable, __file__, *flags, "--classes", str(classes), "--rows", *map(str, sizes)]
    limits = {name: str(largest_kept) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())} | (limits if largest_kept else {})
    found: list[Any] = json.loads(subprocess.check_output(command, env=environment))
    return found


def compare_on_gpu(rows: int, classes: int) -> None:
    logits, targets = (tensor.cuda() for tensor in example(rows, classes))
    logits = logits.detach().requires_grad_()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, kernel used: {focal_loss_cuda.usable(logits)}\n")
    dense = one_hot(targets, classes)
    ways = {
        PEER: step(torchvision_loss, logits, dense),
        f"{PEER}, compiled": step(torch.compile(torchvision_loss), logits, dense),
        OURS: step(sigmoid_focal_loss, logits, targets),
        f"{OURS}, compiled": step(torch.compile(sigmoid_focal_loss), logits, targets),
    }
    times = {name: gpu_times(way) for name, way in ways.items()}
    base = times[OURS]
    print(f"{rows:,} x {classes} float32, forward + backward, microseconds (median of 20, spread)\n")
    print("| way | one after the other | times ours | on the GPU alone (graph) | times ours |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, (eager, graph) in times.items():
        cells = [cell for mine, other in zip(base, (eager, graph), strict=True) for cell in cells_of(mine, other)]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\nTarget: torchvision eager and compiled take 3x as long.\n")
    print_bandwidth(classes)


def cells_of(mine: list[float], other: list[float]) -> tuple[str, str]:
    if not other or not mine:
        return "-", "-"
    middle = median(other)
    return f"{middle * 1e6:.1f} ({(max(other) - min(other)) / middle:.0%})", f"{middle / median(mine):.2f}x"


def gpu_times(way: Step, rounds: int = 20) -> tuple[list[float], list[float]]:
    """Seconds of a call among many, and of a replay of its recorded kernels (empty where that cannot be had)."""
    try:
        for _ in range(5):
            way()
    except Exception as problem:  # a compiler is missing, say: the other ways still count
        print(f"(left out: {' '.join(str(problem).split())[:150]})")
        return [], []
    calls = [_timed(way) for _ in range(rounds)]
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            way()
    except RuntimeError as problem:
        print(f"(no graph: {' '.join(str(problem).split())[:150]})")
        return calls, []
    return calls, [_timed(graph.replay) for _ in range(rounds)]


def _timed(way: Callable[[], object], calls: int = 20) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        way()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / calls


def print_bandwidth(classes: int) -> None:
    """What the kernels move each second, beside a plain copy."""
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    limit = 2 * source.nbytes / min(_timed(lambda: target.copy_(source)) for _ in range(10))
    print(f"Share of the memory bandwidth of a plain copy ({limit / 1e12:.2f} TB/s), on the GPU alone\n")
    print("| logits | rows | forward | backward | both |\n| --- | ---: | ---: | ---: | ---: |")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for rows in (200_000, 1_600_000):  # the larger one fits in no cache
            logits, targets = (tensor.cuda() for tensor in example(rows, classes, dtype))
            print(f"| {dtype} | {rows:,} | {' | '.join(shares(logits.detach(), targets, limit))} |")
    print("\nTarget: 60 %.")


def shares(logits: Tensor, targets: Tensor, limit: float) -> list[str]:
    weights = (0.75, 0.25)
    upstream = torch.ones((), device="cuda")

    def forward() -> Tensor:
        return focal_loss_cuda.loss(logits, targets, 2.0, weights, True)

    def backward() -> Tensor:
        return focal_loss_cuda.gradient(upstream, logits, targets, 2.0, weights)

    seconds = [median(times) if (times := gpu_times(way)[1]) else float("nan") for way in (forward, backward)]
    moved = [logits.nbytes + targets.nbytes, 2 * logits.nbytes + targets.nbytes]
    pairs = [*zip(moved, seconds, strict=True), (sum(moved), sum(seconds))]
    return [f"{size / time / limit:.0%} ({time * 1e6:.1f} us)" for size, time in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 50_000, 100_000, 200_000])
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="with more, their waiting counts as CPU time too")
    parser.add_argument("--gpu", action="store_true", help="only the GPU")
    parser.add_argument("--peak", choices=WAYS, help="print one way's extra peak memory and stop")
    parser.add_argument("--time", action="store_true", help="print the CPU times and pages and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(json.dumps([peak(arguments.peak, rows, arguments.classes) for rows in arguments.rows]))
        return
    if arguments.time:
        print(json.dumps([time_on_cpu(rows, arguments.classes, arguments.rounds) for rows in arguments.rows]))
        return
    if not arguments.gpu:
        compare_on_cpu(arguments.rows, arguments.classes, arguments.rounds)
    if torch.cuda.is_available():
        compare_on_gpu(200_000, arguments.classes)
    else:
        print("No GPU here: the CUDA kernel was not measured.")


if __name__ == "__main__":
    main()
