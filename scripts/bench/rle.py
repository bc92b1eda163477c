"""Masks -> COCO RLE and back: common.ops.masks beside pycocotools, 100 masks of 480x640 from a torch bool tensor.

python scripts/bench/rle.py
"""

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
import tyro
from _timing import measure, print_table
from pycocotools import mask as coco
from torch import Tensor

from common.ops import masks as rle


def draw_masks(number: int, height: int, width: int) -> Tensor:
    """Wavy blobs of all sizes, as instances in photographs: [N, H, W] bool."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    masks = np.zeros((number, height, width), bool)
    for mask in masks:
        radius = random.uniform(0.03, 0.4) * height
        dy, dx = y - random.uniform(0, height), (x - random.uniform(0, width)) * random.uniform(0.5, 2)
        angle = np.arctan2(dy, dx)
        edge = sum(random.uniform(0, 0.15) * np.sin(k * angle + random.uniform(0, 7)) for k in range(2, 12))
        mask[:] = np.hypot(dy, dx) < radius * (1 + edge)
    return torch.from_numpy(masks)


def pycocotools_encode(masks: Tensor) -> list[dict[str, object]]:
    """pycocotools with the copy that it needs: [H, W, N] in Fortran order."""
    result: list[dict[str, object]] = coco.encode(np.asfortranarray(masks.numpy().view(np.uint8).transpose(1, 2, 0)))
    return result


def not_compiled(function: Callable[[], object]) -> Callable[[], object]:
    """The same without the C library."""

    def call() -> object:
        with patch.object(rle, "compiled", lambda: None):
            return function()

    return call


def main(masks: int = 100, rounds: int = 15) -> None:
    torch.set_num_threads(1)
    drawn = draw_masks(masks, 480, 640)
    expected = [each["counts"].decode() for each in pycocotools_encode(drawn)]  # type: ignore[attr-defined]
    rles = rle.encode(drawn)
    assert [each["counts"] for each in rles] == expected, "strings differ"
    assert (rle.decode(rles) == drawn.numpy()).all(), "masks differ"
    compiled = rle.compiled() is not None
    print(f"C library: {'built' if compiled else 'not built, hotcoco is used'}; strings identical to pycocotools\n")

    ways: dict[str, Callable[[], object]] = {
        "pycocotools": lambda: pycocotools_encode(drawn),
        "common.ops.masks": lambda: rle.encode(drawn),
        "common.ops.masks without C": not_compiled(lambda: rle.encode(drawn)),
        "one read of the memory (numpy sum)": lambda: drawn.numpy().view(np.uint64).max(),
    }
    seconds = measure(ways, rounds)
    print_table(f"Encoding {masks} masks of 480x640", seconds, "pycocotools", 7 if compiled else 1.5)
    ways = {
        "pycocotools": lambda: coco.decode(rles),
        "common.ops.masks": lambda: rle.decode(rles),
        "common.ops.masks without C": not_compiled(lambda: rle.decode(rles)),
    }
    seconds = measure(ways, rounds)
    print_table(f"Decoding {masks} masks of 480x640", seconds, "pycocotools")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
