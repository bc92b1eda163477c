"""COCO's average precision of more than memory holds: matched some images at a time, put together class by class."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
from hotcoco import Params, StreamingEval

from common.metrics.coco import LIMIT, RECALL_LIMITS, CocoDetails, Floats, details_of_curves
from common.metrics.coco_input import Detections, Kind, Truth, read_detections, read_truth


def coco_details_of_parts(
    parts: Iterable[tuple[dict[str, Any], Mapping[Kind, list[dict[str, Any]]]]], limit: int = LIMIT
) -> dict[str, CocoDetails]:
    """As coco_details, of annotations and boxed detections that come some images at a time, and each image once.

    In memory are a part, then the matches of one class; those of all wait in a temporary file.
    """
    matches = sqlite3.connect("")  # a file that goes with the connection
    matches.execute("CREATE TABLE matches (kind TEXT, category INTEGER, state BLOB)")
    categories: dict[Kind, list[dict[str, Any]]] = {}
    for annotations, found in parts:
        for kind, detections in found.items():
            truth = read_truth(annotations, kind)
            categories[kind] = truth.categories
            states = _matched(truth, read_detections(detections, truth, kind), kind, limit)
            matches.executemany("INSERT INTO matches VALUES (?, ?, ?)", ((kind, *state) for state in states))
    matches.execute("CREATE INDEX of_class ON matches (kind, category)")
    details: dict[str, CocoDetails] = {}
    for kind, listed in categories.items():
        classes = [_merged(matches, category, kind, limit) for category in listed]
        precision, recall = (np.concatenate(curves, axis=-3) for curves in zip(*classes, strict=True))
        details[kind] = details_of_curves(listed, precision, recall, kind, limit)
    return details


def _matched(truth: Truth, found: Detections, kind: Kind, limit: int) -> Iterator[tuple[int, bytes]]:
    """Of each class that occurs: the engine's state once it has matched the class's objects and detections."""
    assert not len(found.columns) or found.areas is None  # the engine takes areas from the boxes
    objects: dict[int, list[dict[str, Any]]] = {}
    for each in truth.annotations:
        objects.setdefault(each["category_id"], []).append(each)
    images = {each["id"]: each for each in truth.images}
    for category in truth.categories:
        rows = np.flatnonzero(found.columns[:, -1] == category["id"])
        own, columns = objects.get(category["id"], []), found.columns[rows]
        involved = {each["image_id"] for each in own} | set(columns[:, 0].astype(int).tolist())
        if involved:
            masks = found.segmentations and [found.segmentations[row] for row in rows]
            engine = _streaming(category, kind, limit)
            engine.update([images[each] for each in involved], own, columns, segmentation=masks)
            yield category["id"], engine.to_bytes()


def _merged(matches: sqlite3.Connection, category: dict[str, Any], kind: Kind, limit: int) -> tuple[Floats, Floats]:
    """Precision and recall of a class, as coco.py has them."""
    question = "SELECT state FROM matches WHERE kind = ? AND category = ?"
    states = (StreamingEval.from_bytes(state) for (state,) in matches.execute(question, (kind, category["id"])))
    evaluation = StreamingEval.merge(chain([_streaming(category, kind, limit)], states)).finalize()
    evaluation.accumulate()
    curves: Any = evaluation.eval
    return np.asarray(curves["precision"], np.float64), np.asarray(curves["recall"], np.float64)


def _streaming(category: dict[str, Any], kind: Kind, limit: int) -> StreamingEval:
    parameters = Params(kind)
    parameters.max_dets = [*RECALL_LIMITS, limit]
    return StreamingEval([category], kind, params=parameters)
