"""People with joints and masks: COCOPersons, OCHuman, or any file of COCO person keypoints.

A person counts if at least one joint is labelled and it is no crowd; the others are left out of training, and of
evaluation's input, but evaluation's ground truth keeps them.
"""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.data.coco import CocoDataset, Sample
from common.errors import UserError
from common.run.settings import Training
from maskworks import commands, shapes
from pose2seg.config import PeopleData
from pose2seg.templates import JOINT_NAMES


class People(Dataset[Sample]):
    """The images of a keypoint data set that have people who count, and only these people."""

    def __init__(self, dataset: CocoDataset):
        self.dataset = dataset
        counts = people_who_count(dataset)
        self.chosen = [np.flatnonzero(counts[first:end]) for first, end in pairwise(dataset.offsets.tolist())]
        self.numbers = np.flatnonzero([len(people) > 0 for people in self.chosen])  # of the images, in the data set
        if not len(self.numbers):
            raise UserError(
                f"{files(dataset)}: nobody in it has a labelled joint; nothing to learn from, check the file"
            )
        self.annotation_files, self.class_names = dataset.annotation_files, dataset.class_names
        self.category_ids = dataset.category_ids
        self.image_ids, self.sizes = dataset.image_ids[self.numbers], dataset.sizes[self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        number = int(self.numbers[index])
        sample, people = self.dataset[number], self.chosen[number]
        assert sample.keypoints is not None
        return replace(
            sample,
            boxes=sample.boxes[people],
            labels=sample.labels[people],
            masks=sample.masks[people],
            crowd=sample.crowd[people],
            keypoints=in_whole_pixels(sample.keypoints[people]),
        )

    def path(self, index: int) -> Path:
        return self.dataset.path(int(self.numbers[index]))

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        outlines = self.dataset.polygons(int(self.numbers[index]))
        return [outlines[person] for person in self.chosen[int(self.numbers[index])]]


def people_who_count(dataset: CocoDataset) -> NDArray[np.bool_]:
    """Of all annotations [A], those with a joint that are no crowd; refuses data of other joints."""
    if dataset.keypoints is None:
        raise UserError(f"{files(dataset)}: no keypoints in it; expected a file of COCO person keypoints")
    if dataset.keypoints.shape[1] != len(JOINT_NAMES):
        raise UserError(
            f"{files(dataset)}: people have {dataset.keypoints.shape[1]} keypoints, expected {len(JOINT_NAMES)} as in "
            "COCO; other skeletons need other pose templates (pose2seg/templates.py)"
        )
    return (dataset.keypoints[:, :, 2] > 0).any(axis=1) & ~dataset.crowd


def true_joints(dataset: CocoDataset, number: int) -> NDArray[np.float32]:
    """The joints [n, 17, 3] of an image's people who count, in the file's order, without reading the image."""
    own = slice(dataset.offsets[number], dataset.offsets[number + 1])
    assert dataset.keypoints is not None
    joints = dataset.keypoints[own]
    counts = (joints[:, :, 2] > 0).any(axis=1) & ~dataset.crowd[own]
    return in_whole_pixels(joints[counts])


def in_whole_pixels(joints: NDArray[np.floating]) -> NDArray[np.float32]:
    """Annotated joints without their fractions, as the original reads them."""
    whole: NDArray[np.float32] = np.trunc(joints).astype(np.float32)
    return whole


def open_people(data: PeopleData, split: shapes.Split, settings: Training) -> CocoDataset:
    """The keypoint data set that the configuration names; without annotations, the built-in one's people."""
    return commands.open_dataset(shapes.fill_in(data, split, annotations="keypoints"), split, settings)


def files(dataset: CocoDataset) -> str:
    return ", ".join(map(str, dataset.annotation_files))
