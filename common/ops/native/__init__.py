"""The compiled helpers: plain C, found beside this file, loaded with ctypes; numpy does the work when not built."""

from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.ops.native import masks_numpy
from common.ops.native.masks_c import CompiledMasks

Int = NDArray[np.int64]


class MaskEngine(Protocol):
    """What common.ops.masks and the metrics need; strings lie one after the other, with the index where each ends."""

    def encode(self, masks: NDArray[np.uint8]) -> tuple[bytes, Int]: ...
    def first_bad(self, text: bytes, ends: Int, areas: Int) -> int: ...
    def decode(self, text: bytes, ends: Int, height: int, width: int) -> NDArray[np.uint8]: ...
    def areas(self, text: bytes, ends: Int) -> Int: ...
    def boxes(self, text: bytes, ends: Int, heights: Int) -> NDArray[np.float64]: ...
    def iou(
        self,
        a: tuple[bytes, Int],
        b: tuple[bytes, Int],
        boxes_a: NDArray[np.float64],
        boxes_b: NDArray[np.float64],
        crowd: NDArray[np.bool_],
    ) -> NDArray[np.float64]: ...
    def from_polygons(self, polygons: list[NDArray[np.float64]], height: int, width: int) -> bytes: ...
    def count_pairs(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> tuple[Int, Int]: ...


@cache
def mask_engine() -> MaskEngine:
    """The C library if it was built, numpy otherwise."""
    for suffix in EXTENSION_SUFFIXES:
        library = Path(__file__).with_name(f"masks{suffix}")
        if library.is_file():
            try:
                return CompiledMasks(library)
            except (OSError, AttributeError):  # built for another machine, or from an older masks.c
                continue
    return masks_numpy
