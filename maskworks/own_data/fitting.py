"""Settings that follow from the pictures and objects: what the network sees of them, and how long it learns.

A package takes of `fitted` what it has. The rules, all for the training pictures:
- the long side of the input is such that four of five objects are 12 pixels or more (a side: the square root of the
  box's area), between 256 and 512, at most twice the pictures' own;
- the size s that a fifth of the objects is under begins the levels, which double it: anchors, priors, ranges; s is
  between 8 pixels and a sixteenth of the long side;
- the finest grid's cells are half of s wide, within 20 to 64 cells; coarser levels have COCO's proportions to it;
- an image may have 1.25 times as many objects as the fullest one, and no fewer than 100; of the regions that a step
  learns from there are twice as many as nine of ten pictures have objects, between 64 and 256;
- where a twentieth of the objects is in pictures whose long side is over 1.5 times the usual one (the median), and 99 %
  of all objects are within half of that, larger pictures are cut into tiles of about the usual side;
- where 95 % of the objects are in one piece, so are the answers: what a young network draws elsewhere is a mistake.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.annotation_files import Annotations
from common.run.distributed import choose_device
from common.run.settings import Optimizer, Training
from maskworks.own_data.checks import Set
from maskworks.own_data.tiles import Tiling

WANTED = 12  # pixels
GRIDS = (1.0, 0.9, 0.6, 0.4, 0.3)  # 40, 36, 24, 16, 12 on COCO
SHORT_SIDES = (0.7, 0.8, 0.9, 1.0, 1.1)
STEPS = (1_000, 20_000)
OFTEN = 20  # epochs
NEARLY_ALL = 0.95
FEW = 2  # pictures for a step without a GPU
LARGER, IN_LARGER, SMALL_THINGS = 1.5, 0.05, 0.5


@dataclass(frozen=True)
class Measures:
    """What the rules look at."""

    pictures: int
    objects: int
    long_side: float  # the median picture's
    aspect: float  # its short side over its long one
    small: float  # side of the object that a fifth is smaller than, over its picture's long side
    most: int  # objects in one picture
    usual: int  # nine of ten pictures have no more
    whole: float = 0.0  # the part of the objects that are in one piece

    @classmethod
    def of(cls, train: Set, tiling: Tiling | None = None) -> "Measures":
        """Of the pictures, or of the tiles that they are cut into."""
        a = train.a
        own = np.flatnonzero(a.usable & ~a.crowd)
        sizes = seen_sizes(a.sizes, tiling)
        long_sides = sizes.max(axis=1)
        sides = np.sqrt(a.boxes[own, 2:].prod(axis=1)) / long_sides[a.image_index[own]]
        small = float(np.quantile(sides, 0.2)) if len(own) else 1.0
        aspect = float(np.median(sizes.min(axis=1) / long_sides))
        counts = counts_in_tiles(a, tiling) if tiling else train.counts()
        most, usual = int(counts.max(initial=0)), int(np.quantile(counts, 0.9)) if len(counts) else 0
        return cls(
            len(counts), len(own), float(np.median(long_sides)), aspect, small, most, usual, train.in_one_piece()
        )

    @property
    def input_side(self) -> int:
        wanted = min(max(WANTED / self.small, 256), 512, max(256, 2 * self.long_side))
        return round(wanted / 32) * 32


def tile_for(train: Set) -> int:
    """The side of the tiles that larger pictures are cut into, so that things are as large in all; 0: none are cut."""
    a = train.a
    own = np.flatnonzero(a.usable & ~a.crowd)
    long_sides = a.sizes.max(axis=1)
    usual = float(np.median(long_sides))
    if not len(own) or (long_sides[a.image_index[own]] > LARGER * usual).mean() < IN_LARGER:
        return 0
    small = np.quantile(a.boxes[own, 2:].max(axis=1), 0.99) <= SMALL_THINGS * usual
    return max(64, round(usual / 32) * 32) if small else 0


def seen_sizes(sizes: NDArray[np.int32], tiling: Tiling | None) -> NDArray[np.int32]:
    """How large the network is shown pictures [n, 2]."""
    return np.minimum(sizes, tiling.tile) if tiling else sizes


def counts_in_tiles(a: Annotations, tiling: Tiling) -> NDArray[np.int64]:
    """The objects of each tile: those whose centre is in it."""
    centres = a.boxes[:, 1::-1] + a.boxes[:, :1:-1] / 2  # y, x
    order = np.argsort(np.where(a.usable, a.image_index, len(a.sizes)), kind="stable")
    ends = np.cumsum(np.bincount(a.image_index[a.usable], minlength=len(a.sizes)))
    counts = []
    for own, size in zip(np.split(order, ends)[:-1], a.sizes.tolist(), strict=True):
        for window in tiling.windows(*size):
            inside = (centres[own] >= window[:2]) & (centres[own] < window[2:])
            counts.append(int(inside.all(axis=1).sum()))
    return np.array(counts, np.int64)


def fitted(m: Measures) -> dict[str, Any]:
    """Settings of the packages' `small` variants, by their dotted names."""
    side = m.input_side
    start = round(min(max(m.small * side, 8.0), side / 16))
    doubled = [start * 2**level for level in range(5)]
    ranges = [(1.0, 2.0 * start), *((size / 2, size * 2.0) for size in doubled[1:4]), (8.0 * start, 4.0 * side)]
    grid = min(max(2 * side / start, 20), 64)
    instances = max(100, -(-5 * m.most // 200) * 50)
    proposals, learnt = (min(max(150, 2 * count), 1000) for count in (m.most, m.usual))
    return {
        "test.long_side": side,
        "test.short_side": side,
        "test.max_instances": instances,
        "test.max_candidates": 5 * instances,
        "test.top_k": 2 * instances,
        "test.largest_part": m.whole >= NEARLY_ALL,
        "augment.long_side": round(1.1 * side),
        "augment.short_sides": [round(part * m.aspect * side) for part in SHORT_SIDES],
        "model.input_size": side,
        "model.grids": [round(part * grid) for part in GRIDS],
        "model.scale_ranges": ranges,
        "model.scales": [float(min(size, side)) for size in doubled],
        "losses.max_masks": instances,
        "proposals.anchor_sizes": doubled,
        "proposals.before_nms": 2 * proposals,
        "proposals.after_nms": 2 * proposals,
        "proposals.kept": proposals,
        "proposals.training_before_nms": 2 * learnt,
        "proposals.training_after_nms": 2 * learnt,
        "proposals.training_kept": learnt,
        "regions.samples": min(max(64, 2 * m.usual), 256),
    }


def batch_without_gpu(device: str) -> int:
    """How many pictures a step of a small network takes where there is no GPU; 0 where there is one.

    A picture then takes as long in a batch of 2 as in one of 8, and four times as many steps learn much more of as
    many pictures (900 of nuclei, SOLOv2: AP50 0.36 against 0.08). The networks have no batch norm that would mind.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return max(FEW, processes) if choose_device(device).type == "cpu" else 0


def finetune(m: Measures, asked: Training, published: Training, optimizer: Optimizer) -> dict[str, Any]:
    """The recipe for own data; what the user asked for stands, and the rest follows from it.

    1,000 steps of 8 pictures and one for every 20 objects, at most 20,000; twice as many from random weights. The
    learning rate is the variant's, which is for its batches, scaled linearly (of Adam: by the square root). Pictures
    that are seen more than 20 times are augmented lightly: fewer times, and there is nothing to learn by heart.
    """
    batch = asked.batch_size
    epoch = -(-m.pictures // batch)
    steps = round(min(STEPS[0] + m.objects / 20, STEPS[1]) * (1 if asked.weights else 2) * 8 / batch)
    if asked.steps != published.steps:
        steps = asked.steps
    elif asked.epochs != published.epochs:
        steps = asked.epochs * epoch
    steps = max(1, steps)
    lr = optimizer.lr * (batch / published.batch_size) ** (0.5 if "adam" in optimizer.name else 1.0)
    return {
        "steps": steps,
        "evaluate_every": max(1, round(steps / epoch / 10)),
        "optimizer.lr": float(f"{lr:.3g}"),
        "optimizer.ema": round(1 - 1 / max(50, steps / 20), 5),
        "schedule.name": "cosine",
        "schedule.warmup": max(1, round(steps * 0.05)),
        "data.augment": "light" if steps > OFTEN * epoch else "published",
    }
