"""Where the joints of an image's people come from: its annotations, a file of COCO keypoint results, a detector."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from common.data.annotation_files import read_as
from common.data.coco import CocoDataset
from common.errors import UserError
from common.files import read_bytes
from common.run.checkpoint import load_weights
from maskworks.published.formats import read_published
from maskworks.published.names import local_file
from pose2seg.people import true_joints
from pose2seg.templates import JOINT_NAMES

EXPECTED = "COCO keypoint results or annotations"
SEEN = 2.0  # COCO's visibility of a joint that is labelled and not hidden


class Found(NamedTuple):
    """The people of one image."""

    joints: NDArray[np.float32]  # [n, 17, 3] x, y, visibility
    scores: NDArray[np.float32] | None  # [n], or None where they are annotated


Picture = NDArray[np.uint8]
JointSource = Callable[[Sequence[int], Sequence[Picture]], list[Found]]  # numbers in the data set, photographs


def annotated(dataset: CocoDataset) -> JointSource:
    """The true joints."""
    return lambda numbers, images: [Found(true_joints(dataset, number), None) for number in numbers]


def from_results(dataset: CocoDataset, file: Path, smallest_confidence: float) -> JointSource:
    """What a pose estimator found, by image id."""
    people = read_results(file, smallest_confidence)
    if not people.keys() & set(dataset.image_ids.tolist()):
        raise UserError(f"{file}: none of its image ids is in {dataset.annotation_files[0]}; is it of these images?")
    return lambda numbers, images: [people.get(int(dataset.image_ids[number]), nobody()) for number in numbers]


class Person(msgspec.Struct):
    """One entry of COCO's keypoint results, or a person in COCO's annotations."""

    image_id: int
    keypoints: list[float] = []
    score: float | None = None


class Image(msgspec.Struct):
    id: int
    file_name: str


class Annotations(msgspec.Struct):
    images: list[Image]
    annotations: list[Person]


def read_results(file: Path, smallest_confidence: float) -> Mapping[int, Found]:
    """Image id -> people, from a list of COCO keypoint results.

    The third number of a joint is the estimator's confidence in it there: it says whether the joint was found, and
    nothing about whether it is hidden.
    """
    return by_image(read_as(file, list[Person], EXPECTED), file, smallest_confidence)


def read_for_files(file: Path, smallest_confidence: float) -> Callable[[Path], Found]:
    """Photograph -> people, from COCO annotations or results.

    Annotations name each image's file. Results only have its id, which is the number in the file's name, as in COCO.
    """
    if file.is_file() and read_bytes(file)[:1] == b"[":
        by_number = read_results(file, smallest_confidence)
        return lambda path: by_number.get(int("".join(filter(str.isdigit, path.stem)) or -1), nobody())
    content = read_as(file, Annotations, EXPECTED)
    estimated = any(person.score is not None for person in content.annotations)
    people = by_image(content.annotations, file, smallest_confidence if estimated else None)
    by_name = {Path(image.file_name).name: people.get(image.id, nobody()) for image in content.images}
    return lambda path: by_name.get(path.name, nobody())


def by_image(entries: Sequence[Person], file: Path, smallest_confidence: float | None) -> Mapping[int, Found]:
    """Entries with joints, gathered; without a smallest confidence the joints' third numbers are visibilities."""
    length = 3 * len(JOINT_NAMES)
    people: dict[int, list[Person]] = defaultdict(list)
    for number, entry in enumerate(entries):
        if len(entry.keypoints) not in (0, length):
            raise UserError(f"{file}: entry {number} has {len(entry.keypoints)} keypoint numbers, expected {length}")
        if entry.keypoints:
            people[entry.image_id].append(entry)
    return {image: _found(own, smallest_confidence) for image, own in people.items()}


def _found(entries: Sequence[Person], smallest_confidence: float | None) -> Found:
    joints = np.array([entry.keypoints for entry in entries], np.float32).reshape(len(entries), -1, 3)
    if smallest_confidence is not None:
        joints[..., 2] = np.where(joints[..., 2] > smallest_confidence, SEEN, 0)
    scores = [1.0 if entry.score is None else entry.score for entry in entries]
    return Found(joints, np.array(scores, np.float32))


def nobody() -> Found:
    return Found(np.zeros((0, len(JOINT_NAMES), 3), np.float32), np.zeros(0, np.float32))


class Detector:
    """torchvision's Keypoint R-CNN (ResNet-50 FPN), from its weights file."""

    def __init__(self, file: Path, device: torch.device, smallest_score: float, smallest_joint_score: float):
        self.model = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_keypoints=len(JOINT_NAMES))
        load_weights(self.model, read_published(local_file(file))[0], str(file))
        self.model = self.model.to(device).eval()
        self.device = device
        self.smallest_score, self.smallest_joint_score = smallest_score, smallest_joint_score

    @torch.inference_mode()
    def __call__(self, images: Sequence[Picture]) -> list[Found]:
        inputs = [torch.from_numpy(image).to(self.device).permute(2, 0, 1) / 255 for image in images]
        return [self._found(answer) for answer in self.model(inputs)]

    def _found(self, answer: Mapping[str, Tensor]) -> Found:
        """The people who score enough; a joint counts as seen if its own score, a logit, is high enough."""
        kept = answer["scores"] >= self.smallest_score
        joints, joint_scores = answer["keypoints"][kept].clone(), answer["keypoints_scores"][kept]
        joints[..., 2] = torch.where(joint_scores > self.smallest_joint_score, SEEN, 0.0)
        return Found(joints.cpu().numpy(), answer["scores"][kept].cpu().numpy())
