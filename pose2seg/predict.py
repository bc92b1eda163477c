"""Segment people: python predict.py --weights FILE --keypoints FILE.json IMAGES... --out DIR.

With --detector FILE torchvision's Keypoint R-CNN finds the joints, in videos too.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from torch import nn

import pose2seg
from common import commands
from common.errors import UserError
from common.images import is_video, list_images, read_image
from common.precision import autocast, fastest
from common.prediction import Output, Predict, categories, other_files, predict_video, skip, unique_names
from common.report import Entry
from common.results import Instances
from common.runlog import Bar
from pose2seg.alignment import NEEDED_JOINTS
from pose2seg.backbone import fold_batch_norms
from pose2seg.joints import Detector, Found, Picture, read_for_files
from pose2seg.network import Pose2Seg


@dataclass
class PredictPeople(Predict):
    """Segment the people whose joints are known."""

    keypoints: str = ""
    """COCO keypoint annotations (found by file name) or results (by the number in it) of these photographs."""
    detector: str = ""
    """Weights of torchvision's keypointrcnn_resnet50_fpn, which then finds people and joints."""
    smallest_confidence: float = 0.0
    """A joint of keypoint results counts as seen if its confidence is larger."""
    smallest_score: float = 0.7
    """A person that the detector finds counts if it scores at least this."""
    smallest_joint_score: float = 2.0
    """A joint of such a person counts as seen if its score, a logit, is larger."""


@dataclass
class LeftOut:
    """People with too few joints to be brought upright; each is named on the terminal and in the report."""

    entries: list[Entry] = field(default_factory=list)

    def without(self, found: Found, name: str) -> Found:
        """The people with joints enough."""
        counts = (found.joints[..., 2] > 0).sum(axis=1)
        for person, count in enumerate(counts.tolist(), start=1):
            if count < NEEDED_JOINTS:
                reason = f"{count} visible keypoints, {NEEDED_JOINTS} are needed"
                print(f"left out: {name}: person {person}: {reason}", file=sys.stderr)
                self.entries.append(Entry(f"{name}, person {person}", skipped=reason))
        enough = counts >= NEEDED_JOINTS
        return Found(found.joints[enough], None if found.scores is None else found.scores[enough])


Finder = Callable[[Path, Picture], Found]  # a file and its picture -> its people


class Frames(nn.Module):
    """A model that is asked for a video's frames alone, and finds the joints itself."""

    def __init__(self, model: Pose2Seg, video: Path, find: Finder, left_out: LeftOut):
        super().__init__()
        self.model, self.video, self.find, self.left_out, self.number = model, video, find, left_out, 0

    def predict(self, images: Sequence[Picture]) -> list[Instances]:
        self.number += 1
        name = f"{self.video}, frame {self.number}"
        return [
            segment(self.model, image, self.left_out.without(self.find(self.video, image), name)) for image in images
        ]


def main() -> None:
    options = tyro.cli(PredictPeople, prog="predict.py")
    if bool(options.keypoints) == bool(options.detector):
        raise UserError("people are segmented from their joints: expected either --keypoints or --detector")
    model = pose2seg.load(options.weights)
    fold_batch_norms(model)
    device = commands.choose_device(options.device)
    predict(model.to(device).to(memory_format=torch.channels_last), options, finder(options, device))


def finder(options: PredictPeople, device: torch.device) -> Finder:
    if options.detector:
        scores = options.smallest_score, options.smallest_joint_score
        detector = Detector(Path(options.detector), device, *scores)
        return lambda path, image: detector([image])[0]
    known = read_for_files(Path(options.keypoints), options.smallest_confidence)
    return lambda path, image: known(path)


def predict(model: Pose2Seg, options: PredictPeople, find: Finder) -> None:
    """Photographs, then videos; what can't be read is named in a line and skipped."""
    device = model.templates.device
    precision = fastest(device) if options.precision == "auto" else options.precision
    found = list_images(options.images)
    videos = [path for path in found if is_video(path)]
    stills = [path for path in found if not is_video(path)][: options.limit or None]
    output, left_out = Output(Path(options.out), model.category_ids, options.threshold, lambda _: ()), LeftOut()
    output.entries += [skip(path, "not an image or a video") for path in other_files(options.images, found)]
    with autocast(device, precision):
        predict_stills(model, stills, int(options.max_megapixels * 1e6), find, output, left_out)
    if output.images and not output.annotations and not left_out.entries and options.keypoints:
        raise UserError(f"{options.keypoints}: it has nobody in these photographs; are its files called as they are?")
    for path in videos:
        if options.detector:
            predict_video(Frames(model, path, find, left_out), path, output.folder, options, precision)
        else:
            output.entries.append(skip(path, "the joints in a video have to be found: name a --detector"))
    skipped = sum(bool(entry.skipped) for entry in output.entries)
    output.entries += left_out.entries
    if stills:
        report = output.finish(categories(model.class_names, model.category_ids, None))
        people = f"{len(output.annotations)} people, {len(left_out.entries)} left out"
        print(f"{len(output.images)} photographs done ({people}), {skipped} files skipped; {report.resolve()}")
    if stills and not output.images:
        raise UserError("none of the photographs could be read")


def predict_stills(
    model: Pose2Seg, stills: Sequence[Path], max_pixels: int, find: Finder, output: Output, left_out: LeftOut
) -> None:
    with Bar("predicting", len(stills)) as bar:
        for path, name in zip(stills, unique_names(stills), strict=True):
            try:
                image = read_image(path, max_pixels)
            except UserError as error:
                output.entries.append(skip(path, str(error)))
            else:
                people = left_out.without(find(path, image), str(path))
                output.write(path, name, image, segment(model, image, people))
            bar.advance()


def segment(model: Pose2Seg, image: Picture, people: Found) -> Instances:
    scores = None if people.scores is None else torch.from_numpy(people.scores)
    return model.predict([image], [people.joints], [scores])[0]


if __name__ == "__main__":
    commands.run(main)
