"""The C library masks.c behind the interface of masks_numpy.py, called through ctypes."""

from ctypes import CDLL, POINTER, byref, c_char_p, c_int64, c_void_p, string_at
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]

# Arguments of each function in masks.c: p a pointer, n a number, o where a pointer to a new text is put.
SIGNATURES = {
    "masks_encode": "pnnnop",
    "masks_first_bad": "pppn",
    "masks_decode": "ppnnnp",
    "masks_areas": "ppnp",
    "masks_boxes": "pppnp",
    "masks_iou": "pppnpppnpp",
    "masks_from_polygons": "ppnnno",
    "masks_count_pairs": "ppnnpp",
    "masks_free": "p",
}
KINDS = {"p": c_void_p, "n": c_int64, "o": POINTER(c_void_p)}


class CompiledMasks:
    """The functions of masks_numpy.py, in C."""

    def __init__(self, library: Path) -> None:
        self.c = CDLL(str(library))
        for name, arguments in SIGNATURES.items():
            function = getattr(self.c, name)
            function.argtypes = [KINDS[kind] for kind in arguments]
            function.restype = c_int64

    def encode(self, masks: NDArray[np.uint8]) -> tuple[bytes, Int]:
        ends = np.zeros(len(masks), np.int64)
        text = c_void_p()
        length = self.c.masks_encode(masks.ctypes.data, *masks.shape, byref(text), ends.ctypes.data)
        return self._take(text, length), ends

    def first_bad(self, text: bytes, ends: Int, areas: Int) -> int:
        index: int = self.c.masks_first_bad(c_char_p(text), _at(ends), _at(areas), len(ends))
        return index

    def decode(self, text: bytes, ends: Int, height: int, width: int) -> NDArray[np.uint8]:
        masks = np.zeros((len(ends), height, width), np.uint8)
        self.c.masks_decode(c_char_p(text), _at(ends), len(ends), height, width, _at(masks))
        return masks

    def areas(self, text: bytes, ends: Int) -> Int:
        result = np.zeros(len(ends), np.int64)
        self.c.masks_areas(c_char_p(text), _at(ends), len(ends), _at(result))
        return result

    def boxes(self, text: bytes, ends: Int, heights: Int) -> NDArray[np.float64]:
        result = np.zeros((len(ends), 4))
        self.c.masks_boxes(c_char_p(text), _at(ends), _at(heights), len(ends), _at(result))
        return result

    def iou(
        self,
        a: tuple[bytes, Int],
        b: tuple[bytes, Int],
        boxes_a: NDArray[np.float64],
        boxes_b: NDArray[np.float64],
        crowd: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        (text_a, ends_a), (text_b, ends_b) = a, b
        crowd = np.ascontiguousarray(crowd)
        result = np.zeros((len(ends_a), len(ends_b)))
        side_a = (c_char_p(text_a), _at(ends_a), _at(boxes_a), len(ends_a))
        side_b = (c_char_p(text_b), _at(ends_b), _at(boxes_b), len(ends_b))
        if self.c.masks_iou(*side_a, *side_b, _at(crowd), _at(result)) < 0:
            raise MemoryError("no memory left for the IoU of masks")
        return result

    def from_polygons(self, polygons: list[NDArray[np.float64]], height: int, width: int) -> bytes:
        corners = np.concatenate(polygons)
        ends = np.cumsum([len(polygon) for polygon in polygons], dtype=np.int64)
        text = c_void_p()
        length = self.c.masks_from_polygons(_at(corners), _at(ends), len(ends), height, width, byref(text))
        return self._take(text, length)

    def count_pairs(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> tuple[Int, Int]:
        pixels = a.size // 3
        for bits in range(10, 64, 4):
            pairs, counts = np.empty(1 << bits, np.int64), np.empty(1 << bits, np.int64)
            used = self.c.masks_count_pairs(_at(a), _at(b), pixels, bits, _at(pairs), _at(counts))
            if used >= 0:
                break
        order = np.argsort(pairs[:used])
        return pairs[order], counts[order]

    def _take(self, text: c_void_p, length: int) -> bytes:
        """The text that C allocated, as bytes; frees it."""
        try:
            if length < 0:
                raise MemoryError("no memory left to encode masks")
            return string_at(text, length) if length else b""
        finally:
            self.c.masks_free(text)


def _at(array: NDArray[np.generic]) -> int:
    return array.ctypes.data
