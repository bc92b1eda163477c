"""What COCO evaluation is given, checked: files or objects -> columns that the engine takes without asking.

The engine accepts broken RLE, unknown ids and NaN silently, so nothing reaches it that was not looked at here.
Every fault is a UserError that names the file (or "the annotations", "the detections") and the entry.
"""

import warnings
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import read_bytes
from common.ops import masks as rle

Kind = Literal["segm", "bbox", "keypoints"]
Json = Mapping[str, Any]
Sizes = dict[int, list[int] | None]  # [height, width] by image id, where they are given
KEYPOINTS = 17  # OKS is defined with a constant for each of COCO's person keypoints


@dataclass(frozen=True)
class Truth:
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]  # sorted by id
    annotations: list[dict[str, Any]]
    sizes: Sizes
    name: str  # of the file


@dataclass(frozen=True)
class Detections:
    columns: NDArray[np.float64]  # [N, 7] image id, x, y, width, height, score, category id
    areas: NDArray[np.float64] | None  # [N] where they are not width * height
    segmentations: list[Any] | None
    keypoints: NDArray[np.float64] | None  # [N, 51]


def read_json(source: object, name: str) -> tuple[Any, str]:
    """A path's content, or the object itself; and what to call it in messages."""
    if not isinstance(source, str | Path):
        return source, name
    try:
        return msgspec.json.decode(read_bytes(Path(source))), str(source)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{source}: not valid JSON: {error}") from error


def read_truth(source: object, kind: Kind) -> Truth:
    """Ground truth in COCO format, reduced to what evaluation of this kind needs."""
    data, name = read_json(source, "the annotations")
    parts = ("images", "annotations", "categories")
    if not isinstance(data, Mapping) or not all(isinstance(data.get(part), list) for part in parts):
        raise UserError(f"{name}: not COCO ground truth: expected lists 'images', 'annotations' and 'categories'")
    images, entries, categories = (data[part] for part in parts)
    ids = different_ids(images, f"{name}: image")
    sizes: Sizes = dict.fromkeys(ids)
    if kind == "segm" or all("height" in image and "width" in image for image in images):
        sides = (whole_numbers(images, key, f"{name}: image") for key in ("height", "width"))
        sizes = dict(zip(ids, map(list, zip(*sides, strict=True)), strict=True))
    names = dict(zip(different_ids(categories, f"{name}: category"), categories, strict=True))
    ordered = [{"id": key, "name": str(names[key].get("name", key))} for key in sorted(names)]
    shapes = [(key, *(size or (0, 0))) for key, size in sizes.items()]
    slim = [{"id": key, "height": height, "width": width, "file_name": ""} for key, height, width in shapes]
    return Truth(slim, ordered, _annotations(entries, kind, sizes, names, name), sizes, name)


def _annotations(
    entries: list[Json], kind: Kind, sizes: Sizes, categories: Container[int], name: str
) -> list[dict[str, Any]]:
    where = f"{name}: annotation"
    if 0 in different_ids(entries, where):
        warnings.warn(
            f"{name}: annotation with id 0; it counts like any other here (pycocotools takes it for a miss)",
            stacklevel=4,
        )
    image_ids = _ids_of("image", entries, sizes, where, "the list of images")
    columns: dict[str, Iterable[Any]] = {
        "id": range(1, len(entries) + 1),  # numbered anew: to the engine, id 0 means "nothing matched"
        "image_id": image_ids,
        "category_id": _ids_of("category", entries, categories, where, "the list of categories"),
        "iscrowd": [int(bool(entry.get("iscrowd", 0))) for entry in entries],
    }
    if kind == "segm":
        columns["segmentation"], areas = _masks(entries, [sizes[image] or [0, 0] for image in image_ids], where)
    else:
        found = boxes(entries, where)
        columns["bbox"], areas = found.tolist(), found[:, 2:].prod(axis=1)
    if kind == "keypoints":
        points = rows(entries, "keypoints", 3 * KEYPOINTS, where)
        marked = (points[:, 2::3] > 0).sum(axis=1).tolist()
        columns["keypoints"] = points.tolist()
        counted = zip(entries, marked, strict=True)
        columns["num_keypoints"] = [int(each.get("num_keypoints", own)) for each, own in counted]
    given = [{"area": each.get("area", own)} for each, own in zip(entries, areas, strict=True)]
    columns["area"] = finite(given, "area", where).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _masks(entries: list[Json], sizes: list[list[int]], where: str) -> tuple[list[Any], Sequence[float]]:
    """The segmentations, checked, and their areas, which are only counted where a file does not give them."""
    masks = column(entries, "segmentation", where)
    outlined = [index for index, mask in enumerate(masks) if isinstance(mask, list)]
    encoded = [index for index, mask in enumerate(masks) if not isinstance(mask, list)]
    for index in () if _plain_polygons([masks[i] for i in outlined]) else outlined:
        if problem := rle.check_polygons(masks[index], *sizes[index]):
            raise UserError(f"{where} {index}: {problem}")
    if fault := rle.first_bad([masks[i] for i in encoded], [sizes[i] for i in encoded]):
        raise UserError(f"{where} {encoded[fault[0]]}: {fault[1]}")
    if all("area" in entry for entry in entries):
        return masks, [0.0] * len(masks)
    pairs = zip(masks, sizes, strict=True)
    drawn = [rle.from_polygons(mask, *size) if isinstance(mask, list) else mask for mask, size in pairs]
    return masks, rle.area(drawn).tolist()


def _plain_polygons(objects: list[list[list[float]]]) -> bool:
    """Whether nothing is odd about them, all at once; else each is looked at, to say what."""
    try:
        flat = list(chain.from_iterable(objects))
        lengths = np.fromiter(map(len, flat), np.int64, len(flat))
        numbers = np.abs(np.fromiter(chain.from_iterable(flat), np.float64))
        types = {*map(type, flat), *map(type, chain.from_iterable(flat))}
    except (TypeError, ValueError, OverflowError):
        return False
    even = (lengths >= 6) & (lengths % 2 == 0)
    # Few polygons with corners within [0, limit] cannot make an outline of forbidden length.
    longest = lengths.max(initial=0) * numbers.max(initial=0) * max(map(len, objects), default=0)
    limited = longest < rle.MAX_OUTLINE and bool((numbers <= rle.MAX_COORDINATE).all())
    return limited and all(objects) and bool(even.all()) and types <= {list, float, int}


def read_detections(source: object, truth: Truth, kind: Kind) -> Detections:
    """Detections in COCO's result format, as columns.

    As pycocotools does it: where detections have boxes, these give their areas, also when masks are evaluated;
    else the masks or key points give area and box.
    """
    entries, name = read_json(source, "the detections")
    if not isinstance(entries, list):
        raise UserError(f"{name}: not COCO detections: expected a list of {{'image_id', 'category_id', 'score', ...}}")
    where = f"{name}: detection"
    image_ids = _ids_of("image", entries, truth.sizes, where, truth.name)
    category_ids = _ids_of("category", entries, {each["id"] for each in truth.categories}, where, truth.name)
    scores = finite(entries, "score", where)
    masks, points, areas = None, None, None
    boxed = bool(entries) and bool(entries[0].get("bbox"))
    if kind == "segm" or (kind == "bbox" and not boxed):
        masks = column(entries, "segmentation", where)
        # Where the ground truth does not give an image's size, the mask's own holds.
        own = [truth.sizes[image] or rle.size_of(mask) for image, mask in zip(image_ids, masks, strict=True)]
        if fault := rle.first_bad(masks, own):
            raise UserError(f"{where} {fault[0]}: {fault[1]}")
    if kind == "keypoints":
        points = rows(entries, "keypoints", 3 * KEYPOINTS, where)
    if boxed:
        found = boxes(entries, where)
    elif points is not None:
        low, high = (np.stack((f(points[:, 0::3], 1), f(points[:, 1::3], 1)), 1) for f in (np.min, np.max))
        found = np.concatenate((low, high - low), axis=1)
    elif masks is not None:
        found, areas = rle.boxes(masks), rle.area(masks).astype(np.float64)
    columns = np.column_stack((image_ids, found, scores, category_ids)).reshape(-1, 7)
    return Detections(columns, areas, masks if kind == "segm" else None, points)


# ---- columns of a list of entries ----


def column(entries: Sequence[Json], key: str, where: str) -> list[Any]:
    """One value of every entry."""
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError, IndexError):
        objects = [isinstance(entry, Mapping) for entry in entries]
        index = next(i for i, entry in enumerate(entries) if not objects[i] or key not in entry)
        problem = f"has no {key!r}" if objects[index] else f"is not an object but {type(entries[index]).__name__}"
        raise UserError(f"{where} {index} {problem}") from None


def whole_numbers(entries: Sequence[Json], key: str, where: str) -> list[int]:
    values = _numbers(entries, key, where, (int, np.integer), "a whole number")
    for extreme in (min(values, default=0), max(values, default=0)):
        if not 0 <= extreme < 2**53:  # ids travel through float64
            raise UserError(f"{where} {values.index(extreme)}: {key!r} is out of range: {extreme}")
    return values


def finite(entries: Sequence[Json], key: str, where: str) -> NDArray[np.float64]:
    result = np.array(_numbers(entries, key, where, (int, float, np.number), "a number"), np.float64)
    if not np.isfinite(result).all():
        index = int(np.isfinite(result).argmin())
        raise UserError(f"{where} {index}: {key!r} is {result[index]}: it must be finite")
    return result


def _numbers(entries: Sequence[Json], key: str, where: str, kinds: tuple[type, ...], expected: str) -> list[Any]:
    values = column(entries, key, where)
    if set(map(type, values)) <= {int, *kinds[:-1]}:
        return values
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise UserError(f"{where} {index}: {key!r} must be {expected}, not {value!r:.60}")
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def rows(entries: Sequence[Json], key: str, length: int, where: str) -> NDArray[np.float64]:
    """A list of finite numbers from every entry, as an array [N, length]."""
    values = column(entries, key, where)
    result = _table(values, length)
    if result is None:
        index, value = next(pair for pair in enumerate(values) if _table([pair[1]], length) is None)
        raise UserError(f"{where} {index}: {key!r} must be {length} finite numbers, not {value!r:.60}")
    return result


def _table(values: list[Any], length: int) -> NDArray[np.float64] | None:
    """None if one of them is something else."""
    try:
        result = np.fromiter(chain.from_iterable(values), np.float64, len(values) * length)
        sound = set(map(len, values)) <= {length} and bool(np.isfinite(result).all())
    except (TypeError, ValueError, OverflowError):
        return None
    return result.reshape(-1, length) if sound else None


def boxes(entries: Sequence[Json], where: str) -> NDArray[np.float64]:
    result = rows(entries, "bbox", 4, where)
    if (result[:, 2:] < 0).any():
        index = int((result[:, 2:] < 0).any(axis=1).argmax())
        raise UserError(f"{where} {index}: 'bbox' is x, y, width, height, and {result[index].tolist()} is negative")
    return result


def different_ids(entries: Sequence[Json], where: str) -> list[int]:
    ids = whole_numbers(entries, "id", where)
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise UserError(f"{where} {ids.index(twice, ids.index(twice) + 1)}: id {twice} occurs twice; ids must differ")
    return ids


def _ids_of(kind: str, entries: Sequence[Json], known: Container[int], where: str, listed: str) -> list[int]:
    """The image_id or category_id of every entry."""
    ids = whole_numbers(entries, f"{kind}_id", where)
    for key in set(ids):
        if key not in known:
            raise UserError(f"{where} {ids.index(key)} is of {kind} {key}, which is not in {listed}")
    return ids
