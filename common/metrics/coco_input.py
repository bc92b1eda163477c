"""What COCO evaluation is given, checked: files or objects -> columns that the engine takes without asking.

The engine accepts broken RLE, unknown ids and NaN silently, so nothing reaches it that was not looked at here.
Every fault is a UserError that names the file (or "the annotations", "the detections") and the entry.
"""

import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.ops import masks as rle

Kind = Literal["segm", "bbox", "keypoints"]
Json = Mapping[str, Any]
Sizes = dict[int, list[int] | None]  # [height, width] by image id, where they are given
KEYPOINTS = 17  # OKS is defined with a constant for each of COCO's person keypoints


@dataclass(frozen=True)
class Truth:
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    sizes: Sizes
    class_names: tuple[str, ...]  # in the order of sorted category ids
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
        return msgspec.json.decode(Path(source).read_bytes()), str(source)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: not valid JSON: {error}") from error


def read_truth(source: object, kind: Kind) -> Truth:
    """Ground truth in COCO format, reduced to what evaluation of this kind needs."""
    data, name = read_json(source, "the annotations")
    parts = ("images", "annotations", "categories")
    if not isinstance(data, Mapping) or not all(isinstance(data.get(part), list) for part in parts):
        raise UserError(f"{name}: not COCO ground truth: expected lists 'images', 'annotations' and 'categories'")
    images, entries, categories = (data[part] for part in parts)
    ids = whole_numbers(images, "id", f"{name}: image")
    refuse_doubles(ids, f"{name}: image")
    sizes = dict(zip(ids, _image_sizes(images, kind, name), strict=True))
    ordered = _categories(categories, name)
    annotations = _annotations(entries, sizes, {each["id"] for each in ordered}, name)
    if annotations:
        fill = {"segm": _add_masks, "bbox": _add_boxes, "keypoints": _add_keypoints}[kind]
        fill(annotations, entries, sizes, name)
    slim = [
        {"id": key, "height": size[0], "width": size[1], "file_name": ""}
        for key, size in ((key, size or [0, 0]) for key, size in sizes.items())
    ]
    return Truth(slim, ordered, annotations, sizes, tuple(each["name"] for each in ordered), name)


def _image_sizes(images: list[Json], kind: Kind, name: str) -> Sequence[list[int] | None]:
    if kind != "segm" and not all("height" in image and "width" in image for image in images):
        return [None] * len(images)
    heights = whole_numbers(images, "height", f"{name}: image")
    widths = whole_numbers(images, "width", f"{name}: image")
    return [[height, width] for height, width in zip(heights, widths, strict=True)]


def _categories(categories: list[Json], name: str) -> list[dict[str, Any]]:
    ids = whole_numbers(categories, "id", f"{name}: category")
    refuse_doubles(ids, f"{name}: category")
    pairs = sorted(zip(ids, categories, strict=True), key=lambda pair: pair[0])
    return [{"id": key, "name": str(each.get("name", key))} for key, each in pairs]


def _annotations(
    entries: list[Json], sizes: Mapping[int, object], categories: set[int], name: str
) -> list[dict[str, Any]]:
    where = f"{name}: annotation"
    ids = whole_numbers(entries, "id", where)
    refuse_doubles(ids, where)
    if 0 in ids:
        warnings.warn(
            f"{name}: annotation with id 0; it counts like any other here (pycocotools takes it for a miss)",
            stacklevel=4,
        )
    image_ids = whole_numbers(entries, "image_id", where)
    category_ids = whole_numbers(entries, "category_id", where)
    _refuse_unknown(image_ids, sizes, f"{where} {{}} is of image", "which is not in the list of images")
    _refuse_unknown(category_ids, categories, f"{where} {{}} is of category", "which is not in the list of categories")
    rows = zip(image_ids, category_ids, entries, strict=True)
    return [  # numbered anew from 1: to the engine, id 0 means "nothing matched"
        {"id": i, "image_id": image, "category_id": category, "iscrowd": int(bool(entry.get("iscrowd", 0)))}
        for i, (image, category, entry) in enumerate(rows, 1)
    ]


def _add_boxes(annotations: list[dict[str, Any]], entries: list[Json], sizes: Sizes, name: str) -> None:
    found = boxes(entries, f"{name}: annotation")
    areas = _areas(entries, found[:, 2] * found[:, 3], name)
    for annotation, box, area in zip(annotations, found.tolist(), areas, strict=True):
        annotation.update(bbox=box, area=area)


def _add_masks(annotations: list[dict[str, Any]], entries: list[Json], sizes: Sizes, name: str) -> None:
    masks = column(entries, "segmentation", f"{name}: annotation")
    own_sizes = [sizes[each["image_id"]] or [0, 0] for each in annotations]
    polygons = np.fromiter((isinstance(mask, list) for mask in masks), bool, len(masks))
    _check_polygons(masks, np.flatnonzero(polygons), own_sizes, name)
    encoded = np.flatnonzero(~polygons)
    fault = rle.first_bad([masks[i] for i in encoded], [own_sizes[i] for i in encoded])
    if fault:
        raise UserError(f"{name}: annotation {encoded[fault[0]]}: {fault[1]}")
    areas = None
    if any("area" not in entry for entry in entries):
        drawn = [
            rle.from_polygons(mask, *size) if isinstance(mask, list) else mask
            for mask, size in zip(masks, own_sizes, strict=True)
        ]
        areas = rle.area(drawn).astype(np.float64)
    for annotation, mask, area in zip(annotations, masks, _areas(entries, areas, name), strict=True):
        annotation.update(segmentation=mask, area=area)


def _check_polygons(masks: list[list[list[float]]], where: NDArray[np.intp], sizes: list[list[int]], name: str) -> None:
    """All at once; one by one, in words, where something is odd."""
    try:
        flat = [polygon for i in where for polygon in masks[i]]
        lengths = np.fromiter(map(len, flat), np.int64, len(flat))
        types = set(map(type, flat)) <= {list} and set(map(type, chain.from_iterable(flat))) <= {float, int}
        numbers = np.fromiter(chain.from_iterable(flat), np.float64) if types else np.zeros(0)
        sound = types and all(masks[i] for i in where) and bool(((lengths >= 6) & (lengths % 2 == 0)).all())
        # Corners within [0, limit] of few polygons cannot make an outline of forbidden length.
        longest = lengths.max(initial=0) * np.abs(numbers).max(initial=0)
        sound = sound and bool(longest * max(map(len, masks), default=0) < rle.MAX_OUTLINE)
        sound = sound and bool((np.abs(numbers) <= rle.MAX_COORDINATE).all())
    except (TypeError, ValueError, OverflowError):
        sound = False
    for i in () if sound else where:
        problem = rle.check_polygons(masks[i], *sizes[i])
        if problem:
            raise UserError(f"{name}: annotation {i}: {problem}")


def _add_keypoints(annotations: list[dict[str, Any]], entries: list[Json], sizes: Sizes, name: str) -> None:
    where = f"{name}: annotation"
    points = keypoints(entries, where)
    visible = (points[:, 2::3] > 0).sum(axis=1)
    _add_boxes(annotations, entries, sizes, name)
    for annotation, entry, marked, row in zip(annotations, entries, visible.tolist(), points.tolist(), strict=True):
        annotation.update(keypoints=row, num_keypoints=int(entry.get("num_keypoints", marked)))


def _areas(entries: list[Json], computed: NDArray[np.float64] | None, name: str) -> list[float]:
    """The areas that the file gives; where one is missing, those that were computed."""
    if computed is None or all("area" in entry for entry in entries):
        areas = finite(entries, "area", f"{name}: annotation")
    else:
        given: list[Json] = [
            {"area": entry.get("area", own)} for entry, own in zip(entries, computed.tolist(), strict=True)
        ]
        areas = finite(given, "area", f"{name}: annotation")
    return list(map(float, areas))


def read_detections(source: object, truth: Truth, kind: Kind) -> Detections:
    """Detections in COCO's result format, as columns.

    As pycocotools does it: where detections have boxes, these give their areas, also when masks are evaluated;
    else the masks or key points give area and box.
    """
    entries, name = read_json(source, "the detections")
    if not isinstance(entries, list):
        raise UserError(f"{name}: not COCO detections: expected a list of {{'image_id', 'category_id', 'score', ...}}")
    where = f"{name}: detection"
    image_ids = whole_numbers(entries, "image_id", where)
    category_ids = whole_numbers(entries, "category_id", where)
    _refuse_unknown(image_ids, truth.sizes, f"{where} {{}} is of image", f"which is not in {truth.name}")
    known = {each["id"] for each in truth.categories}
    _refuse_unknown(category_ids, known, f"{where} {{}} is of category", f"which is not in {truth.name}")
    scores = finite(entries, "score", where)
    masks, points, areas = None, None, None
    boxed = bool(entries) and bool(entries[0].get("bbox"))
    if kind == "segm" or (kind == "bbox" and not boxed):
        masks = column(entries, "segmentation", where)
        _check_masks(masks, image_ids, truth, where)
    if kind == "keypoints":
        points = keypoints(entries, where)
    if boxed:
        found = boxes(entries, where)
    elif points is not None:
        low, high = (np.stack((f(points[:, 0::3], 1), f(points[:, 1::3], 1)), 1) for f in (np.min, np.max))
        found = np.concatenate((low, high - low), axis=1)
    elif masks is not None:
        found, areas = rle.boxes(masks), rle.area(masks).astype(np.float64)
    columns = np.column_stack((image_ids, found, scores, category_ids)).reshape(-1, 7)
    return Detections(columns, areas, masks if kind == "segm" else None, points)


def _check_masks(masks: list[Any], image_ids: list[int], truth: Truth, where: str) -> None:
    """Against the images' sizes; where the ground truth does not give these, against the masks' own."""
    own = [truth.sizes[image] or rle.size_of(mask) for image, mask in zip(image_ids, masks, strict=True)]
    fault = rle.first_bad(masks, own)
    if fault:
        raise UserError(f"{where} {fault[0]}: {fault[1]}")


# ---- columns of a list of entries ----


def column(entries: list[Json], key: str, where: str) -> list[Any]:
    """One value of every entry."""
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError, IndexError):
        for index, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                raise UserError(f"{where} {index} is not an object but {type(entry).__name__}") from None
            if key not in entry:
                raise UserError(f"{where} {index} has no {key!r}") from None
        raise


def whole_numbers(entries: list[Json], key: str, where: str) -> list[int]:
    values = column(entries, key, where)
    if not set(map(type, values)) <= {int}:
        for index, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise UserError(f"{where} {index}: {key!r} must be a whole number, not {value!r:.60}")
        values = [int(value) for value in values]
    for extreme in (min(values, default=0), max(values, default=0)):
        if not 0 <= extreme < 2**53:  # ids travel through float64
            raise UserError(f"{where} {values.index(extreme)}: {key!r} is out of range: {extreme}")
    return values


def finite(entries: list[Json], key: str, where: str) -> NDArray[np.float64]:
    values = column(entries, key, where)
    if not set(map(type, values)) <= {float, int}:
        for index, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise UserError(f"{where} {index}: {key!r} must be a number, not {value!r:.60}")
    result = np.array(values, np.float64)
    if not np.isfinite(result).all():
        index = int(np.isfinite(result).argmin())
        raise UserError(f"{where} {index}: {key!r} is {result[index]}: it must be finite")
    return result


def rows(entries: list[Json], key: str, length: int, where: str) -> NDArray[np.float64]:
    """A list of finite numbers from every entry, as an array [N, length]."""
    values = column(entries, key, where)
    if not values:
        return np.zeros((0, length))
    try:
        if set(map(len, values)) == {length}:
            result = np.fromiter(chain.from_iterable(values), np.float64, len(values) * length)
            if np.isfinite(result).all():
                return result.reshape(-1, length)
    except (TypeError, ValueError, OverflowError):
        pass  # found and named below
    for index, value in enumerate(values):
        try:
            row = np.array(value)
            fine = row.dtype.kind in "iuf" and row.shape == (length,) and np.isfinite(row).all()
        except (TypeError, ValueError, OverflowError):
            fine = False
        if not fine:
            raise UserError(f"{where} {index}: {key!r} must be {length} finite numbers, not {value!r:.60}")
    return np.array(values, np.float64)


def boxes(entries: list[Json], where: str) -> NDArray[np.float64]:
    result = rows(entries, "bbox", 4, where)
    if (result[:, 2:] < 0).any():
        index = int((result[:, 2:] < 0).any(axis=1).argmax())
        raise UserError(f"{where} {index}: 'bbox' is x, y, width, height, and {result[index].tolist()} is negative")
    return result


def keypoints(entries: list[Json], where: str) -> NDArray[np.float64]:
    """[N, 51]: x, y and visibility of COCO's 17 key points of a person, for which alone OKS is defined."""
    return rows(entries, "keypoints", 3 * KEYPOINTS, where)


def refuse_doubles(ids: list[int], where: str) -> None:
    if len(set(ids)) == len(ids):
        return
    seen: set[int] = set()
    for index, key in enumerate(ids):
        if key in seen:
            raise UserError(f"{where} {index}: id {key} occurs twice; ids must differ")
        seen.add(key)


def _refuse_unknown(ids: list[int], known: Container[int], before: str, after: str) -> None:
    for key in set(ids):
        if key not in known:
            raise UserError(f"{before.format(ids.index(key))} {key}, {after}")
