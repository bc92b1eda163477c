"""Which images each step trains on, in which order, how augmented: all of it a function of (seed, epoch, index).

Nothing depends on a worker's state, so the batches are the same for any number of workers, and a run that goes on
at step n sees what it would have seen.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from common.data.augment import augmented
from common.data.batches import Batch, Target, collate
from common.data.coco import LabelledImages, Sample
from common.errors import UserError

Item = tuple[Tensor, Target]
Key = tuple[int, int]  # epoch, index
Outlines = list[list[NDArray[np.float32]]]  # of each object, [P, 2] each


class Trainable(Protocol):
    """Labelled images as training sees them; TrainingSet is one, and so is a package's that puts more around it."""

    dataset: LabelledImages

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key) -> Item | UserError: ...


class TrainingSet(Dataset[Item | UserError]):
    """A data set seen through its augmentation, addressed by (epoch, index); with the objects' polygons if asked.

    `change` is what happens before the transforms; like them it draws from torch's generator.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        transforms: v2.Transform,
        seed: int,
        polygons: bool = False,
        change: Callable[[Sample, Outlines | None], tuple[Sample, Outlines | None]] | None = None,
    ):
        self.dataset, self.transforms, self.seed, self.polygons = dataset, transforms, seed, polygons
        self.change = change

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Item | UserError:
        epoch, index = key
        try:
            sample = self.dataset[index]
            polygons = self.dataset.polygons(index) if self.polygons else None
        except UserError as error:  # returned, not raised, so that it crosses the process border as one line
            return error
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the other devices too, and keep a stack trace for each that isn't there
            torch.default_generator.manual_seed(mix(self.seed, epoch, index))
            try:
                sample, polygons = self.change(sample, polygons) if self.change else (sample, polygons)
            except UserError as error:  # another picture that it takes objects from
                return error
            return augmented(sample, self.transforms, polygons)


class Steps(Sampler[list[Key]]):
    """This process's share of each step's images, for all steps from `start` to `stop`.

    Images are shuffled anew for each epoch and grouped into steps of `batch_size`, wide with wide and tall with
    tall ones where possible, to save padding. An epoch's last step is filled up from its beginning. With
    `accumulate`, a step is several batches one after the other.
    """

    def __init__(
        self,
        sizes: NDArray[np.int32],
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        accumulate: int = 1,
        process: int = 0,
        processes: int = 1,
    ):
        share = processes * accumulate
        if batch_size % share:
            raise UserError(f"--batch-size {batch_size} is not a multiple of processes x --accumulate ({share})")
        self.wide = sizes[:, 1] > sizes[:, 0]
        self.batch_size, self.seed, self.accumulate = batch_size, seed, accumulate
        self.start, self.stop = start, stop
        self.process, self.processes = process, processes
        self.steps_per_epoch = steps_per_epoch(len(sizes), batch_size)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, batches = -1, np.empty((0, 0), np.int64)
        for step in range(self.start, self.stop):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                batches = self.epoch_batches(epoch)
            images = batches[step % self.steps_per_epoch]
            for part in np.split(images, self.accumulate):
                yield [(epoch, int(index)) for index in part[self.process :: self.processes]]

    def epoch_batches(self, epoch: int) -> NDArray[np.int64]:
        """[steps, batch size]: the images of each of an epoch's steps, over all processes."""
        random = np.random.RandomState(mix(self.seed, epoch, 0))  # the legacy generator's stream is frozen
        order = random.permutation(len(self.wide))
        groups = [order[self.wide[order]], order[~self.wide[order]]]
        whole = [group[: len(group) // self.batch_size * self.batch_size] for group in groups]
        rest = np.concatenate([group[len(start) :] for group, start in zip(groups, whole, strict=True)])
        missing = -len(rest) % self.batch_size
        images = np.concatenate([*whole, rest, np.resize(order, missing)])
        batches = images.reshape(-1, self.batch_size)
        return batches[random.permutation(len(batches))]


def training_loader(
    training_set: Trainable, steps: Steps, divisor: int, workers: int, pin_memory: bool
) -> "DataLoader[Batch | UserError]":
    return DataLoader(
        training_set,  # type: ignore[arg-type]
        batch_sampler=steps,
        collate_fn=partial(_collate, divisor=divisor),
        num_workers=worker_count(workers),
        worker_init_fn=single_threaded,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )


def worker_count(asked: int) -> int:
    """Below 0: one for each processor of this training process but its own, between 1 and 4."""
    if asked >= 0:
        return asked
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def steps_per_epoch(images: int, batch_size: int) -> int:
    return -(-images // batch_size)


def mix(*numbers: int) -> int:
    """One seed from several numbers; near ones give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def single_threaded(_: int) -> None:
    """Several workers with several threads each would only be in each other's way."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _collate(items: Sequence[Item | UserError], divisor: int) -> Batch | UserError:
    for item in items:
        if isinstance(item, UserError):
            return item
    return collate([item for item in items if not isinstance(item, UserError)], divisor)
