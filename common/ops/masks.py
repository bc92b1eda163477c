"""Masks <-> COCO's run-length encoding (RLE): the strings of pycocotools, straight from row-major masks.

- Runs go down the columns and the first one is of zeros; `counts` is their compressed string.
- Whatever comes in is checked first: a string that does not describe a mask of its size is refused with UserError
  before memory of that size is asked for.
- masks.c encodes and decodes, where it was built; hotcoco does everything else, and those two elsewhere, slower.
- hotcoco's iou, and its area and boxes of thousands, hang in forked workers; what workers need starts no threads.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ctypes import CDLL, POINTER, byref, c_char_p, c_int64, c_void_p, string_at
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from hotcoco import mask as coco
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError

MAX_AREA = 2**31  # pixels of one mask
MAX_COORDINATE = 2.0**20  # of a polygon, in pixels
MAX_OUTLINE = 2.0**24  # length of all outlines of one object, in pixels
CHUNK = 8192  # RLEs checked at once: few enough for their strings to stay in the processor's cache

Int = NDArray[np.int64]


class Rle(TypedDict):
    size: list[int]  # [height, width]
    counts: str


@cache
def compiled() -> CDLL | None:
    """masks.c, where it was built beside this file (by pip, or `make ext`)."""
    number, pointer = c_int64, c_void_p
    for suffix in EXTENSION_SUFFIXES:
        with suppress(OSError, AttributeError):  # not there, built for another machine, or from an older masks.c
            c = CDLL(str(Path(__file__).with_name(f"masks_native{suffix}")))
            c.masks_encode.argtypes = [pointer, number, number, number, POINTER(pointer), pointer]
            c.masks_decode.argtypes = [c_char_p, pointer, pointer, number, pointer]
            c.masks_free.argtypes = [pointer]
            c.masks_encode.restype = c.masks_decode.restype = number
            return c
    return None


def encode(masks: Tensor | NDArray[Any]) -> list[Rle]:
    """Bool masks [N, H, W] (a tensor on any device or an array) -> N RLEs, as pycocotools.mask.encode."""
    if isinstance(masks, Tensor):
        masks = (masks if masks.dtype == torch.bool else masks != 0).detach().cpu().numpy()
    if masks.ndim != 3:
        raise ValueError(f"masks must be [N, H, W], not of shape {tuple(masks.shape)}")
    number, height, width = masks.shape
    if height * width > MAX_AREA:
        raise UserError(f"masks of {height} x {width} pixels: at most {MAX_AREA} pixels are supported")
    filled: NDArray[np.bool_] = np.asarray(masks if masks.dtype == np.bool_ else masks != 0)
    c = compiled()
    if c is None:
        encoded: Any = coco.encode(filled.view(np.uint8).transpose(1, 2, 0))
        return [{"size": [height, width], "counts": each["counts"].decode("ascii")} for each in encoded]
    filled, ends, text = np.ascontiguousarray(filled), np.zeros(number, np.int64), c_void_p()
    length = c.masks_encode(filled.ctypes.data, number, height, width, byref(text), ends.ctypes.data)
    strings = string_at(text, max(length, 0)).decode("ascii")
    c.masks_free(text)
    if length < 0:
        raise MemoryError("no memory left to encode masks")
    return [{"size": [height, width], "counts": strings[a:b]} for a, b in pairwise([0, *ends.tolist()])]


def decode(rles: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """N RLEs of one size -> bool masks [N, H, W]; no RLEs -> [0, 0, 0]."""
    sound = _sound(rles)
    if not sound:
        return np.zeros((0, 0, 0), bool)
    height, width = sound[0]["size"]
    for index, rle in enumerate(sound):
        if rle["size"] != [height, width]:
            raise UserError(f"RLE {index} is {rle['size']}, RLE 0 is {[height, width]}: decode one size at a time")
    c = compiled()
    if c is None:
        return np.ascontiguousarray(coco.decode(sound).transpose(2, 0, 1)).view(np.bool_)
    masks, sizes = np.zeros((len(sound), height, width), bool), np.full((len(sound), 2), (height, width), np.int64)
    text, ends = _joined([rle["counts"] for rle in sound])
    c.masks_decode(text, ends.ctypes.data, sizes.ctypes.data, len(sound), masks.ctypes.data)
    return masks


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """The union of the polygons [x1, y1, x2, y2, ...] of one object -> RLE, as pycocotools does it."""
    if problem := check_polygons(polygons, height, width):
        raise UserError(problem)
    drawn = coco.merge([coco.fr_poly(np.asarray(polygon, float).tolist(), height, width) for polygon in polygons])
    return {"size": [height, width], "counts": drawn["counts"].decode("ascii")}


def from_counts(counts: Sequence[int], height: int, width: int) -> Rle:
    """Uncompressed run lengths -> RLE."""
    coded: Rle = _sound([{"size": [height, width], "counts": list(counts)}])[0]
    return coded


def area(rles: Sequence[Mapping[str, Any]]) -> Int:
    """RLEs -> number of pixels of each [N]."""
    return np.asarray(coco.area(_sound(rles)), np.int64)


def boxes(rles: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """RLEs -> the tightest box x, y, width, height around each [N, 4]; zeros for an empty mask."""
    return np.asarray(coco.to_bbox(_sound(rles)), np.float64).reshape(-1, 4)


def iou(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Intersection over union of all pairs [len(a), len(b)]; over a's own area where crowd [len(b)] is true."""
    if len(crowd) != len(b):
        raise ValueError(f"{len(crowd)} crowd flags for {len(b)} masks")
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    sound_a, sound_b = _sound(a), _sound(b)
    if any(rle["size"] != sound_a[0]["size"] for rle in sound_a + sound_b):
        raise UserError("IoU of masks of different sizes: all must have the size of one image")
    return np.asarray(coco.iou(sound_a, sound_b, np.asarray(crowd, bool).tolist()), np.float64)


def check(rle: object, height: int, width: int) -> str | None:
    """What is wrong with an RLE (compressed or not) for an image of this size, in words; None if it is sound."""
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        return 'an RLE must be {"size": [height, width], "counts": ...}'
    size, counts = rle["size"], rle["counts"]
    if problem := _check_size(size):
        return problem
    if (size[0], size[1]) != (height, width):
        return f"RLE of size {list(size)} for an image of [{height}, {width}] (height, width)"
    if not isinstance(counts, list | str | bytes):
        return f"RLE counts must be a string or a list of numbers, not {type(counts).__name__}"
    pixels = size[0] * size[1]
    return _check_counts(counts, pixels) if isinstance(counts, list) else _check_string(counts, pixels)


def _check_size(size: object) -> str | None:
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(_is_whole(side) for side in size):
        return f"RLE size must be [height, width], not {size!r:.60}"
    if min(size) < 0 or size[0] * size[1] > MAX_AREA:
        return f"RLE size {size!r:.60} is out of range: at most {MAX_AREA} pixels are supported"
    return None


def _check_counts(counts: list[Any], pixels: int) -> str | None:
    for index, count in enumerate(counts):
        if not _is_whole(count) or not 0 <= count <= pixels:
            return f"RLE count {index} is {count!r:.60}: each must be a whole number from 0 to height * width"
    if not counts or sum(counts) != pixels:
        return f"RLE counts sum to {sum(counts)}, not to height * width = {pixels}"
    return None


def _check_string(counts: str | bytes, pixels: int) -> str | None:
    """What masks.c checks too, with words. The characters of a count but its last have 32 of their code set."""
    if isinstance(counts, str) and not counts.isascii():
        return "RLE string has characters that are not ASCII"
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    if not text or re.search(rb"[^0-o]", text):
        return "RLE string has characters outside of the code ('0' to 'o')" if text else "RLE string is empty"
    if re.search(rb"[P-o]{7}|[P-o]\Z", text):
        return "RLE string is cut off or holds a count of too many characters"
    runs: list[int] = []
    for digits in re.findall(rb"[P-o]*[0-O]", text):
        value = sum((character - 48) % 32 << 5 * place for place, character in enumerate(digits))
        value -= (digits[-1] - 48) // 16 << 5 * len(digits)  # the last one's 16 stands for a minus
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    if min(runs) < 0:
        return f"RLE string holds a negative count ({min(runs)})"
    total = sum(runs)
    return None if total == pixels else f"RLE string holds counts that sum to {total}, not to height * width = {pixels}"


def check_polygons(polygons: object, height: int, width: int) -> str | None:
    """What is wrong with the polygons of one object, in words; None if they can be drawn."""
    if not isinstance(polygons, list | tuple) or not polygons:
        return "a segmentation must be a list of at least one polygon [x1, y1, x2, y2, ...]"
    if height < 0 or width < 0 or height * width > MAX_AREA:
        return f"an image of {height} x {width} pixels: at most {MAX_AREA} pixels are supported"
    outline = 0.0
    for index, polygon in enumerate(polygons):
        try:
            numbers = np.asarray(polygon)
        except (ValueError, OverflowError):
            numbers = np.zeros((0, 2))
        if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
            return f"polygon {index} must be a list of numbers x1, y1, x2, y2, ..."
        if len(numbers) < 6 or len(numbers) % 2:
            return f"polygon {index} has {len(numbers)} numbers: it needs x and y of at least 3 corners"
        corners = numbers.astype(np.float64).reshape(-1, 2)
        if not (np.abs(corners) <= MAX_COORDINATE).all():
            return f"polygon {index} has a corner that is not finite or beyond {MAX_COORDINATE:.0f} pixels"
        outline += float(np.abs(corners - np.roll(corners, 1, axis=0)).sum())
    return f"the polygons' outlines are longer than {MAX_OUTLINE:.0f} pixels" if outline > MAX_OUTLINE else None


def first_bad(rles: Sequence[Mapping[str, Any]], sizes: Sequence[list[int]]) -> tuple[int, str] | None:
    """The first RLE that is not sound for its image's [height, width], and what is wrong; None if all are sound."""
    for begin in range(0, len(rles), CHUNK):
        chunk, expected = rles[begin : begin + CHUNK], sizes[begin : begin + CHUNK]
        if not _all_sound(chunk, expected):
            for index, (rle, size) in enumerate(zip(chunk, expected, strict=True)):
                if problem := check(rle, *size):
                    return begin + index, problem
    return None


def _all_sound(rles: Sequence[Mapping[str, Any]], sizes: Sequence[list[int]]) -> bool:
    """No Python object is made for an RLE here: half a million would start the garbage collector again and again."""
    try:
        stated, strings = [rle["size"] for rle in rles], [rle["counts"] for rle in rles]
        plain = stated == sizes and set(map(type, chain.from_iterable(stated))) == {int}
        sides = np.array(sizes, np.int64)
        text, ends = _joined(strings)
    except (TypeError, ValueError, KeyError, OverflowError):
        return False  # perhaps another form of RLE, which is looked at one by one
    if not plain or sides.min() < 0 or sides.prod(axis=1, dtype=float).max() > MAX_AREA:
        return False
    c = compiled()
    if c is None:
        return not any(map(_check_string, strings, sides.prod(axis=1).tolist()))
    return bool(c.masks_decode(text, ends.ctypes.data, sides.ctypes.data, len(ends), None) < 0)


def size_of(rle: object) -> list[int]:
    """The size that an RLE states itself, if that is one; for images of unknown size."""
    size = rle.get("size") if isinstance(rle, Mapping) else None
    return [0, 0] if size is None or _check_size(size) else list(size)


def _sound(rles: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The RLEs, checked, with their counts as strings; UserError names the first that is not sound in itself."""
    sizes = [size_of(rle) for rle in rles]
    if bad := first_bad(rles, sizes):
        raise UserError(f"RLE {bad[0]}: {bad[1]}")
    return [{"size": size, "counts": _as_string(rle["counts"], *size)} for rle, size in zip(rles, sizes, strict=True)]


def _as_string(counts: str | bytes | list[int], height: int, width: int) -> str:
    if isinstance(counts, list):
        counts = coco.rle_to_string({"size": [height, width], "counts": [int(count) for count in counts]})
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def _joined(strings: Sequence[str]) -> tuple[bytes, Int]:
    """Strings one after the other, and where each ends."""
    return "".join(strings).encode("ascii"), np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)))


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
