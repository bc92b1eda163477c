"""Prediction in tiles: what is found in each is joined to the instances of the whole picture.

- A find that a seam cuts is left to another tile if that one shows the place away from its own seams.
- Two finds of one class, in tiles that overlap, are the same object if their masks agree where both tiles look: if
  they share half or more of what either has there.
- Of the finds of an object, the best one that no seam cuts is taken; where seams cut all of them, they are united.
- A find that a seam cuts, and of which more than half lies in another, larger one of its class, is a remnant: dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from common.ops import masks as rle
from common.results import Instances, Result
from common.run.model import Picture
from maskworks.own_data.tiles import Tiling, Window, box_around

R = TypeVar("R", bound=Result)
AGREED = 0.5  # shared, of what either has where both tiles look
WITHIN = 0.5  # of a remnant
EDGE = 2  # pixels; masks end so near to a seam that cuts them


@dataclass
class Find:
    """What was found in a tile, or joined of such, in the picture's pixels."""

    tile: int
    label: int
    score: float
    mask_score: float | None
    box: NDArray[np.float64]  # x1, y1, x2, y2
    bounds: Window
    mask: NDArray[np.bool_]  # within the bounds
    cut: bool  # by a seam

    def within(self, window: Window) -> NDArray[np.bool_]:
        return part_of(self.mask, self.bounds, window)


def in_tiles(predict: Callable[[Sequence[Picture]], Sequence[R]], image: Picture, tiling: Tiling | None) -> R:
    """What is found in one picture, which is cut if it is larger than a tile."""
    windows = tiling.windows(image.shape[0], image.shape[1]) if tiling else []
    if len(windows) < 2:
        return predict([image])[0]
    finds: list[Find] = []
    found: Any = None
    for number, window in enumerate(windows):
        (found,) = predict([np.ascontiguousarray(image[window.slices])])
        assert isinstance(found, Instances), "other results' commands have no tiles"
        finds += finds_of(found, number, windows, (image.shape[0], image.shape[1]))
    instances: Any = as_instances(without_remnants(joined(finds, windows)), found, image)
    return instances  # type: ignore[no-any-return]


def finds_of(found: Instances, tile: int, windows: Sequence[Window], size: tuple[int, int]) -> list[Find]:
    """Of a tile; boxes without masks are taken for theirs. What has no pixel is left out."""
    finds = []
    window = windows[tile]
    others = [other for other in windows if other is not window]
    mask_scores = found.mask_scores.tolist() if found.mask_scores is not None else [None] * len(found)
    rows = zip(found.boxes.double().cpu().numpy(), found.labels.tolist(), found.scores.tolist(), strict=True)
    for at, (box, label, score) in enumerate(rows):
        inner = box if found.masks is None else box_around(mask := found.masks[at].cpu().numpy())
        left, top = np.floor(inner[:2]).astype(int).clip(0).tolist()
        right, bottom = np.ceil(inner[2:]).astype(int).tolist()
        if right <= left or bottom <= top:
            continue
        own = Window(top, left, bottom, right)
        pixels = np.ones((bottom - top, right - left), bool) if found.masks is None else mask[own.slices].copy()
        bounds = Window(top + window.top, left + window.left, bottom + window.top, right + window.left)
        cut = is_cut(bounds, window, size)
        if cut and any(other.common(bounds) == bounds and not is_cut(bounds, other, size) for other in others):
            continue
        place = box + np.tile([window.left, window.top], 2)
        finds.append(Find(tile, label, score, mask_scores[at], place, bounds, pixels, cut))
    return finds


def is_cut(bounds: Window, tile: Window, size: tuple[int, int]) -> bool:
    """Whether something ends at one of its tile's edges that isn't one of the picture's [height, width]."""
    before = [edge > 0 and start - edge < EDGE for edge, start in zip(tile[:2], bounds[:2], strict=True)]
    behind = [edge < end and edge - stop < EDGE for edge, stop, end in zip(tile[2:], bounds[2:], size, strict=True)]
    return any(before + behind)


def joined(finds: list[Find], windows: Sequence[Window]) -> list[Find]:
    """One find for each object."""
    bounds = np.array([find.bounds for find in finds]).reshape(-1, 4)
    tiles, labels = (np.array([getattr(find, name) for find in finds]) for name in ("tile", "label"))
    owner = list(range(len(finds)))

    def root(at: int) -> int:
        while owner[at] != at:
            at = owner[at]
        return at

    for at, find in enumerate(finds):
        touching = (bounds[:, :2] < bounds[at, 2:]).all(axis=1) & (bounds[:, 2:] > bounds[at, :2]).all(axis=1)
        others = np.flatnonzero(touching & (tiles != tiles[at]) & (labels == labels[at]))
        for other in others[others > at].tolist():
            if agree(find, finds[other], windows[find.tile].common(windows[finds[other].tile])):
                owner[root(other)] = root(at)
    groups: dict[int, list[Find]] = {}
    for at, find in enumerate(finds):
        groups.setdefault(root(at), []).append(find)
    return [united(group) for group in groups.values()]


def agree(one: Find, other: Find, shared: Window) -> bool:
    """Whether two masks are much the same in the window that both tiles show."""
    common = shared_pixels(one, other)  # both are only where their tiles are
    each = [int(find.within(find.bounds.common(shared)).sum()) for find in (one, other)]
    return common > 0 and common >= AGREED * (sum(each) - common)


def part_of(mask: NDArray[np.bool_], bounds: Window, window: Window) -> NDArray[np.bool_]:
    """What of a mask, which lies at `bounds`, is in a window inside of these."""
    top, left = bounds[:2]
    return mask[window.top - top : window.bottom - top, window.left - left : window.right - left]


def shared_pixels(one: Find, other: Find) -> int:
    window = one.bounds.common(other.bounds)
    return int((one.within(window) & other.within(window)).sum())


def united(group: list[Find]) -> Find:
    if whole := [find for find in group if not find.cut]:
        return max(whole, key=lambda find: find.score)
    if len(group) == 1:
        return group[0]
    best = max(group, key=lambda find: find.score)
    corners = np.array([find.bounds for find in group])
    bounds = Window(*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist())
    mask = np.zeros((bounds.bottom - bounds.top, bounds.right - bounds.left), bool)
    for find in group:
        part_of(mask, bounds, find.bounds)[:] |= find.mask
    boxes = np.array([find.box for find in group])
    box = np.concatenate((boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)))
    mask_score = None if best.mask_score is None else max(find.mask_score or 0.0 for find in group)
    return Find(best.tile, best.label, best.score, mask_score, box, bounds, mask, True)


def without_remnants(finds: list[Find]) -> list[Find]:
    sizes = [int(find.mask.sum()) for find in finds]

    def is_remnant(at: int) -> bool:
        return finds[at].cut and any(
            finds[at].label == other.label and size > sizes[at] and shared_pixels(finds[at], other) > WITHIN * sizes[at]
            for other, size in zip(finds, sizes, strict=True)
        )

    return [find for at, find in enumerate(finds) if not is_remnant(at)]


def as_instances(finds: list[Find], like: Instances, image: Picture) -> Instances:
    """The best first, `like` those of a tile. Masks are encoded: those of a large picture would fill the memory."""
    finds = sorted(finds, key=lambda find: -find.score)
    height, width = image.shape[:2]
    scored = bool(finds) and finds[0].mask_score is not None
    return Instances(
        scores=torch.tensor([find.score for find in finds], dtype=torch.float32),
        labels=torch.tensor([find.label for find in finds], dtype=torch.int64),
        boxes=torch.from_numpy(np.array([find.box for find in finds], np.float32).reshape(-1, 4)),
        masks=None,
        size=(height, width),
        class_names=like.class_names,
        image=image,
        category_ids=like.category_ids,
        mask_scores=torch.tensor([find.mask_score for find in finds]) if scored else None,
        codes=[from_part(find.mask, *find.bounds[:2], height, width) for find in finds]
        if like.masks is not None
        else None,
    )


def from_part(mask: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> rle.Rle:
    """A mask that is a part of an image, [h, w] with its corner at (top, left) -> RLE, without drawing the image."""
    steps = np.diff(np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)  # runs go down the columns
    starts, ends = ((x + left) * height + y + top for x, y in (np.nonzero(steps == 1), np.nonzero(steps == -1)))
    joins = np.flatnonzero(starts[1:] == ends[:-1])  # from the last row to the next column's first
    starts, ends = np.delete(starts, joins + 1), np.delete(ends, joins)
    borders = np.concatenate(([0], np.stack((starts, ends), axis=1).ravel(), [height * width]))
    counts = np.diff(borders).tolist()
    return rle.from_counts(counts if counts[-1] else counts[:-1], height, width)
