"""Scores of people: perfect masks, ranges of overlap, found joints; against pycocotools where it can say it."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from common.data.coco import CocoDataset
from maskworks import shapes
from pose2seg.joints import Found
from pose2seg.people import people_who_count, true_joints
from pose2seg.postprocess import instances_of_people
from pose2seg.scoring import evaluate_people, largest_overlaps, write_maps

RANGES = (0.0, 0.5, 0.75, 1.0)


class Knowing(nn.Module):
    """Answers each photograph's true masks, the joints given or not, moved by some pixels."""

    def __init__(self, dataset: CocoDataset, shift: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.shift, self.turn = shift, 0
        counts = people_who_count(dataset)
        self.masks = [
            dataset.masks(n)[counts[dataset.offsets[n] : dataset.offsets[n + 1]]] for n in range(len(dataset))
        ]

    def predict(self, images, joints, scores):
        results = []
        for people, given in zip(joints, scores, strict=True):
            masks = torch.from_numpy(self.masks[self.turn]).roll(self.shift, dims=2)
            self.turn += 1
            ranks = torch.ones(len(masks)) if given is None else given
            results.append(instances_of_people(masks, torch.as_tensor(people), ranks, ("person",)))
        return results


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> CocoDataset:
    made = shapes.ensure("val", seed=0, count=60, cache=tmp_path_factory.mktemp("data"))
    return CocoDataset([made.images], [made.keypoints])


def evaluate(people: CocoDataset, shift: int, **changes):
    return evaluate_people(Knowing(people, shift), people, 4, 0, RANGES, **changes)


def test_true_masks_score_one_in_every_range(people):
    metrics = evaluate(people, 0).metrics
    assert metrics["segm"]["AP"] == pytest.approx(1)
    assert {"segm", "segm 0.00-0.50"} <= metrics.keys()
    assert all(scores["AP"] == pytest.approx(1) for scores in metrics.values())


def by_pycocotools(annotations: dict, detections: list[dict]) -> np.ndarray:
    with redirect_stdout(StringIO()):
        truth = COCO()
        truth.dataset = annotations
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(detections), "segm")
        scored.params.catIds = [1]
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return scored.stats


def test_a_ranges_scores_are_those_of_a_file_with_only_its_people(people):
    evaluation = evaluate(people, 2)
    overlaps = largest_overlaps(people)
    counts = people_who_count(people)
    content, detections = people.annotations_json(), evaluation.detections
    assert len(detections) == counts.sum()
    ranges = [name for name in evaluation.metrics if name != "segm"]
    assert len(ranges) > 1
    for name in ranges:
        low, high = map(float, name.removeprefix("segm ").split("-"))
        inside = (overlaps >= low) & (overlaps < high)
        kept = [entry for entry, wanted in zip(content["annotations"], inside, strict=True) if wanted]
        found = [each for each, wanted in zip(detections, inside[counts], strict=True) if wanted]
        expected = by_pycocotools(content | {"annotations": kept}, found)
        scores = evaluation.metrics[name]
        assert 0 < scores["AP"] < 1
        assert [scores["AP"], scores["AP50"], scores["AP75"]] == pytest.approx(expected[:3].tolist())


def test_found_people_outside_of_a_range_are_neither_right_nor_wrong(people):
    def found(numbers, images):
        joints = [true_joints(people, number) for number in numbers]
        return [Found(each, np.linspace(1, 0.5, len(each), dtype=np.float32)) for each in joints]

    metrics = evaluate(people, 0, source=found).metrics
    assert all(scores["AP"] == pytest.approx(1) for scores in metrics.values())


def test_overlaps_are_ious_with_the_nearest_box_unless_the_file_says_more(people, tmp_path):
    overlaps = largest_overlaps(people)
    for number in range(len(people)):
        own = slice(people.offsets[number], people.offsets[number + 1])
        boxes, crowd = people.boxes[own], people.crowd[own]
        for first, (x, y, w, h) in enumerate(boxes):
            best = 0.0
            for second, (u, v, s, t) in enumerate(boxes):
                if first != second and not crowd[first] and not crowd[second]:
                    shared = max(min(x + w, u + s) - max(x, u), 0) * max(min(y + h, v + t) - max(y, v), 0)
                    best = max(best, shared / (w * h + s * t - shared))
            assert overlaps[own][first] == pytest.approx(best)
    content = json.loads(people.annotation_files[0].read_text())
    content["annotations"][0]["max_iou"] = 0.625
    (tmp_path / "stated.json").write_text(json.dumps(content))
    stated = largest_overlaps(CocoDataset(people.folders, [tmp_path / "stated.json"]))
    first = content["annotations"][0]["id"]
    place = people.source_ids.tolist().index(first)
    assert stated[place] == 0.625
    assert np.delete(stated, place).tolist() == np.delete(overlaps, place).tolist()


def test_people_without_joints_count_as_missed_and_are_spoken_of(people, tmp_path, caplog):
    content = json.loads(people.annotation_files[0].read_text())
    alone = next(entry for entry in content["annotations"] if not entry["iscrowd"])
    alone |= {"keypoints": [0] * 51, "num_keypoints": 0}
    (tmp_path / "one_less.json").write_text(json.dumps(content))
    fewer = CocoDataset(people.folders, [tmp_path / "one_less.json"])
    metrics = evaluate(fewer, 0).metrics
    assert metrics["segm"]["AP"] < 1
    assert "1 people have no labelled joint" in caplog.text


def test_maps_hold_each_person_once_and_the_first_on_top(people, tmp_path):
    evaluation = evaluate(people, 0)
    write_maps(tmp_path / "maps", people, evaluation.detections)
    number = int(np.argmax(np.diff(people.offsets)))
    drawn = cv2.imread(str(tmp_path / "maps" / f"{people.path(number).stem}.png"), cv2.IMREAD_UNCHANGED)
    masks = Knowing(people, 0).masks[number]
    assert drawn.dtype == np.uint16
    assert (drawn[masks[0]] == 1).all()
    assert set(np.unique(drawn).tolist()) == set(range(len(masks) + 1))
    assert len(list(Path(tmp_path / "maps").iterdir())) == len(people)
