"""One process or many: the few questions that training and evaluation ask about it, and the device of each."""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import UserError

T = TypeVar("T")

if hasattr(os, "register_at_fork"):
    # Forked from a process that has computed on several threads, one that does so waits for them for ever (PyTorch with
    # GNU's OpenMP). The loader's workers are set to one thread by PyTorch itself; this is for who forks after `load`.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # of meta, which computes nothing, there is none
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {name}: not to be had here ({str(error).splitlines()[0]}); try --device cpu"
        ) from error
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        torch.cuda.set_device(device)
    return device


def process_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return process_index() == 0


def mean_over_processes(count: Tensor) -> Tensor:
    """A loss normaliser as every process must use it: the sum over all processes divided by their number.

    DDP averages gradients, so dividing by this gives the gradient of the whole batch's loss.
    """
    if process_count() == 1:
        return count
    total = count.detach().clone().to(torch.float32)
    dist.all_reduce(total)
    return total / process_count()


def gather(items: Sequence[T]) -> list[T]:
    """Every process's items, concatenated in the order of the processes."""
    if process_count() == 1:
        return list(items)
    parts: list[list[T]] = [[] for _ in range(process_count())]
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def barrier() -> None:
    if process_count() > 1:
        dist.barrier()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process, so that all of them act alike."""
    if process_count() == 1:
        return flag
    number = torch.tensor(float(flag), device=device)
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return bool(number)
