"""Panoptic quality: the numbers of panopticapi, with every image's segments matched at once."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import leads_inside
from common.metrics.coco_input import column, finite, read_json, whole_numbers

Int = NDArray[np.int64]
Source = str | Path | dict[str, Any]
VOID = 0  # the id of pixels without a label
IDS = 2**24  # ids are R + 256 G + 65536 B


@dataclass(frozen=True)
class Segments:
    """All segments of all images, in the order of the file; one row each."""

    keys: Int  # image index * IDS + id
    categories: Int
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]  # as the file states them


@dataclass(frozen=True)
class Overlaps:
    """Every pair of a true and a predicted id that meet in a picture, VOID included."""

    truth: Int  # image index * IDS + id
    found: Int
    pixels: Int


def evaluate_panoptic(
    annotations_json: Source,
    predictions_json: Source,
    annotations_folder: str | Path | None = None,
    predictions_folder: str | Path | None = None,
) -> dict[str, Any]:
    """Panoptic quality of predictions in COCO's panoptic format, as panopticapi computes it.

    The folders of the PNGs are by default named like the JSON files, without ".json".
    -> {"All": {"pq", "sq", "rq", "n"}, "Things": .., "Stuff": .., "per_class": {category id: ..}}: fractions, averaged
    over the n categories that occur in ground truth or predictions; None where n is 0. A class that does not occur has
    zeros in per_class. Pictures and JSON that contradict each other are a UserError.
    """
    truth_data, truth_name = _read(annotations_json, "the annotations", ("annotations", "categories"))
    found_data, found_name = _read(predictions_json, "the predictions", ("annotations",))
    truth_folder = _folder(annotations_folder, annotations_json, truth_name)
    found_folder = _folder(predictions_folder, predictions_json, found_name)
    categories = _categories(truth_data["categories"], truth_name)
    images = truth_data["annotations"]
    image_ids = whole_numbers(images, "image_id", f"{truth_name}: annotation")
    predictions = _predictions_of(image_ids, found_data["annotations"], found_name)
    truth = read_segments(images, truth_name, given_areas=True)
    found = read_segments(predictions, found_name, given_areas=False)
    files = zip(
        _pictures(images, truth_folder, truth_name), _pictures(predictions, found_folder, found_name), strict=True
    )

    def count(pair: tuple[Path, Path]) -> tuple[Int, Int, Int]:
        return count_pairs(read_picture(pair[0]), read_picture(pair[1]), f"{pair[0]} and {pair[1]}")

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV and numpy let go of the interpreter lock
        overlaps = collect(list(pool.map(count, files)))
    ids = np.array(list(categories), np.int64)
    refuse_contradictions(found, overlaps, ids, image_ids, found_name)
    return summarize(match(truth, found, overlaps, ids), categories)


# ---- reading ----


def _read(source: Source, name: str, parts: tuple[str, ...]) -> tuple[Mapping[str, Any], str]:
    data, name = read_json(source, name)
    if not isinstance(data, Mapping) or not all(isinstance(data.get(part), list) for part in parts):
        raise UserError(f"{name}: not in COCO's panoptic format: expected {' and '.join(map(repr, parts))} as lists")
    return data, name


def _folder(folder: str | Path | None, source: Source, name: str) -> Path:
    if folder is None and not isinstance(source, str | Path):
        raise UserError(f"{name} come as an object: name the folder of their PNGs too")
    path = Path(folder) if folder is not None else Path(str(source).removesuffix(".json"))
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; the PNGs of {name} are expected there")
    return path


def _categories(entries: list[Mapping[str, Any]], name: str) -> dict[int, bool]:
    """Category id -> whether it is of things."""
    ids = whole_numbers(entries, "id", f"{name}: category")
    return dict(zip(ids, (each == 1 for each in column(entries, "isthing", f"{name}: category")), strict=True))


def _predictions_of(image_ids: list[int], entries: list[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The prediction for each image; those for other images are left out."""
    by_id = dict(zip(whole_numbers(entries, "image_id", f"{name}: annotation"), entries, strict=True))
    for image in image_ids:
        if image not in by_id:
            raise UserError(f"{name}: no prediction for the image with id {image}")
    return [by_id[image] for image in image_ids]


def read_segments(images: list[Mapping[str, Any]], name: str, *, given_areas: bool) -> Segments:
    lists = column(images, "segments_info", f"{name}: annotation")
    for index, each in enumerate(lists):
        if not isinstance(each, list):
            raise UserError(f"{name}: annotation {index}: 'segments_info' must be a list")
    segments = [segment for each in lists for segment in each]
    image = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
    where = f"{name}: segment"
    ids = np.array(whole_numbers(segments, "id", where), np.int64)
    if ((ids <= VOID) | (ids >= IDS)).any():
        raise UserError(f"{name}: a segment id is out of range: R + 256 G + 65536 B lies between 1 and {IDS - 1}")
    keys = image * IDS + ids
    if len(np.unique(keys)) < len(keys):
        _, first, times = np.unique(keys, return_index=True, return_counts=True)
        twice = first[times > 1][0]
        raise UserError(f"{name}: segment id {ids[twice]} occurs twice in annotation {image[twice]}")
    return Segments(
        keys,
        np.array(whole_numbers(segments, "category_id", where), np.int64),
        np.array([segment.get("iscrowd", 0) == 1 for segment in segments], bool),
        finite(segments, "area", where) if given_areas else np.zeros(len(keys)),
    )


def _pictures(images: list[Mapping[str, Any]], folder: Path, name: str) -> Iterator[Path]:
    root = folder.resolve()
    for index, file in enumerate(column(images, "file_name", f"{name}: annotation")):
        if not isinstance(file, str) or not leads_inside(root / file, root):
            raise UserError(f"{name}: annotation {index}: file_name {file!r:.80} leads out of {folder}")
        yield folder / file


def read_picture(file: Path) -> NDArray[np.uint8]:
    """A PNG as OpenCV decodes it: [H, W, 3], blue, green, red."""
    try:
        picture = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except cv2.error:
        picture = None
    if picture is None:
        raise UserError(f"{file}: not a picture that can be decoded; a panoptic PNG was expected")
    return np.ascontiguousarray(picture, np.uint8)


# ---- counting ----


def count_pairs(truth: NDArray[np.uint8], found: NDArray[np.uint8], names: object = "") -> tuple[Int, Int, Int]:
    """Two pictures [H, W, 3] -> pairs of true and predicted ids that meet, and in how many pixels."""
    if truth.shape != found.shape:
        raise UserError(f"{names} differ in size: {truth.shape[:2]} and {found.shape[:2]} (height, width)")
    # Neighbours mostly belong to the same pair: ids are looked at only where a run of one pair begins.
    changes = truth.reshape(-1)[3:] != truth.reshape(-1)[:-3]
    changes |= found.reshape(-1)[3:] != found.reshape(-1)[:-3]
    after = np.flatnonzero(changes) // 3 + 1
    starts = np.append(np.zeros(min(1, truth.size), np.int64), after[np.diff(after, prepend=0) > 0])
    true_ids, found_ids = (
        picture.reshape(-1, 3)[starts].astype(np.int64) @ [65536, 256, 1]  # blue, green, red
        for picture in (truth, found)
    )
    pairs, which = np.unique((true_ids * IDS + found_ids).astype(np.int64), return_inverse=True)
    pixels = np.bincount(which, np.diff(starts, append=truth.size // 3), len(pairs)).astype(np.int64)
    return pairs // IDS, pairs % IDS, pixels


def collect(counted: list[tuple[Int, Int, Int]]) -> Overlaps:
    """The pairs of every image, as those of the whole data set."""
    nothing = np.zeros(0, np.int64)
    image = np.repeat(np.arange(len(counted)), [len(each[0]) for each in counted]) * IDS
    truth, found, pixels = (
        np.concatenate([nothing, *parts]) for parts in (zip(*counted, strict=True) if counted else [()] * 3)
    )
    return Overlaps(image + truth, image + found, pixels)


def rows_of(keys: Int, segments: Segments) -> Int:
    """The row of each key in the table of segments; -1 where it is not there."""
    if not len(segments.keys):
        return np.full(len(keys), -1)
    order = np.argsort(segments.keys)
    at = order[np.minimum(np.searchsorted(segments.keys, keys, sorter=order), len(order) - 1)]
    return np.where(segments.keys[at] == keys, at, -1)


def refuse_contradictions(
    found: Segments, overlaps: Overlaps, categories: Int, image_ids: list[int], name: str
) -> None:
    """Predictions whose pictures and JSON do not tell of the same segments."""
    rows = rows_of(overlaps.found, found)
    stray = (rows < 0) & (overlaps.found % IDS != VOID)
    if stray.any():
        image, segment = divmod(int(overlaps.found[stray.argmax()]), IDS)
        raise UserError(f"{name}: image {image_ids[image]}: segment {segment} is in the PNG but not in the JSON")
    absent = np.bincount(rows[rows >= 0], minlength=len(found.keys)) == 0
    if absent.any():
        image, segment = divmod(int(found.keys[absent.argmax()]), IDS)
        raise UserError(f"{name}: image {image_ids[image]}: segment {segment} is in the JSON but not in the PNG")
    unknown = ~np.isin(found.categories, categories)
    if unknown.any():
        image, segment = divmod(int(found.keys[unknown.argmax()]), IDS)
        category = found.categories[unknown.argmax()]
        raise UserError(f"{name}: image {image_ids[image]}: segment {segment} has the unknown category_id {category}")


# ---- matching ----


@dataclass(frozen=True)
class Matches:
    """Per category, in the order of the ground truth's list."""

    iou: NDArray[np.float64]
    true_positives: Int
    false_positives: Int
    false_negatives: Int


def match(truth: Segments, found: Segments, overlaps: Overlaps, categories: Int) -> Matches:
    """Segments of one category that overlap by more than half belong together; there can only be one such pair.

    Not counted as wrong: crowds nobody found, and predictions that lie by more than half on pixels without label or in
    the crowd of their category (of several crowds in an image, the last listed, as in panopticapi).
    """
    true_row, found_row = rows_of(overlaps.truth, truth), rows_of(overlaps.found, found)
    on_void = (overlaps.truth % IDS == VOID) & (found_row >= 0)
    void = np.bincount(found_row[on_void], overlaps.pixels[on_void], len(found.keys))
    seen = found_row >= 0
    area = np.bincount(found_row[seen], overlaps.pixels[seen], len(found.keys))

    met = np.flatnonzero((true_row >= 0) & (found_row >= 0))
    met = met[~truth.crowd[true_row[met]] & (truth.categories[true_row[met]] == found.categories[found_row[met]])]
    a, b, shared = true_row[met], found_row[met], overlaps.pixels[met]
    union = truth.areas[a] + area[b] - shared - void[b]
    iou = np.divide(shared, union, out=np.zeros(len(met)), where=union > 0)
    right = iou > 0.5
    a, b, iou = a[right], b[right], iou[right]

    missed = ~truth.crowd
    missed[a] = False
    wrong = (void + _on_crowd(truth, found, overlaps, found_row)) / np.maximum(area, 1) <= 0.5
    wrong[b] = False
    number = len(categories)

    def count(rows: Segments, which: NDArray[Any], weights: NDArray[np.float64] | None = None) -> NDArray[Any]:
        if not number:
            return np.zeros(0)
        order = np.argsort(categories)
        chosen = rows.categories[which]
        at = order[np.minimum(np.searchsorted(categories, chosen, sorter=order), number - 1)]
        known = categories[at] == chosen
        return np.bincount(at[known], None if weights is None else weights[known], number)

    return Matches(count(found, b, iou), count(found, b), count(found, wrong), count(truth, missed))


def _on_crowd(truth: Segments, found: Segments, overlaps: Overlaps, found_row: Int) -> NDArray[np.float64]:
    """Pixels of each prediction that lie in its category's crowd."""
    crowds = np.flatnonzero(truth.crowd)[::-1]
    pairs = np.stack((truth.keys[crowds] // IDS, truth.categories[crowds]), axis=1)
    _, last = np.unique(pairs, axis=0, return_index=True)  # of the reversed list, the first is the last
    chosen = np.zeros(len(truth.keys), bool)
    chosen[crowds[last]] = True
    true_row = rows_of(overlaps.truth, truth)
    met = np.flatnonzero((true_row >= 0) & (found_row >= 0))
    met = met[chosen[true_row[met]] & (truth.categories[true_row[met]] == found.categories[found_row[met]])]
    return np.bincount(found_row[met], overlaps.pixels[met], len(found.keys)).astype(np.float64)


def summarize(matches: Matches, categories: dict[int, bool]) -> dict[str, Any]:
    """Quality of each category, and the averages over those that occur."""
    right, wrong, missed = matches.true_positives, matches.false_positives, matches.false_negatives
    total = right + 0.5 * wrong + 0.5 * missed
    there = total > 0
    quality = np.stack(
        (
            np.divide(matches.iou, total, out=np.zeros(len(total)), where=there),
            np.divide(matches.iou, right, out=np.zeros(len(total)), where=right > 0),
            np.divide(right, total, out=np.zeros(len(total)), where=there),
        )
    )
    things = np.array(list(categories.values()), bool)
    result: dict[str, Any] = {}
    for name, group in {"All": there, "Things": there & things, "Stuff": there & ~things}.items():
        number = int(group.sum())
        means = (quality[:, group].sum(axis=1) / number).tolist() if number else [None] * 3
        result[name] = {**dict(zip(("pq", "sq", "rq"), means, strict=True)), "n": number}
    rows = zip(*quality.tolist(), matches.iou.tolist(), right.tolist(), wrong.tolist(), missed.tolist(), strict=True)
    columns = ("pq", "sq", "rq", "iou_sum", "tp", "fp", "fn")
    result["per_class"] = {
        category: dict(zip(columns, row, strict=True)) for category, row in zip(categories, rows, strict=True)
    }
    return result


def occurs(row: Mapping[str, float]) -> bool:
    """Whether a row of per_class is of a category that is there or was found."""
    return row["tp"] + row["fp"] + row["fn"] > 0
