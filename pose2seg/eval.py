"""Score Pose2Seg: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags].

--coco --OCHuman    the paper's data sets in one run: COCOPersons val; OCHuman val and test (datasets/README.md),
                    under datasets/, or where --data.coco.images and .annotations, --data.ochuman-val... say
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

import pose2seg
from common.data.coco import CocoDataset
from common.errors import UserError
from common.files import here_or_above, write_text
from common.run.distributed import is_main
from common.run.evaluation import Evaluation
from common.run.settings import Images
from common.run.training import Metrics
from maskworks import commands, own_data
from maskworks.command_line import program
from pose2seg.config import VARIANTS, Config, PeopleData
from pose2seg.joints import Detector, JointSource, from_results
from pose2seg.people import open_people
from pose2seg.scoring import people_scoring, write_maps


def main() -> None:
    model, config = commands.model_to_evaluate("pose2seg", VARIANTS, pose2seg.load)
    config.data = own_data.located(config.data, sys.argv[1:], "keypoints")
    asked = [name for name in ("coco", "OCHuman") if getattr(config, name)]
    sets = {name: images for each in asked for name, images in named(config.data, each).items()} or {
        "": config.data.val
    }
    if config.data.keypoints and len(config.data.keypoints) != len(sets):
        listed = ", ".join(filter(None, sets)) or "the data set"
        raise UserError(f"--data.keypoints names {len(config.data.keypoints)} files, expected one for each of {listed}")
    folder = commands.evaluation_folder("pose2seg", config, "-".join(asked))
    if config.test.maps:
        commands.keep_existing(Path(config.test.maps), config.training)
    metrics: Metrics = {}
    classes: dict[str, Mapping[str, float]] = {}
    for number, (name, images) in enumerate(sets.items()):
        dataset = open_people(replace(config.data, val=images), "val", config.training)
        commands.refuse_other_classes(dataset, model.class_names)
        source = source_of_joints(config, dataset, number, model.templates.device)
        scoring = people_scoring(config.test.occlusion, source)
        evaluation = commands.score(model, dataset, config.training, scoring)
        metrics |= {name: evaluation.metrics} if name else evaluation.metrics
        classes |= {f"{name} {kind}".strip(): values for kind, values in evaluation.per_class.items()}
        if is_main() and isinstance(evaluation, Evaluation):
            write_found(folder, config, dataset, evaluation, name)
    if is_main():
        print(f"written: {commands.write_scores(folder, metrics, classes)}")


def named(data: PeopleData, asked: str) -> dict[str, Images]:
    """The data sets that --coco and --OCHuman stand for."""
    ochuman = {"OCHuman val": data.ochuman_val, "OCHuman test": data.ochuman_test}
    found = {"coco": {"COCOPersons val": data.coco}, "OCHuman": ochuman}[asked]
    flags = {"COCOPersons val": "coco", "OCHuman val": "ochuman-val", "OCHuman test": "ochuman-test"}
    for name, images in found.items():
        for kind, paths in (("images", images.images), ("annotations", images.annotations)):
            missing = next((path for path in here_or_above(paths) if not Path(path).exists()), None)
            if missing or not paths:
                raise UserError(
                    f"--{asked}: {missing or 'nothing'} is not there; expected {name}'s {kind}, which "
                    f"--data.{flags[name]}.{kind} names (datasets/README.md: where they are to be had)"
                )
    return found


def source_of_joints(config: Config, dataset: CocoDataset, number: int, device: torch.device) -> JointSource | None:
    """Where the joints of a data set come from; None: from its annotations."""
    data, test = config.data, config.test
    if data.keypoints and data.detector:
        raise UserError("--data.keypoints and --data.detector: the joints can only come from one of them")
    if data.keypoints:
        return from_results(dataset, Path(data.keypoints[number]), test.smallest_confidence)
    if data.detector:
        detector = Detector(Path(data.detector), device, test.smallest_score, test.smallest_joint_score)
        return lambda numbers, images: detector(images)
    return None


def write_found(folder: Path, config: Config, dataset: CocoDataset, evaluation: Evaluation, name: str) -> None:
    """The people in COCO's results format, and as maps if asked for."""
    ending = f"-{name.replace(' ', '-')}" if name else ""
    path = folder / f"predictions{ending}.json"
    write_text(path, json.dumps(evaluation.detections))
    print(f"written: {path}")
    if config.test.maps:
        maps = Path(config.test.maps) / name
        write_maps(maps, dataset, evaluation.detections)
        print(f"written: {maps}")


if __name__ == "__main__":
    program.run(main)
