"""--batch-size auto: the pictures that a GPU has memory for, found by doubling; elsewhere what a step costs."""

import gc
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TypeVar

import numpy as np
import torch

from common.data.batches import Batch, collate
from common.data.loader import Item, Trainable
from common.errors import UserError
from common.ops.precision import autocast
from common.run.distributed import process_count
from common.run.model import Learner
from common.run.optimization import make_optimizer
from common.run.settings import Optimizer, Training

KEPT_FREE = 0.1  # of the GPU's memory: later steps meet other sizes, and evaluation comes between them
LOOKED_AT = 8  # pictures of the largest, and of those with the most objects
EPOCHS = 4  # in each of which augmentation draws another size
MEMORY = ("cuda",)  # kinds of device that run out of it with an error
T = TypeVar("T")


class BatchSizeFound(Exception):  # noqa: N818 - it is what was asked for, no error
    """Ends a command that only looked for it; `rerun` starts it again."""

    def __init__(self, size: int):
        super().__init__(size)
        self.size = size


def rerun(start: Callable[[Sequence[str]], T]) -> T:
    """Start a command, and once more with the batch size that it finds: steps and learning rates follow from that."""
    try:
        return start(())
    except BatchSizeFound as found:
        more = ("--batch-size", str(found.size), "--no-fit-batch-size")
    free_memory()
    return start(more)


def fit_batch_size(
    model: Learner, training_set: Trainable, divisor: int, settings: Training, optimizer: Optimizer
) -> None:
    """If --batch-size auto asks for it: end with `BatchSizeFound`, or keep the size and say what a step costs."""
    if not settings.fit_batch_size:
        return
    if process_count() > 1 or settings.resume:
        reason = "--resume goes on with the size that the run had" if settings.resume else "one process tells of itself"
        raise UserError(f"--batch-size auto: {reason}; name the size")
    device = next(model.parameters()).device
    largest, fullest = largest_items(training_set)
    asked, parts = settings.batch_size, settings.accumulate

    def batch(count: int) -> Batch:
        return collate([(largest, fullest)[number % 2] for number in range(count)], divisor)

    if device.type not in MEMORY:
        started = time.monotonic()
        Step(deepcopy(model), settings, optimizer)(batch(max(1, asked // parts)))
        seconds = (time.monotonic() - started) * parts
        why = f"on {device.type} a step takes as much longer as it has more pictures"
        print(f"--batch-size auto: {why}; one of {asked} of the largest takes {seconds:.3g} s, and {asked} it stays")
        settings.fit_batch_size = False
        return
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1 - KEPT_FREE, device)
    step, least = Step(model, settings, optimizer), min(2, max(1, asked // parts))
    found = largest_that_fits(lambda count: step(batch(count)), least, max(least, len(training_set) // parts))
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    if not found:
        raise UserError(f"--batch-size auto: not even {least} of the largest pictures fit; name a smaller size")
    print(f"--batch-size auto: {found * parts} of the largest pictures fit a step; the run is planned for that:")
    raise BatchSizeFound(found * parts)


class Step:
    """A training step with all that has to lie in memory beside it: the optimizer's state and the moving average."""

    def __init__(self, model: Learner, settings: Training, optimizer: Optimizer):
        self.model, self.precision = model.train(), settings.precision
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, optimizer)
        self.average = deepcopy(model) if optimizer.ema else None

    def __call__(self, batch: Batch) -> None:
        with autocast(self.device, self.precision):
            losses = self.model.losses(batch.to(self.device))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()


def largest_that_fits(step: Callable[[int], None], least: int, most: int) -> int:
    """The last of least, twice that, ... up to `most` for which there is memory; 0: there is for none."""
    found, count = 0, least
    while count <= most:
        try:
            step(count)
            fits = True
        except torch.OutOfMemoryError:
            fits = False
        free_memory()  # here, where no error holds on to what the step has made
        if not fits:
            break
        found, count = count, 2 * count
    return found


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def largest_items(training_set: Trainable) -> tuple[Item, Item]:
    """What augmentation makes largest of the largest pictures, and the one with the most objects."""
    dataset = training_set.dataset
    indices = np.argsort(-dataset.sizes.prod(axis=1), kind="stable")[:LOOKED_AT].tolist()
    if hasattr(dataset, "counts"):
        indices += np.argsort(-dataset.counts()[1], kind="stable")[:LOOKED_AT].tolist()
    found = [training_set[epoch, index] for index in dict.fromkeys(indices) for epoch in range(EPOCHS)]
    items = [item for item in found if not isinstance(item, UserError)]
    if not items:
        raise next(item for item in found if isinstance(item, UserError))
    return max(items, key=lambda item: item[0].numel()), max(items, key=lambda item: len(item[1].labels))
