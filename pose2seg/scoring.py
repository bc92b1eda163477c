"""COCO's mAP of people's masks, over all and by how much they overlap; as the paper reports it.

- With true joints every score is 1, so a person's rank among an image's masks is the annotation's.
- The published figures are of files in which everybody has joints. Where someone has none, he counts as missed.
"""

import logging
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from common.data.coco import CocoDataset
from common.metrics import CocoDetails, coco_details
from common.ops import masks as rle
from common.results import Instances
from common.run.distributed import gather, is_main
from common.run.evaluation import Detection, Evaluation, Finder, detect
from maskworks.commands import Scoring
from maskworks.report.examples import examples_of
from pose2seg.alignment import NEEDED_JOINTS
from pose2seg.joints import JointSource, Picture, annotated
from pose2seg.network import Pose2Seg
from pose2seg.people import files, people_who_count, true_joints

log = logging.getLogger(__name__)
Json = dict[str, Any]


def people_scoring(occlusion: Sequence[float], source: JointSource | None = None) -> Scoring:
    """How models of this package are scored: the joints come from `source`, without one from the annotations."""
    return Scoring(
        evaluate=partial(evaluate_people, occlusion=occlusion, source=source),
        examples=lambda model, dataset, numbers: examples_of(from_joints(model, dataset, source), dataset, numbers),
    )


def from_joints(model: Pose2Seg, dataset: CocoDataset, source: JointSource | None) -> Finder:
    """The people in photographs of a data set, from the joints that a source gives; without one, from the true ones."""
    find = source or annotated(dataset)

    def answer(numbers: Sequence[int], images: Sequence[Picture]) -> list[Instances]:
        found = find(numbers, images)
        scores = [None if each.scores is None else torch.from_numpy(each.scores) for each in found]
        return model.predict(images, [each.joints for each in found], scores)

    return answer


def evaluate_people(
    model: Pose2Seg,
    dataset: CocoDataset,
    batch_size: int,
    workers: int,
    occlusion: Sequence[float],
    source: JointSource | None = None,
) -> Evaluation:
    """Scores under "segm", and under "segm 0.50-0.75" for each range of overlaps that has people."""
    remark_on(dataset, source is None)
    detections = gather(detect(from_joints(model, dataset, source), dataset, batch_size, workers))
    annotations = dataset.annotations_json()
    details = {"segm": coco_details(annotations, detections, "segm")}
    overlaps = largest_overlaps(dataset)
    for low, high in pairwise(occlusion):
        inside = (overlaps >= low) & (overlaps < high)
        if (inside & ~dataset.crowd).any():
            details[f"segm {low:.2f}-{high:.2f}"] = in_range(dataset, annotations, detections, inside, source is None)
    return Evaluation(details, detections)


def in_range(
    dataset: CocoDataset, annotations: Json, detections: list[Detection], inside: NDArray[np.bool_], true: bool
) -> CocoDetails:
    """The scores for some of the annotated people.

    With true joints the others were as good as not there, as in OCHuman's files for each range. Found joints belong to
    nobody, so there the others are made crowds: a mask on them is neither right nor wrong.
    """
    entries: list[Json] = annotations["annotations"]  # in the data set's order
    if true:
        kept = [entry for entry, wanted in zip(entries, inside, strict=True) if wanted]
        asked = people_who_count(dataset)
        detections = [each for each, wanted in zip(by_image(dataset, detections), inside[asked], strict=True) if wanted]
    else:
        kept = [entry if wanted else entry | {"iscrowd": 1} for entry, wanted in zip(entries, inside, strict=True)]
    return coco_details(annotations | {"annotations": kept}, detections, "segm")


def by_image(dataset: CocoDataset, detections: list[Detection]) -> list[Detection]:
    """Detections in the order of the data set's images; each image's own stay in theirs."""
    place = {image: at for at, image in enumerate(dataset.image_ids.tolist())}
    return sorted(detections, key=lambda each: place[each["image_id"]])


class Overlap(msgspec.Struct):
    """What scripts/prepare_ochuman.py keeps of OCHuman's own annotations."""

    id: int
    max_iou: float = -1.0


class Overlaps(msgspec.Struct):
    annotations: list[Overlap]


def largest_overlaps(dataset: CocoDataset) -> NDArray[np.float64]:
    """For each annotation the largest IoU of its box with another's in the image: the file's own, or computed."""
    overlaps = np.zeros(len(dataset.boxes))
    for first, end in pairwise(dataset.offsets.tolist()):
        whole = first + np.flatnonzero(~dataset.crowd[first:end])
        if len(whole) > 1:
            boxes = dataset.boxes[whole]
            corners = torch.from_numpy(np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1))
            overlaps[whole] = box_iou(corners, corners).fill_diagonal_(0).amax(dim=1).numpy()
    if len(dataset.annotation_files) > 1:  # several files' ids may be the same
        return overlaps
    entries = msgspec.json.decode(dataset.annotation_files[0].read_bytes(), type=Overlaps).annotations
    stated = {entry.id: entry.max_iou for entry in entries if entry.max_iou >= 0}
    ids = dataset.source_ids.tolist()
    return np.array([stated.get(each, computed) for each, computed in zip(ids, overlaps.tolist(), strict=True)])


def remark_on(dataset: CocoDataset, true: bool) -> None:
    """Say what makes a score differ from the published ones."""
    if not is_main() or not true:
        return
    missing = int((~people_who_count(dataset) & ~dataset.crowd).sum())
    if missing:
        log.warning("%s: %d people have no labelled joint and count as missed", files(dataset), missing)
    joints = [true_joints(dataset, number) for number in range(len(dataset))]
    few = sum(int(((each[..., 2] > 0).sum(axis=1) < NEEDED_JOINTS).sum()) for each in joints)
    if few:
        log.warning(
            "%s: %d people have fewer than %d labelled joints; their window is the whole image",
            files(dataset), few, NEEDED_JOINTS,
        )  # fmt: skip


def write_maps(folder: Path, dataset: CocoDataset, detections: list[Detection]) -> None:
    """A 16-bit PNG for each image: at each pixel 0, or the number (from 1) of the first person whose mask has it."""
    folder.mkdir(parents=True, exist_ok=True)
    own: dict[int, list[Detection]] = {image: [] for image in dataset.image_ids.tolist()}
    for detection in detections:
        own[detection["image_id"]].append(detection)
    for number, (image, size) in enumerate(zip(own, dataset.sizes.tolist(), strict=True)):
        people = np.zeros(size, np.uint16)
        masks = rle.decode([each["segmentation"] for each in own[image]])
        for at in reversed(range(len(masks))):
            people[masks[at]] = at + 1
        cv2.imwrite(str(folder / f"{dataset.path(number).stem}.png"), people)
