"""Sigmoid focal loss, forward and backward: common.ops beside torchvision's, N = 200k rows and C = 80 classes.

python scripts/bench/focal_loss.py           CPU time and peak memory; with a GPU also its time and bandwidth
python scripts/bench/focal_loss.py --gpu     only the GPU, where there is one
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from _timing import measure, print_table
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_loss

from common.ops import focal_loss_cuda, sigmoid_focal_loss

Step = Callable[[], Tensor]
OURS, PEER = "common.ops", "torchvision"
PEAKS = (PEER, OURS, f"{OURS}, one-hot")


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
    if way != OURS:
        targets = one_hot(targets, classes)
    loss = torchvision_loss if way == PEER else sigmoid_focal_loss
    step(loss, *(example(8, classes)[0], targets[:8]))()  # loads what the first call loads
    settle()
    before = resident_peak()
    gradient = step(loss, logits, targets)()
    return resident_peak() - before if gradient is not None else 0


def settle() -> None:
    """Lets the peak start from what is in use now, where the system can."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def resident_peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def compare_on_cpu(rows: int, classes: int, rounds: int) -> None:
    logits, targets = example(rows, classes)
    dense = one_hot(targets, classes)
    ways: dict[str, Callable[[], object]] = {
        PEER: step(torchvision_loss, logits, dense),
        f"{OURS}, class indices": step(sigmoid_focal_loss, logits, targets),
        f"{OURS}, one-hot": step(sigmoid_focal_loss, logits, dense),
    }
    difference = max(float((way() - ways[PEER]()).abs().max()) for way in ways.values())  # type: ignore[operator]
    print(f"{rows:,} x {classes}, {torch.get_num_threads()} thread(s); gradients differ by at most {difference:.1e}.\n")
    print_table("Forward + backward on the CPU", measure(ways, rounds), PEER, 5)
    command = [sys.executable, __file__, "--rows", str(rows), "--classes", str(classes), "--peak"]
    peaks = {way: int(subprocess.check_output([*command, way])) for way in PEAKS}
    print("| way | extra peak memory | of the logits | less than the peer |\n| --- | ---: | ---: | ---: |")
    for way, size in peaks.items():
        share = size / (logits.numel() * 4)
        print(f"| {way} | {size / 1e6:.0f} MB | {share:.1f}x | {peaks[PEER] / size:.1f}x |")
    print("\nTarget: 6x. The gradient itself is 1.0x the logits.\n")


def compare_on_gpu(rows: int, classes: int) -> None:
    logits, targets = (tensor.cuda() for tensor in example(rows, classes))
    logits = logits.detach().requires_grad_()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, kernel used: {focal_loss_cuda.usable(logits)}\n")
    check_on_gpu(classes)
    dense = one_hot(targets, classes)
    compiled = torch.compile(torchvision_loss)

    def from_indices(logits: Tensor, targets: Tensor, **settings: object) -> Tensor:
        loss: Tensor = torchvision_loss(logits, one_hot(targets, classes), **settings)
        return loss

    ways = {
        "torchvision": step(torchvision_loss, logits, dense),
        "torchvision, compiled": step(compiled, logits, dense),
        "torchvision from class indices": step(from_indices, logits, targets),
        "torchvision from class indices, compiled": step(torch.compile(from_indices), logits, targets),
        OURS: step(sigmoid_focal_loss, logits, targets),
        f"{OURS}, compiled": step(torch.compile(sigmoid_focal_loss), logits, targets),
        f"{OURS}, one-hot": step(sigmoid_focal_loss, logits, dense),
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


def check_on_gpu(classes: int) -> None:
    """Loss and gradient against float64, for every kind of target and number."""
    worst = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        logits, targets = (tensor.cuda() for tensor in example(3001, classes, dtype))
        logits = (logits.detach() * 3).requires_grad_()
        exact_logits = logits.detach().double().requires_grad_()
        dense = one_hot(targets, classes)
        exact = torchvision_loss(exact_logits, dense.double(), gamma=2.0, reduction="none")
        (exact_gradient,) = torch.autograd.grad(exact.sum(), exact_logits)
        for name, each in (("indices", targets), ("bool", dense.bool()), ("float", dense)):
            loss = sigmoid_focal_loss(logits, each)
            (gradient,) = torch.autograd.grad(loss, logits)
            value = abs(loss.item() / exact.sum().item() - 1)
            slope = float((gradient.double() - exact_gradient).norm() / exact_gradient.norm())
            again = torch.equal(loss, sigmoid_focal_loss(logits, each))
            worst.append((dtype, name, value, slope, again))
    print("| logits | targets | loss, relative error | gradient, relative error | repeatable |")
    print("| --- | --- | ---: | ---: | --- |")
    for dtype, name, value, slope, again in worst:
        print(f"| {dtype} | {name} | {value:.1e} | {slope:.1e} | {again} |")
        assert value < 2e-6 and again, "the loss is wrong"
        assert slope < {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype], "the gradient is wrong"
    print()


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
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="with more, their waiting counts as CPU time too")
    parser.add_argument("--gpu", action="store_true", help="only the GPU")
    parser.add_argument("--peak", choices=PEAKS, help="print one way's extra peak memory and stop")
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak(arguments.peak, arguments.rows, arguments.classes))
        return
    torch.set_num_threads(arguments.threads)
    if not arguments.gpu:
        compare_on_cpu(arguments.rows, arguments.classes, arguments.rounds)
    if torch.cuda.is_available():
        compare_on_gpu(arguments.rows, arguments.classes)
    else:
        print("No GPU here: the CUDA kernel was not measured.")


if __name__ == "__main__":
    main()
