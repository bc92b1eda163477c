"""The challenge's scores of a submission, with the ways of its grader.

- It scores the test images that have relations, in the order of its file, and 20 relations of each.
- An image for which no relation was submitted is left out of the recalls instead of counting 0.
- For PQ it numbers segments class - 1 + 1000 * count of the class so far: black pixels are the first person.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.metrics.panoptic import IDS as IDS_PER_IMAGE
from common.metrics.panoptic import Segments, collect, count_pairs, match, read_picture, summarize
from refinemask_psg.psg.files import PsgEntry, PsgFile, read_psg
from refinemask_psg.psg.metrics import Graph, Recalls, Regions, final_score, recall_of, recalls, without_duplicates
from refinemask_psg.psg.submission_check import COUNTED, Opened, SubmittedImage, ids_of

NUMBERED = 1000
Int = NDArray[np.int64]
Picture = NDArray[np.uint8]  # [H, W, 3] RGB
Row = tuple[int, int, int, int | float]  # key of common.metrics' Segments, category, crowd, area


@dataclass
class Graded:
    """Everything that the grader finds out."""

    image_ids: list[str]
    triplets: Recalls
    phrases: Recalls
    panoptic: dict[str, Any]  # as of common.metrics.evaluate_panoptic


def score_submission(submission: Opened, annotations: Path, images: Path) -> dict[str, float]:
    """R@20, mR@20, PQ and the final score, as fractions."""
    graded = grade(submission, read_psg(annotations), images)
    pq = graded.panoptic["All"]["pq"] or 0.0
    scores = graded.triplets.summary() | {"PQ": pq}
    return scores | {"final": final_score(scores)}


def grade(submission: Opened, psg: PsgFile, images: Path) -> Graded:
    truths = [entry for entry in psg.split()[1] if entry.relations]
    if len(truths) != len(submission.entries):
        raise UserError(
            f"{submission.file}: {len(submission.entries)} entries, but {len(truths)} test images have relations; "
            "a submission has one entry for each, in the order of the file"
        )
    triplets, phrases, rows = [], [], PanopticRows(len(psg.thing_classes), len(psg.stuff_classes))
    pairs = pictures(submission, truths, images)
    for entry, submitted, (true_picture, picture) in zip(truths, submission.entries, pairs, strict=True):
        true, found = true_graph(entry, true_picture), submitted_graph(submitted, picture)
        if len(found.triplets):
            triplets.append(recall_of(true, found))
            phrases.append(recall_of(true, found, phrases=True))
        rows.add(entry, submitted, true_picture, picture)
    count = len(psg.predicate_classes)
    ids = [entry.image_id for entry in truths]
    return Graded(ids, recalls(triplets, count), recalls(phrases, count), rows.quality())


def pictures(submission: Opened, truths: Sequence[PsgEntry], images: Path) -> Iterator[tuple[Picture, Picture]]:
    """The true and the submitted picture of each image."""
    for index, (entry, picture) in enumerate(zip(truths, submission.pictures(), strict=True)):
        true = np.ascontiguousarray(read_picture(images / entry.pan_seg_file_name)[..., ::-1])
        if isinstance(picture, str):
            raise UserError(f"{submission.where(index)}: {picture}")
        if picture.shape != true.shape:
            sizes = f"{picture.shape[1]} x {picture.shape[0]}, not {true.shape[1]} x {true.shape[0]}"
            raise UserError(f"{submission.where(index)}: its PNG is {sizes}")
        yield true, picture


def true_graph(entry: PsgEntry, picture: Picture) -> Graph:
    segment_ids = np.array([segment.id for segment in entry.segments_info], np.int64)
    labels = np.array([segment.category_id for segment in entry.segments_info], np.int64)
    masks = ids_of(picture) == segment_ids[:, None, None]
    triplets = without_duplicates(np.array(entry.relations, np.int64).reshape(-1, 3))
    return Graph(labels, Regions(masks=masks), triplets)


def submitted_graph(entry: SubmittedImage, picture: Picture) -> Graph:
    segment_ids = np.array([segment.id for segment in entry.segments_info], np.int64)
    labels = np.array([segment.category_id - 1 for segment in entry.segments_info], np.int64)
    masks = ids_of(picture) == segment_ids[:, None, None]
    triplets = np.array(entry.relations[:COUNTED], np.int64).reshape(-1, 3)
    triplets[:, 2] -= 1
    return Graph(labels, Regions(masks=masks), triplets)


# --- PQ ---


class PanopticRows:
    """What PQ is made of, image by image; categories are numbered from 0."""

    def __init__(self, things: int, stuff: int):
        self.is_thing = {index: index < things for index in range(things + stuff)}
        self.true: list[Row] = []
        self.found: list[Row] = []
        self.counted: list[tuple[Int, Int, Int]] = []

    def add(self, entry: PsgEntry, submitted: SubmittedImage, true: Picture, picture: Picture) -> None:
        first = len(self.counted) * IDS_PER_IMAGE
        renumbered = grader_map(submitted, picture)
        self.counted.append(count_pairs(as_picture(ids_of(true)), as_picture(renumbered)))
        self.true += [(first + each.id, each.category_id, each.iscrowd, each.area) for each in entry.segments_info]
        self.found += [(first + number, (number - 1) % NUMBERED, 0, 0) for number in np.unique(renumbered).tolist()]

    def quality(self) -> dict[str, Any]:
        """panopticapi's numbers of the grader's maps."""
        categories = np.arange(len(self.is_thing))
        matched = match(as_segments(self.true), as_segments(self.found), collect(self.counted), categories)
        return summarize(matched, self.is_thing)


def grader_map(entry: SubmittedImage, picture: Picture) -> Int:
    """[H, W] the grader's number of each pixel, plus 1: common.metrics takes 0 for void, the grader does not."""
    ids, numbers = ids_of(picture), np.zeros(picture.shape[:2], np.int64)
    seen: dict[int, int] = {}
    for segment in entry.segments_info:
        label = segment.category_id - 1
        numbers[ids == segment.id] = label + NUMBERED * seen.get(label, 0)
        seen[label] = seen.get(label, 0) + 1
    return numbers + 1


def as_picture(ids: Int) -> NDArray[np.uint8]:
    """Ids [H, W] as panopticapi's PNGs have them, in OpenCV's order: [H, W, 3] blue, green, red."""
    return np.stack((ids >> 16 & 255, ids >> 8 & 255, ids & 255), axis=2).astype(np.uint8)


def as_segments(rows: list[Row]) -> Segments:
    table = np.array(rows, np.float64).reshape(-1, 4)  # exact up to 2**53
    keys, categories = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    return Segments(keys, categories, table[:, 2] == 1, table[:, 3])
