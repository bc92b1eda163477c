"""Masks <-> COCO's run-length encoding (RLE): the strings of pycocotools, straight from row-major masks.

- Runs go down the columns and the first one is of zeros; `counts` is their compressed string.
- Whatever comes in is checked first: a string that does not describe a mask of its size is refused with UserError
  before memory of that size is asked for.
- The work is done by common/ops/native: C where it was built, numpy elsewhere, with the same results.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, NoReturn, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError
from common.ops.native import mask_engine, masks_numpy

MAX_AREA = 2**31  # pixels of one mask
MAX_COORDINATE = 2.0**20  # of a polygon, in pixels
MAX_OUTLINE = 2.0**24  # length of all outlines of one object, in pixels
CHUNK = 8192  # RLEs checked at once: few enough for their strings to stay in the processor's cache

Int = NDArray[np.int64]


class Rle(TypedDict):
    size: list[int]  # [height, width]
    counts: str


def encode(masks: Tensor | NDArray[Any]) -> list[Rle]:
    """Bool masks [N, H, W] (a tensor on any device or an array) -> N RLEs, as pycocotools.mask.encode."""
    if isinstance(masks, Tensor):
        masks = (masks if masks.dtype == torch.bool else masks != 0).detach().cpu().numpy()
    if masks.ndim != 3:
        raise ValueError(f"masks must be [N, H, W], not of shape {tuple(masks.shape)}")
    if masks.shape[1] * masks.shape[2] > MAX_AREA:
        raise UserError(f"masks of {masks.shape[1]} x {masks.shape[2]} pixels: at most {MAX_AREA} pixels are supported")
    if masks.dtype not in (np.uint8, np.bool_) or (masks.dtype == np.uint8 and masks.max(initial=0) > 1):
        masks = masks != 0
    text, ends = mask_engine().encode(np.ascontiguousarray(masks).view(np.uint8))
    return _pack(text, ends, list(masks.shape[1:]))


def decode(rles: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """N RLEs of one size -> bool masks [N, H, W]; no RLEs -> [0, 0, 0]."""
    if not len(rles):
        return np.zeros((0, 0, 0), bool)
    text, ends, sizes = _gather(rles)
    different = (sizes != sizes[0]).any(axis=1)
    if different.any():
        index = int(different.argmax())
        raise UserError(
            f"RLE {index} is {sizes[index].tolist()}, RLE 0 is {sizes[0].tolist()}: decode one size at a time"
        )
    height, width = sizes[0].tolist()
    return mask_engine().decode(text, ends, height, width).view(np.bool_)


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """The union of the polygons [x1, y1, x2, y2, ...] of one object -> RLE, as pycocotools does it."""
    problem = check_polygons(polygons, height, width)
    if problem:
        raise UserError(problem)
    corners = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in polygons]
    return {"size": [height, width], "counts": mask_engine().from_polygons(corners, height, width).decode("ascii")}


def from_counts(counts: Sequence[int], height: int, width: int) -> Rle:
    """Uncompressed run lengths -> RLE."""
    problem = check({"size": [height, width], "counts": list(counts)}, height, width)
    if problem:
        raise UserError(problem)
    text, _ = masks_numpy.write_strings(np.array(counts, np.int64), np.array([len(counts)]))
    return {"size": [height, width], "counts": text.decode("ascii")}


def area(rles: Sequence[Mapping[str, Any]]) -> Int:
    """RLEs -> number of pixels of each [N]."""
    text, ends, _ = _gather(rles)
    return mask_engine().areas(text, ends)


def boxes(rles: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """RLEs -> the tightest box x, y, width, height around each [N, 4]; zeros for an empty mask."""
    text, ends, sizes = _gather(rles)
    return mask_engine().boxes(text, ends, np.ascontiguousarray(sizes[:, 0]))


def iou(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Intersection over union of all pairs [len(a), len(b)]; over a's own area where crowd [len(b)] is true."""
    if len(crowd) != len(b):
        raise ValueError(f"{len(crowd)} crowd flags for {len(b)} masks")
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    (text_a, ends_a, sizes_a), (text_b, ends_b, sizes_b) = _gather(a), _gather(b)
    if (sizes_a != sizes_a[0]).any() or (sizes_b != sizes_a[0]).any():
        raise UserError("IoU of masks of different sizes: all must have the size of one image")
    engine = mask_engine()
    around_a = engine.boxes(text_a, ends_a, np.ascontiguousarray(sizes_a[:, 0]))
    around_b = engine.boxes(text_b, ends_b, np.ascontiguousarray(sizes_b[:, 0]))
    return engine.iou((text_a, ends_a), (text_b, ends_b), around_a, around_b, np.asarray(crowd, bool))


def check(rle: object, height: int, width: int) -> str | None:
    """What is wrong with an RLE (compressed or not) for an image of this size, in words; None if it is sound."""
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        return 'an RLE must be {"size": [height, width], "counts": ...}'
    size, counts = rle["size"], rle["counts"]
    problem = _check_size(size)
    if problem:
        return problem
    if (size[0], size[1]) != (height, width):
        return f"RLE of size {list(size)} for an image of [{height}, {width}] (height, width)"
    if not isinstance(counts, list | str | bytes):
        return f"RLE counts must be a string or a list of numbers, not {type(counts).__name__}"
    pixels = size[0] * size[1]
    return _check_counts(counts, pixels) if isinstance(counts, list) else _check_string(counts, pixels)


def _check_size(size: object) -> str | None:
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(_is_whole(side) for side in size):
        return f"RLE size must be [height, width], not {_short(size)}"
    if min(size) < 0 or size[0] * size[1] > MAX_AREA:
        return f"RLE size {_short(size)} is out of range: at most {MAX_AREA} pixels are supported"
    return None


def _check_counts(counts: list[Any], pixels: int) -> str | None:
    for index, count in enumerate(counts):
        if not _is_whole(count) or not 0 <= count <= pixels:
            return f"RLE count {index} is {_short(count)}: each must be a whole number from 0 to height * width"
    if not counts or sum(counts) != pixels:
        return f"RLE counts sum to {sum(counts)}, not to height * width = {pixels}"
    return None


def _check_string(counts: str | bytes, pixels: int) -> str | None:
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return "RLE string has characters that are not ASCII"
    end = np.array([len(text)])
    if mask_engine().first_bad(text, end, np.array([pixels])) < 0:
        return None
    runs = masks_numpy.read_strings(text, end)
    if not text:
        problem = "is empty"
    elif not all(48 <= character < 112 for character in text):
        problem = "has characters outside of the code ('0' to 'o')"
    elif isinstance(runs, int):
        problem = "is cut off or holds a count of too many characters"
    elif runs[0].min() < 0:
        problem = f"holds a negative count ({runs[0].min()})"
    else:
        problem = f"holds counts that sum to {runs[0].sum()}, not to height * width = {pixels}"
    return f"RLE string {problem}"


def check_polygons(polygons: object, height: int, width: int) -> str | None:
    """What is wrong with the polygons of one object, in words; None if they can be drawn."""
    if not isinstance(polygons, list | tuple) or not polygons:
        return "a segmentation must be a list of at least one polygon [x1, y1, x2, y2, ...]"
    if height < 0 or width < 0 or height * width > MAX_AREA:
        return f"an image of {height} x {width} pixels: at most {MAX_AREA} pixels are supported"
    outline = 0.0
    for index, polygon in enumerate(polygons):
        corners, problem = _corners(polygon)
        if problem:
            return f"polygon {index} {problem}"
        outline += float(np.abs(corners - np.roll(corners, 1, axis=0)).sum())
    return f"the polygons' outlines are longer than {MAX_OUTLINE:.0f} pixels" if outline > MAX_OUTLINE else None


def _corners(polygon: object) -> tuple[NDArray[np.float64], str | None]:
    """Corners [K, 2] of a polygon; or what is wrong with it."""
    none = np.zeros((0, 2))
    try:
        numbers = np.asarray(polygon)
    except (ValueError, OverflowError):
        numbers = none
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        return none, "must be a list of numbers x1, y1, x2, y2, ..."
    if len(numbers) < 6 or len(numbers) % 2:
        return none, f"has {len(numbers)} numbers: it needs x and y of at least 3 corners"
    corners = numbers.astype(np.float64).reshape(-1, 2)
    if not (np.abs(corners) <= MAX_COORDINATE).all():
        return none, f"has a corner that is not finite or beyond {MAX_COORDINATE:.0f} pixels"
    return corners, None


def first_bad(rles: Sequence[Mapping[str, Any]], sizes: Sequence[list[int]]) -> tuple[int, str] | None:
    """The first RLE that is not sound for its image's [height, width], and what is wrong; None if all are sound."""
    for begin in range(0, len(rles), CHUNK):
        chunk, expected = rles[begin : begin + CHUNK], sizes[begin : begin + CHUNK]
        if not _all_sound(chunk, expected):
            for index, (rle, size) in enumerate(zip(chunk, expected, strict=True)):
                problem = check(rle, *size)
                if problem:
                    return begin + index, problem
    return None


def _all_sound(rles: Sequence[Mapping[str, Any]], sizes: Sequence[list[int]]) -> bool:
    """No Python object is made for an RLE here: half a million would start the garbage collector again and again."""
    try:
        stated = [rle["size"] for rle in rles]
        if stated != sizes or set(map(type, chain.from_iterable(stated))) != {int}:
            return False
        areas = np.fromiter((height * width for height, width in sizes), np.int64, len(sizes))
        strings = [rle["counts"] for rle in rles]
        ends = np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)))
        text = "".join(strings).encode("ascii")
    except (TypeError, ValueError, KeyError, OverflowError):
        return False  # perhaps another form of RLE, which is looked at one by one
    return bool(areas.max() <= MAX_AREA) and mask_engine().first_bad(text, ends, areas) < 0


def size_of(rle: object) -> list[int]:
    """The size that an RLE states itself, if that is one; for images of unknown size."""
    size = rle.get("size") if isinstance(rle, Mapping) else None
    return [0, 0] if size is None or _check_size(size) else list(size)


def _gather(rles: Sequence[Mapping[str, Any]]) -> tuple[bytes, Int, Int]:
    """Checked RLEs -> their strings one after the other, where each ends [N], sizes [N, 2]."""
    try:
        text, ends, sizes = _concatenate(rles)
    except (TypeError, ValueError, KeyError, OverflowError, UserError):
        _refuse(rles)
    if mask_engine().first_bad(text, ends, sizes[:, 0] * sizes[:, 1]) >= 0:
        _refuse(rles)
    return text, ends, sizes


def _concatenate(rles: Sequence[Mapping[str, Any]]) -> tuple[bytes, Int, Int]:
    sizes = np.array([rle["size"] for rle in rles]) if len(rles) else np.zeros((0, 2), np.int64)
    if sizes.dtype.kind != "i" or sizes.shape != (len(rles), 2) or sizes.min(initial=0) < 0:
        raise ValueError("sizes")
    if len(rles) and (sizes.max() > MAX_AREA or (sizes[:, 0] * sizes[:, 1]).max() > MAX_AREA):
        raise ValueError("sizes")
    counts = [rle["counts"] for rle in rles]
    if not all(isinstance(each, str) for each in counts):
        counts = [_as_string(rle) for rle in rles]
    ends = np.cumsum(np.fromiter(map(len, counts), np.int64, len(counts)))
    return "".join(counts).encode("ascii"), ends, sizes.astype(np.int64)


def _as_string(rle: Mapping[str, Any]) -> str:
    counts = rle["counts"]
    if isinstance(counts, list):
        return from_counts(counts, *rle["size"])["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else str(counts)


def _refuse(rles: Sequence[Any]) -> NoReturn:
    """Say what is wrong with the first RLE that is not sound in itself."""
    for index, rle in enumerate(rles):
        problem = check(rle, *size_of(rle))
        if problem:
            raise UserError(f"RLE {index}: {problem}")
    raise UserError("RLEs must be a list of {'size': [height, width], 'counts': string}")


def _pack(text: bytes, ends: Int, size: list[int]) -> list[Rle]:
    string, bounds = text.decode("ascii"), [0, *ends.tolist()]
    return [{"size": list(size), "counts": string[begin:end]} for begin, end in pairwise(bounds)]


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
