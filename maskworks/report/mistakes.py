"""What a model gets wrong: which classes it takes for which, and on which images it does worst.

A prediction finds an object that it overlaps by an IoU of 0.5 or more: first one of its own class, the surest
prediction first, as COCO's scores have it. What is left over may still lie on each other: then one class was taken
for another. Segments of panoptic maps are compared in the same way.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.data.coco import AnnotatedImages
from common.metrics.panoptic import VOID, Pairs
from common.ops import masks as rle
from common.run.evaluation import Evaluation, scored_for

Json = Mapping[str, Any]
Int = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
OVERLAP = 0.5
Compared = tuple[list[tuple[int, int]], float]  # of an image: true and claimed class of each object; quality
THRESHOLD = 0.3  # predictions with a lower score are neither counted nor drawn, unless a package says otherwise


@dataclass(frozen=True)
class Mistakes:
    """Over a whole data set."""

    class_names: tuple[str, ...]
    confusion: Int  # [C + 1, C + 1] objects of each class (row) found as each class (column); last: missed, not there
    quality: Floats  # [images] 1 where all is right: mean IoU of what is found, times the F1 of finding it
    threshold: float | None  # the least score of what was counted; None: all of it

    def worst(self, count: int) -> list[int]:
        """Numbers of the images with the lowest quality, the worst first."""
        numbers: list[int] = np.argsort(self.quality, kind="stable")[:count].tolist()
        return numbers


def of_instances(evaluation: Evaluation, dataset: AnnotatedImages, threshold: float) -> Mistakes:
    """Of what a model found in a data set: of its masks, where it has any."""
    detections = scored_for(evaluation.kind, evaluation.detections)
    return find_mistakes(dataset.annotations_json(), detections, evaluation.kind, threshold)


def find_mistakes(
    annotations: Json,
    detections: Sequence[Json],
    kind: Literal["segm", "bbox"] = "segm",
    threshold: float = THRESHOLD,
) -> Mistakes:
    """Compare detections in COCO's result format with ground truth in COCO's format; images in the latter's order."""
    categories = sorted(annotations["categories"], key=lambda category: int(category["id"]))
    labels = {category["id"]: label for label, category in enumerate(categories)}
    truths, found = defaultdict(list), defaultdict(list)
    for entry in annotations["annotations"]:
        truths[entry["image_id"]].append(entry)
    for entry in detections:
        if entry["score"] >= threshold:
            found[entry["image_id"]].append(entry)

    def compared(image: Json) -> Compared:
        there = truths[image["id"]]
        claimed = sorted(found[image["id"]], key=lambda entry: -float(entry["score"]))
        crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in there], bool)
        overlaps = measure(claimed, there, crowd, (image["height"], image["width"]), kind)
        return compare(overlaps, _labels(claimed, labels), _labels(there, labels), crowd, len(labels))

    return sum_up([str(category["name"]) for category in categories], map(compared, annotations["images"]), threshold)


def sum_up(class_names: Sequence[str], images: Iterable[Compared], threshold: float | None) -> Mistakes:
    """Of what compare() says about each image, in the data set's order."""
    confusion = np.zeros((len(class_names) + 1, len(class_names) + 1), np.int64)
    quality = []
    for pairs, value in images:
        np.add.at(confusion, tuple(np.array(pairs, np.int64).reshape(-1, 2).T), 1)
        quality.append(value)
    return Mistakes(tuple(class_names), confusion, np.array(quality, np.float64), threshold)


def compare(overlaps: Floats, found: Int, there: Int, crowd: Flags, nothing: int) -> Compared:
    """For one image the (true, claimed) class of every object and every claim, and the image's quality.

    overlaps: [claims, objects], the surest claim first; `nothing` is the class of what is not there.
    """
    open_claims, open_objects = np.ones(len(found), bool), ~crowd
    same = found[:, None] == there[None]  # [claims, objects]
    pairs, right = [], []
    for allowed in (same, np.ones_like(same)):
        for claim in np.flatnonzero(open_claims).tolist():
            candidates = np.where(open_objects & allowed[claim], overlaps[claim], 0.0)
            if not len(candidates) or candidates[best := int(candidates.argmax())] < OVERLAP:
                continue
            open_claims[claim] = open_objects[best] = False
            pairs.append((int(there[best]), int(found[claim])))
            if there[best] == found[claim]:
                right.append(float(candidates[best]))
    # What lies on a crowd of its class is neither right nor wrong.
    open_claims &= ~((overlaps >= OVERLAP) & same & crowd).any(axis=1)
    matched = len(pairs)
    pairs += [(label, nothing) for label in there[open_objects].tolist()]
    pairs += [(nothing, label) for label in found[open_claims].tolist()]
    count = len(pairs) + matched  # of objects and claims together
    return pairs, 2 * sum(right) / count if count else 1.0


def compare_segments(pairs: Pairs, truth: Sequence[Json], found: Sequence[Json], labels: Mapping[int, int]) -> Compared:
    """For one image's panoptic maps what compare() says; labels: the class of each category id.

    Pixels without label count for nothing, nor does a segment that lies on them by more than half.
    """
    true_ids, found_ids, pixels = pairs
    crowd = np.array([each.get("iscrowd", 0) == 1 for each in truth], bool)
    rows, columns = (  # -1, of no segment, is the last one
        [{each["id"]: at for at, each in enumerate(own)}.get(key, -1) for key in ids.tolist()]
        for own, ids in ((found, found_ids), (truth, true_ids))
    )
    shared = np.zeros((len(found) + 1, len(truth) + 1))  # [found + 1, true + 1] pixels
    np.add.at(shared, (rows, columns), pixels)
    unlabelled = np.zeros(len(found) + 1)
    np.add.at(unlabelled, rows, pixels * (true_ids == VOID))
    whole, unlabelled = shared.sum(axis=1)[:-1], unlabelled[:-1]  # [found]
    counted = (whole > 0) & (unlabelled <= whole / 2)
    own = (whole - unlabelled)[counted, None]
    shared, area = shared[:-1, :-1][counted], shared.sum(axis=0)[None, :-1]
    overlaps = shared / np.maximum(np.where(crowd, own, own + area - shared), 1)
    return compare(overlaps, _labels(found, labels)[counted], _labels(truth, labels), crowd, len(labels))


def measure(
    claimed: Sequence[Json], there: Sequence[Json], crowd: Flags, size: tuple[int, int], kind: Literal["segm", "bbox"]
) -> Floats:
    """IoU of every claim with every object [claims, objects]; with a crowd: the part of the claim that is in it."""
    if not claimed or not there:
        return np.zeros((len(claimed), len(there)))
    if kind == "segm":
        drawn = [
            rle.from_polygons(entry["segmentation"], *size)
            if isinstance(entry["segmentation"], list)
            else entry["segmentation"]
            for entry in there
        ]
        return rle.iou([entry["segmentation"] for entry in claimed], drawn, crowd)
    a, b = (np.array([entry["bbox"] for entry in entries], np.float64) for entries in (claimed, there))  # x, y, w, h
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    own, other = a[:, None, 2:].prod(axis=2), b[None, :, 2:].prod(axis=2)
    return np.asarray(common / np.maximum(np.where(crowd, own, own + other - common), 1e-9))


def _labels(entries: Sequence[Json], labels: Mapping[int, int]) -> Int:
    return np.array([labels[entry["category_id"]] for entry in entries], np.int64)
