"""The challenge's scores of a submission, with the ways of its grader.

- It scores the test images that have relations, in the order of its file, and 20 relations of each.
- An image for which no relation was submitted is left out of the recalls instead of counting 0.
- For PQ it numbers segments class - 1 + 1000 * count of the class so far: black pixels are the first person.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.data.images import read_ids
from common.errors import UserError
from common.metrics.panoptic import Pairs, count_pairs, quality_of_pairs
from refinemask_psg.psg.files import PsgEntry, PsgFile, read_psg
from refinemask_psg.psg.metrics import Found, Graph, Recalls, final_score, recall_of, recalls, without_duplicates
from refinemask_psg.psg.submission_check import COUNTED, Opened, SubmittedImage

NUMBERED = 1000
Int = NDArray[np.int64]


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
    scores = graded.triplets.summary() | {"PQ": graded.panoptic["All"]["pq"] or 0.0}
    return scores | {"final": final_score(scores)}


def grade(submission: Opened, psg: PsgFile, images: Path) -> Graded:
    truths = [entry for entry in psg.split()[1] if entry.relations]
    if len(truths) != len(submission.entries):
        raise UserError(
            f"{submission.file}: {len(submission.entries)} entries, but {len(truths)} test images have relations; "
            "a submission has one entry for each, in the order of the file"
        )
    triplets: list[Found] = []
    phrases: list[Found] = []
    pairs: list[Pairs] = []
    listed = []  # the segments_info of COCO's panoptic format; categories are numbered from 0
    for index, (entry, submitted) in enumerate(zip(truths, submission.entries, strict=True)):
        true_ids, ids = read_ids(images / entry.pan_seg_file_name), submission.ids(index)
        if ids.shape != true_ids.shape:
            sizes = f"{ids.shape[1]} x {ids.shape[0]}, not {true_ids.shape[1]} x {true_ids.shape[0]}"
            raise UserError(f"{submission.where(index)}: its PNG is {sizes}")
        true, found = true_graph(entry, true_ids), submitted_graph(submitted, ids)
        if len(found.triplets):
            triplets.append(recall_of(true, found))
            phrases.append(recall_of(true, found, phrases=True))
        numbers = grader_map(submitted, ids)
        pairs.append(count_pairs(true_ids, numbers))
        listed.append([{"id": each, "category_id": (each - 1) % NUMBERED} for each in np.unique(numbers).tolist()])
    things, stuff, count = (len(each) for each in (psg.thing_classes, psg.stuff_classes, psg.predicate_classes))
    categories = [{"id": index, "isthing": int(index < things)} for index in range(things + stuff)]
    expected = [msgspec.to_builtins(entry.segments_info) for entry in truths]
    quality = quality_of_pairs(expected, listed, pairs, categories)
    return Graded([entry.image_id for entry in truths], recalls(triplets, count), recalls(phrases, count), quality)


def true_graph(entry: PsgEntry, ids: Int) -> Graph:
    segments = [(segment.id, segment.category_id) for segment in entry.segments_info]
    return graph_of(segments, without_duplicates(np.array(entry.relations, np.int64).reshape(-1, 3)), ids)


def submitted_graph(entry: SubmittedImage, ids: Int) -> Graph:
    segments = [(segment.id, segment.category_id - 1) for segment in entry.segments_info]
    return graph_of(segments, np.array(entry.relations[:COUNTED], np.int64).reshape(-1, 3) - np.array([0, 0, 1]), ids)


def graph_of(segments: Sequence[tuple[int, int]], triplets: Int, ids: Int) -> Graph:
    """Segments (id, class) of a map [H, W] of ids."""
    listed = np.array(segments, np.int64).reshape(-1, 2)
    return Graph(listed[:, 1], ids == listed[:, :1, None], triplets)


def grader_map(entry: SubmittedImage, ids: Int) -> Int:
    """[H, W] the grader's number of each pixel, plus 1: common.metrics takes 0 for void, the grader does not."""
    numbers = np.zeros_like(ids)
    seen: Counter[int] = Counter()
    for segment in entry.segments_info:
        label = segment.category_id - 1
        numbers[ids == segment.id] = label + NUMBERED * seen[label]
        seen[label] += 1
    return numbers + 1
