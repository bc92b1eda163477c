"""The challenge's scores of a submission, with the ways of its grader.

- It scores the test images that have relations, in the order of its file, and 20 relations of each.
- An image for which no relation was submitted is left out of the recalls instead of counting 0.
- For PQ it numbers segments class - 1 + 1000 * count of the class so far: black pixels are the first person.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.data.images import read_ids
from common.errors import UserError
from common.metrics.panoptic import count_pairs, quality_of_pairs
from refinemask_psg.psg.files import PsgEntry, PsgFile, read_psg
from refinemask_psg.psg.metrics import Graph, Recalls, Regions, final_score, recall_of, recalls, without_duplicates
from refinemask_psg.psg.submission_check import COUNTED, Opened, SubmittedImage, ids_of

NUMBERED = 1000
Int = NDArray[np.int64]
Segments = list[dict[str, Any]]  # as segments_info of COCO's panoptic format; categories are numbered from 0


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
    triplets, phrases, pairs = [], [], []
    listed: tuple[list[Segments], list[Segments]] = [], []
    maps = segment_maps(submission, truths, images)
    for entry, submitted, (true_ids, ids) in zip(truths, submission.entries, maps, strict=True):
        true, found = true_graph(entry, true_ids), submitted_graph(submitted, ids)
        if len(found.triplets):
            triplets.append(recall_of(true, found))
            phrases.append(recall_of(true, found, phrases=True))
        numbers = grader_map(submitted, ids)
        pairs.append(count_pairs(true_ids, numbers))
        listed[0].append(msgspec.to_builtins(entry.segments_info))
        listed[1].append([{"id": each, "category_id": (each - 1) % NUMBERED} for each in np.unique(numbers).tolist()])
    things, stuff, count = (len(each) for each in (psg.thing_classes, psg.stuff_classes, psg.predicate_classes))
    categories = [{"id": index, "isthing": int(index < things)} for index in range(things + stuff)]
    quality = quality_of_pairs(*listed, pairs, categories)
    return Graded([entry.image_id for entry in truths], recalls(triplets, count), recalls(phrases, count), quality)


def segment_maps(submission: Opened, truths: Sequence[PsgEntry], images: Path) -> Iterator[tuple[Int, Int]]:
    """[H, W] the true and the submitted ids of each image."""
    for index, (entry, picture) in enumerate(zip(truths, submission.pictures(), strict=True)):
        true = read_ids(images / entry.pan_seg_file_name)
        if isinstance(picture, str):
            raise UserError(f"{submission.where(index)}: {picture}")
        if picture.shape[:2] != true.shape:
            sizes = f"{picture.shape[1]} x {picture.shape[0]}, not {true.shape[1]} x {true.shape[0]}"
            raise UserError(f"{submission.where(index)}: its PNG is {sizes}")
        yield true, ids_of(picture)


def true_graph(entry: PsgEntry, ids: Int) -> Graph:
    segment_ids = np.array([segment.id for segment in entry.segments_info], np.int64)
    labels = np.array([segment.category_id for segment in entry.segments_info], np.int64)
    triplets = without_duplicates(np.array(entry.relations, np.int64).reshape(-1, 3))
    return Graph(labels, Regions(masks=ids == segment_ids[:, None, None]), triplets)


def submitted_graph(entry: SubmittedImage, ids: Int) -> Graph:
    segment_ids = np.array([segment.id for segment in entry.segments_info], np.int64)
    labels = np.array([segment.category_id - 1 for segment in entry.segments_info], np.int64)
    triplets = np.array(entry.relations[:COUNTED], np.int64).reshape(-1, 3)
    triplets[:, 2] -= 1
    return Graph(labels, Regions(masks=ids == segment_ids[:, None, None]), triplets)


def grader_map(entry: SubmittedImage, ids: Int) -> Int:
    """[H, W] the grader's number of each pixel, plus 1: common.metrics takes 0 for void, the grader does not."""
    numbers = np.zeros_like(ids)
    seen: dict[int, int] = {}
    for segment in entry.segments_info:
        label = segment.category_id - 1
        numbers[ids == segment.id] = label + NUMBERED * seen.get(label, 0)
        seen[label] = seen.get(label, 0) + 1
    return numbers + 1
