"""Segment people: python predict.py --weights FILE --keypoints FILE.json IMAGES... --out DIR.

With --detector FILE torchvision's Keypoint R-CNN finds the joints, in videos too.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import pose2seg
from common.data.images import is_video
from common.errors import UserError
from common.ops.precision import autocast
from common.results import Instances
from common.run.ranges import NotNegative, Share
from maskworks import command_line, report
from maskworks.command_line import program
from maskworks.prediction.command import Notes, Predict, predict_all
from maskworks.prediction.files import categories
from maskworks.prediction.number_format import fastest
from maskworks.published.names import local_file
from pose2seg.alignment import NEEDED_JOINTS
from pose2seg.joints import Detector, Found, Picture, read_for_files
from pose2seg.network import Pose2Seg


@dataclass
class PredictPeople(Predict):
    """Segment the people whose joints are known."""

    keypoints: str = ""
    """COCO keypoint annotations (found by file name) or results (by the number in it) of these photographs."""
    detector: str = ""
    """Weights of torchvision's keypointrcnn_resnet50_fpn, which then finds people and joints."""
    smallest_confidence: NotNegative = 0.0
    """A joint of keypoint results counts as seen if its confidence is larger."""
    smallest_score: Share = 0.7
    """A person that the detector finds counts if it scores at least this."""
    smallest_joint_score: float = 2.0
    """A joint of such a person counts as seen if its score, a logit, is larger."""


FindPeople = Callable[[Path, Picture], Found]  # a file and its picture -> its people


def enough_joints(found: Found, name: str) -> tuple[Found, Notes]:
    """The people who can be brought upright; each other one is named on the terminal and in the report."""
    counts = (found.joints[..., 2] > 0).sum(axis=1)
    notes = []
    for person, count in enumerate(counts.tolist(), start=1):
        if count < NEEDED_JOINTS:
            reason = f"{count} visible keypoints, {NEEDED_JOINTS} are needed"
            print(f"left out: {name}: person {person}: {reason}", file=sys.stderr)
            notes.append((f"{name}, person {person}", reason))
    enough = counts >= NEEDED_JOINTS
    return Found(found.joints[enough], None if found.scores is None else found.scores[enough]), notes


def main() -> None:
    options = command_line.read(PredictPeople, "predict.py")
    if bool(options.keypoints) == bool(options.detector):
        raise UserError("people are segmented from their joints: expected either --keypoints or --detector")
    refuse_unused_options(options)
    options.weights = str(local_file(options.weights))
    model = pose2seg.load(options.weights, device=options.device)
    report.of_predictions(predict(model, options, finder(options, model.templates.device)))


def refuse_unused_options(options: PredictPeople) -> None:
    """Stop at thresholds that belong to the other way to the joints."""
    names = ("smallest_confidence",) if options.detector else ("smallest_score", "smallest_joint_score")
    needed = "keypoints" if options.detector else "detector"
    for name in names:
        if getattr(options, name) != getattr(PredictPeople, name):
            raise UserError(f"--{name.replace('_', '-')}: it belongs to --{needed}, which isn't named")


def finder(options: PredictPeople, device: torch.device) -> FindPeople:
    if options.detector:
        scores = options.smallest_score, options.smallest_joint_score
        detector = Detector(Path(options.detector), device, *scores)
        return lambda path, image: detector([image])[0]
    known = read_for_files(Path(options.keypoints), options.smallest_confidence)

    def find(path: Path, image: Picture) -> Found:
        if is_video(path):
            raise UserError(f"{path}: the joints in a video have to be found: name a --detector")
        return known(path)

    return find


def predict(model: Pose2Seg, options: PredictPeople, find: FindPeople) -> Path | None:
    """Photographs, then videos; what can't be read is named in a line and skipped."""
    device = model.templates.device
    precision = fastest(device) if options.precision == "auto" else options.precision

    def answer(path: Path, image: Picture, name: str) -> tuple[Instances, Notes]:
        people, notes = enough_joints(find(path, image), name)
        scores = None if people.scores is None else torch.from_numpy(people.scores)
        with autocast(device, precision):
            return model.predict([image], [people.joints], [scores])[0], notes

    done = predict_all(options, categories(model.class_names, model.category_ids, None), answer)
    if done and done.photographs and not (done.annotations or done.notes) and options.keypoints:
        raise UserError(f"{options.keypoints}: it has nobody in these photographs; are its files called as they are?")
    if not done or not done.photographs:
        return None
    people = f"{done.annotations} people, {done.notes} left out"
    print(f"{done.photographs} photographs done ({people}), {done.skipped} files skipped")
    return Path(options.out)


if __name__ == "__main__":
    program.run(main)
