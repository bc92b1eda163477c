"""COCO average precision and recall: the numbers of pycocotools from hotcoco's engine, on checked input."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from common.metrics.coco_input import Detections, Kind, Truth, read_detections, read_truth

Source = str | Path | dict[str, Any] | list[dict[str, Any]]
Floats = NDArray[np.float64]
LIMIT = 100  # detections of a class in an image that are looked at, the best ones; of key points 20, always
IOU_THRESHOLDS = 10  # .50, .55, ... .95
RECALL_LIMITS = (1, 10)  # recall is given with so few detections too
RECALLS = 101  # 0, .01, ... 1


@dataclass(frozen=True)
class CocoDetails:
    summary: dict[str, float]
    per_class: dict[str, float]  # AP of each class, nan without ground truth
    precision: dict[str, Floats]  # [101] at recall 0, .01, ... 1 for IoU .5, of each class with ground truth


def evaluate_coco(annotations: Source, detections: Source, kind: Kind = "segm", limit: int = LIMIT) -> dict[str, float]:
    """The summary numbers of pycocotools for masks ("segm"), boxes ("bbox") or "keypoints".

    annotations: ground truth in COCO format, detections: a list in COCO's result format; each a path or the object.
    A number is 0.0 where there was something to find and nothing was found, and -1.0 where there was nothing to find
    (no ground truth at all, none of that size, no images). Annotation ids do not matter: 0 is one like any other.
    Broken input is a UserError: unknown image or category ids, RLE that does not fit its image, NaN, ...
    A crowd need not be found, nor do detections within it count: hotcoco's doing, by `iscrowd` from coco_input.py.
    """
    truth = read_truth(annotations, kind)
    precision, recall = _curves(truth, read_detections(detections, truth, kind), kind, limit)
    return _summary(precision, recall, kind, limit)


def coco_details(annotations: Source, detections: Source, kind: Kind = "segm", limit: int = LIMIT) -> CocoDetails:
    """The summary, and AP and precision curve of every class, for reports."""
    truth = read_truth(annotations, kind)
    precision, recall = _curves(truth, read_detections(detections, truth, kind), kind, limit)
    return details_of_curves(truth.categories, precision, recall, kind, limit)


def details_of_curves(
    categories: Sequence[dict[str, Any]], precision: Floats, recall: Floats, kind: Kind, limit: int
) -> CocoDetails:
    """Of precision and recall as the engine has them."""
    everything = precision[..., 0, -1]  # [10, 101, classes]: objects of all sizes, most detections
    per_class, curves = {}, {}
    for index, name in enumerate(_distinct(categories)):
        known = (everything[:, :, index] > -1).any()
        per_class[name] = _mean(everything[:, :, index]) if known else float("nan")
        if known:
            curves[name] = everything[0, :, index]
    return CocoDetails(_summary(precision, recall, kind, limit), per_class, curves)


def _curves(truth: Truth, detections: Detections, kind: Kind, limit: int) -> tuple[Floats, Floats]:
    """Precision [IoU, recall, class, size, detections] and recall [IoU, class, size, detections]; -1 is undefined."""
    dataset = {"images": truth.images, "annotations": truth.annotations, "categories": truth.categories}
    evaluation = _evaluate(COCO(dataset), detections, kind, limit)
    curves = evaluation.eval
    if curves is None or not truth.images or not truth.categories:
        sizes, limits = (3, 1) if kind == "keypoints" else (4, 3)
        shape = (len(truth.categories), sizes, limits)
        return np.full((IOU_THRESHOLDS, RECALLS, *shape), -1.0), np.full((IOU_THRESHOLDS, *shape), -1.0)
    return np.asarray(curves["precision"], np.float64), np.asarray(curves["recall"], np.float64)


def _evaluate(truth: COCO, detections: Detections, kind: Kind, limit: int) -> COCOeval:
    if detections.keypoints is not None:
        rows = zip(detections.columns.tolist(), detections.keypoints.tolist(), strict=True)
        found = truth.load_res(
            [
                {"image_id": int(image), "bbox": box, "score": score, "category_id": int(category), "keypoints": points}
                for (image, *box, score, category), points in rows
            ]
        )
    else:
        found = truth.load_res(detections.columns, segmentation=detections.segmentations)
    if detections.areas is not None:
        found.update_anns(ids=np.arange(1, len(detections.areas) + 1), area=detections.areas)
    evaluation = COCOeval(truth, found, kind)
    if kind != "keypoints":
        evaluation.params.max_dets = [*RECALL_LIMITS, limit]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _summary(precision: Floats, recall: Floats, kind: Kind, limit: int) -> dict[str, float]:
    """Means over everything that is defined, as pycocotools' summarize takes them."""
    people = kind == "keypoints"
    sizes = {"m": 1, "l": 2} if people else {"s": 1, "m": 2, "l": 3}  # 0: of all sizes
    result = {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[0, ..., 0, -1]),
        "AP75": _mean(precision[5, ..., 0, -1]),
        **{f"AP{suffix}": _mean(precision[..., index, -1]) for suffix, index in sizes.items()},
    }
    if people:
        result["AR"] = _mean(recall[..., 0, -1])
        result["AR50"] = _mean(recall[0, ..., 0, -1])
        result["AR75"] = _mean(recall[5, ..., 0, -1])
    else:
        result |= {f"AR{most}": _mean(recall[..., 0, at]) for at, most in enumerate((*RECALL_LIMITS, limit))}
    return result | {f"AR{suffix}": _mean(recall[..., index, -1]) for suffix, index in sizes.items()}


def _mean(values: Floats) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if len(defined) else -1.0


def _distinct(categories: Sequence[dict[str, Any]]) -> list[str]:
    """Class names; with the id where two classes have the same."""
    names = [category["name"] for category in categories]
    return [
        name if names.count(name) == 1 else f"{name} ({category['id']})"
        for name, category in zip(names, categories, strict=True)
    ]
