"""Panoptic quality: the numbers of panopticapi from hotcoco's engine, on checked input."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hotcoco.panoptic import PanopticEval
from numpy.typing import NDArray

from common.errors import UserError
from common.files import leads_inside
from common.metrics.coco_input import column, different_ids, finite, read_json, whole_numbers

Int = NDArray[np.int64]
Json = dict[str, Any]
Source = str | Path | Json
Pairs = tuple[Int, Int, Int]  # of a picture: true and predicted ids that meet, VOID included, and in how many pixels
VOID = 0  # the id of pixels without a label
IDS = 2**24  # ids are R + 256 G + 65536 B
MAX_PIXELS = 2**30  # as of OpenCV: for more, the engine may find no memory, and that ends the process
LINE = 1024  # pixels; a PNG has at most a million in one
GROUPS = ("All", "Things", "Stuff")
NOTHING = {"pq": None, "sq": None, "rq": None, "n": 0}
WORDS = {"predicted segment": "segment", "segments_info": "the JSON", "the mask": "the PNG", "has un": "has the un"}


def evaluate_panoptic(
    annotations_json: Source,
    predictions_json: Source,
    annotations_folder: str | Path | None = None,
    predictions_folder: str | Path | None = None,
) -> Json:
    """Panoptic quality of predictions in COCO's panoptic format, as panopticapi computes it.

    The folders of the PNGs are by default named like the JSON files, without ".json".
    -> {"All": {"pq", "sq", "rq", "n"}, "Things": .., "Stuff": .., "per_class": {category id: ..}}: fractions, averaged
    over the n categories that occur in ground truth or predictions; None where n is 0. A class that does not occur has
    zeros in per_class. Pictures and JSON that contradict each other are a UserError.
    """
    truth, name, folder = _read(annotations_json, "the annotations", annotations_folder, ("annotations", "categories"))
    found, found_name, found_folder = _read(predictions_json, "the predictions", predictions_folder, ("annotations",))
    ids = whole_numbers(truth["categories"], "id", f"{name}: category")
    things = column(truth["categories"], "isthing", f"{name}: category")
    categories = [{"id": each, "isthing": int(thing == 1)} for each, thing in zip(ids, things, strict=True)]
    images = _images(truth["annotations"], name, folder, stated=True)
    claims = _images(found["annotations"], found_name, found_folder, stated=False)
    files = {each["image_id"]: found_folder / each["file_name"] for each in claims}
    for image in images:
        if image["image_id"] in files:  # the engine tells which is missing
            _compare_sizes(folder / image["file_name"], files[image["image_id"]])
    both = {"annotations": images, "categories": categories}, {"annotations": claims}
    result: Json = {}
    if images:  # without any, the engine takes it for another format
        try:
            evaluation = PanopticEval(*both, gt_folder=folder, pred_folder=found_folder)
            evaluation.evaluate()
        except (ValueError, OSError) as error:
            message = str(error)
            for theirs, ours in WORDS.items():
                message = message.replace(theirs, ours)
            raise UserError(f"{found_name}: {message}" if message.startswith("image ") else message) from error
        result = evaluation.results()
    groups = {each: result[each] if images and result[each]["n"] else {**NOTHING} for each in GROUPS}
    return groups | {"per_class": {each: _row(result["per_class"][each] if images else {}) for each in ids}}


def quality_of_pairs(
    truths: Sequence[list[Json]], founds: Sequence[list[Json]], pairs: Sequence[Pairs], categories: list[Json]
) -> Json:
    """As evaluate_panoptic, of kept pairs: an image is drawn as lines of them, as where pixels lie does not matter."""
    sides = []
    with tempfile.TemporaryDirectory() as name:
        for side, lists in enumerate((truths, founds)):
            (folder := Path(name, str(side))).mkdir()
            for at, counted in enumerate(pairs):
                colours = (counted[side][:, None] >> [16, 8, 0]).astype(np.uint8)  # blue, green, red
                pixels = np.repeat(colours, counted[2], axis=0)
                pixels = np.pad(pixels, ((0, -len(pixels) % LINE), (0, 0)), constant_values=VOID)
                cv2.imwrite(str(folder / f"{at}.png"), pixels.reshape(-1, LINE, 3))
            images = [{"image_id": at, "file_name": f"{at}.png", "segments_info": own} for at, own in enumerate(lists)]
            sides.append(({"annotations": images, "categories": categories}, folder))
        return evaluate_panoptic(sides[0][0], sides[1][0], sides[0][1], sides[1][1])


def count_pairs(truth: Int, found: Int) -> Pairs:
    """Of two maps of ids [H, W]."""
    pairs, pixels = np.unique(truth * IDS + found, return_counts=True)
    return pairs // IDS, pairs % IDS, pixels


def _row(found: Mapping[str, float]) -> dict[str, float]:
    """The engine's row of a class; it has -1 where a class does not occur."""
    quality = {key: max(found.get(key, 0.0), 0.0) for key in ("pq", "sq", "rq")}
    return quality | {"iou_sum": found.get("iou", 0.0)} | {key: found.get(key, 0) for key in ("tp", "fp", "fn")}


def _read(source: Source, name: str, folder: str | Path | None, parts: tuple[str, ...]) -> tuple[Json, str, Path]:
    """A file's content, what to call it, and the folder of its PNGs."""
    data, name = read_json(source, name)
    if not isinstance(data, Mapping) or not all(isinstance(data.get(part), list) for part in parts):
        raise UserError(f"{name}: not in COCO's panoptic format: expected {' and '.join(map(repr, parts))} as lists")
    if folder is None and not isinstance(source, str | Path):
        raise UserError(f"{name} come as an object: name the folder of their PNGs too")
    path = Path(folder) if folder is not None else Path(str(source).removesuffix(".json"))
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; the PNGs of {name} are expected there")
    return dict(data), name, path


def _images(entries: list[Any], name: str, folder: Path, *, stated: bool) -> list[Json]:
    """The entries, checked, with what is evaluated of them."""
    where, root, images = f"{name}: annotation", folder.resolve(), []
    image_ids, files = whole_numbers(entries, "image_id", where), column(entries, "file_name", where)
    for at, (file, segments) in enumerate(zip(files, column(entries, "segments_info", where), strict=True)):
        if not isinstance(file, str) or not leads_inside(root / file, root):
            raise UserError(f"{where} {at}: file_name {file!r:.80} leads out of {folder}")
        if not isinstance(segments, list):
            raise UserError(f"{where} {at}: 'segments_info' must be a list")
        own = f"{where} {at}: segment"
        ids, categories = different_ids(segments, own), whole_numbers(segments, "category_id", own)
        if not all(VOID < each < IDS for each in ids):
            raise UserError(f"{own} id is out of range: R + 256 G + 65536 B lies between 1 and {IDS - 1}")
        areas = finite(segments, "area", own) if stated else np.zeros(len(ids))
        if ((areas < 0) | (areas % 1 > 0)).any():
            raise UserError(f"{own}: an area is not a number of pixels")
        crowd = (int(each.get("iscrowd", 0) == 1) for each in segments)
        rows = zip(ids, categories, areas.tolist(), crowd, strict=True)
        kept = [dict(zip(("id", "category_id", "area", "iscrowd"), row, strict=True)) for row in rows]
        images.append({"image_id": image_ids[at], "file_name": file, "segments_info": kept})
    return images


def _compare_sizes(truth: Path, found: Path) -> None:
    """By the headers of the PNGs: of all that a picture claims, the engine believes its size."""
    sizes = []
    for file in (truth, found):
        try:
            with file.open("rb") as opened:
                header = opened.read(24)  # signature, length and name of the first chunk, width, height
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from error
        width, height = (int.from_bytes(header[at : at + 4]) for at in (16, 20))
        if not header.startswith(b"\x89PNG") or not 0 < width * height <= MAX_PIXELS:
            raise UserError(f"{file}: not a picture that can be decoded; a panoptic PNG was expected")
        sizes.append((height, width))
    if sizes[0] != sizes[1]:
        raise UserError(f"{truth} and {found} differ in size: {sizes[0]} and {sizes[1]} (height, width)")
