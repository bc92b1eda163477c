"""Large pictures in tiles that overlap: where the tiles lie, and a data set of them to train on.

- A side longer than a tile is covered by tiles of that length, evenly spread, each sharing `overlap` pixels or more
  with the next; a picture that is no larger stays whole.
- A tile has the objects that it shows a fifth of, or whose part fills a hundredth of it; smaller remnants are left
  out. What is cut gets the box of what is left.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.data.coco import CocoDataset, Sample
from common.errors import UserError
from common.ops import masks as rle
from common.run.distributed import is_main
from common.run.settings import Data

SEEN = 0.2  # of an object's pixels
LARGE = 0.01  # of a tile's


class Window(NamedTuple):
    """A rectangle of a picture's pixels."""

    top: int
    left: int
    bottom: int
    right: int

    def common(self, other: "Window") -> "Window":
        """What both share; without height or width where they share nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        return Window(top, left, max(top, min(self.bottom, other.bottom)), max(left, min(self.right, other.right)))

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Tiling:
    """How large pictures are cut."""

    tile: int
    overlap: int

    @classmethod
    def of(cls, tile: int, overlap: int) -> Self | None:
        """None where nothing is cut."""
        if tile < 0 or overlap < 0 or (tile and 2 * overlap > tile):
            raise UserError(
                f"--tile {tile} --overlap {overlap}: expected pixels, and an overlap of half a tile at most"
            )
        return cls(tile, overlap) if tile else None

    def windows(self, height: int, width: int) -> list[Window]:
        sides = [(start, min(self.tile, length)) for length in (height, width) for start in self._starts(length)]
        rows, columns = sides[: len(self._starts(height))], sides[len(self._starts(height)) :]
        return [Window(top, left, top + tall, left + wide) for top, tall in rows for left, wide in columns]

    def _starts(self, length: int) -> list[int]:
        if length <= self.tile:
            return [0]
        steps = -(-(length - self.tile) // (self.tile - self.overlap))
        return [step * (length - self.tile) // steps for step in range(steps + 1)]


def joints_in(keypoints: NDArray[Any], window: Window) -> NDArray[np.float32]:
    """Joints [n, joints, 3] in a window's coordinates; those outside of it are none."""
    moved = keypoints.astype(np.float32)
    moved[..., :2] -= (window.left, window.top)
    outside = (moved[..., :2] < 0) | (moved[..., :2] >= (window.right - window.left, window.bottom - window.top))
    moved[outside.any(axis=-1)] = 0
    return moved


class TiledDataset(Dataset[Sample]):
    """The tiles of a data set's pictures, as if each were a picture; `places` says which and where."""

    def __init__(self, dataset: CocoDataset, tiling: Tiling):
        self.dataset, self.tiling = dataset, tiling
        self.annotation_files, self.class_names = dataset.annotation_files, dataset.class_names
        self.category_ids, self.has_masks = dataset.category_ids, dataset.has_masks
        each = [tiling.windows(*size) for size in dataset.sizes.tolist()]
        self.places = np.array([(index, *window) for index, own in enumerate(each) for window in own])
        self.sizes: NDArray[np.int32] = (self.places[:, 3:] - self.places[:, 1:3]).astype(np.int32)
        self.image_ids = dataset.image_ids[self.places[:, 0]]
        self.cut = sum(len(own) > 1 for own in each)  # pictures

    def __len__(self) -> int:
        return len(self.places)

    def path(self, index: int) -> Path:
        return self.dataset.path(self._place(index)[0])

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        """The outlines, in the tile's coordinates; they may reach out of it."""
        picture, window = self._place(index)
        outlines = self.dataset.polygons(picture)
        corner = np.array([window.left, window.top], np.float32)
        return [[each - corner for each in outlines[at]] for at, _, _ in self._seen(picture, window)]

    def __getitem__(self, index: int) -> Sample:
        picture, window = self._place(index)
        image = np.ascontiguousarray(self.dataset.image(picture)[window.slices])
        seen = self._seen(picture, window)
        own = self.dataset.offsets[picture] + np.array([at for at, _, _ in seen], np.int64)
        keypoints = None if self.dataset.keypoints is None else joints_in(self.dataset.keypoints[own], window)
        return Sample(
            image,
            np.array([box for _, box, _ in seen], np.float32).reshape(-1, 4),
            self.dataset.labels[own].copy(),
            np.array([mask for _, _, mask in seen], bool).reshape(-1, *image.shape[:2]),
            self.dataset.crowd[own].copy(),
            keypoints,
            int(self.image_ids[index]),
            self.path(index),
        )

    def _place(self, index: int) -> tuple[int, Window]:
        picture, *corners = self.places[index].tolist()
        return picture, Window(*corners)

    def _seen(self, picture: int, window: Window) -> list[tuple[int, NDArray[np.float64], NDArray[np.bool_]]]:
        """The objects of a tile: each one's place among the picture's, its box x1, y1, x2, y2 and mask in the tile.

        One mask of the whole picture is drawn at a time.
        """
        found = []
        height, width = self.dataset.sizes[picture].tolist()
        first, end = self.dataset.offsets[picture : picture + 2].tolist()
        shift, limits = np.tile([window.left, window.top], 2), (window.right - window.left, window.bottom - window.top)
        for at in range(first, end):
            corner, extent = self.dataset.boxes[at].reshape(2, 2)
            box = np.concatenate((corner, corner + extent)) - shift
            inside = box.clip(0, np.tile(limits, 2))
            if (inside[2:] <= inside[:2]).any():
                continue
            mask = np.zeros(limits[::-1], bool)
            part, whole = (inside[2:] - inside[:2]).prod(), extent.prod()
            if (code := self.dataset.code(at, height, width)) is not None:
                mask = rle.decode([code])[0][window.slices]
                part, whole = float(mask.sum()), float(rle.area([code])[0])
                if part < whole:
                    inside = box_around(mask)
            enough = part >= SEEN * whole or part >= LARGE * self.tiling.tile**2
            if part and (enough or self.dataset.crowd[at]):
                found.append((at - first, inside, mask))
        return found


def cut(dataset: CocoDataset, data: Data) -> CocoDataset | TiledDataset:
    """The training set in tiles, where --data.tile says so; what is scored stays whole."""
    tiling = Tiling.of(data.tile, data.overlap)
    if tiling is None:
        return dataset
    tiles = TiledDataset(dataset, tiling)
    if is_main():
        made = f"{tiles.cut} of {len(dataset)} pictures are cut to train, which makes {len(tiles)} with the others"
        print(f"tiles of {tiling.tile} pixels that share {tiling.overlap}: {made}; scores are of the whole")
    return tiles


def box_around(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """x1, y1, x2, y2; zeros of a mask without pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
