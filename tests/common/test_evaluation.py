"""Evaluation: every image once, in the data set's ids, no mask outlives its image, and its tables are to be read."""

import gc
import math
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.data.coco import CocoDataset
from common.errors import UserError
from common.metrics import coco_details
from common.ops import masks as rle
from common.results import Instances
from common.run import evaluation
from common.run.evaluation import detect, evaluate_answers, evaluate_instances, from_pixels, photographs
from common.run.settings import Data
from maskworks import shapes
from maskworks.commands.score_tables import print_classes, print_scores
from maskworks.report.examples import examples, ground_truth
from maskworks.report.mistakes import of_instances


class Oracle(nn.Module):
    """Answers with the ground truth, and remembers which of its masks are still held by somebody."""

    def __init__(self, dataset: CocoDataset):
        super().__init__()
        self.config = SimpleNamespace(data=Data())
        self.truths = {sample.image.tobytes(): ground_truth(sample, dataset.class_names) for sample in dataset}
        self.given: list[weakref.ref] = []
        self.most_alive = 0

    def predict(self, images) -> list[Instances]:
        results = []
        for image in images:
            truth = self.truths[image.tobytes()]
            result = truth.select(torch.arange(len(truth)))
            result.masks = truth.masks.clone()
            self.given.append(weakref.ref(result.masks))
            results.append(result)
        self.most_alive = max(self.most_alive, sum(reference() is not None for reference in self.given))
        return results


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> CocoDataset:
    made = shapes.ensure("val", seed=2, count=24, cache=tmp_path_factory.mktemp("shapes"))
    return CocoDataset([made.images], [made.instances])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kinds", [("segm", "bbox"), ("bbox",)])
def test_a_perfect_model_scores_one_and_makes_no_mistake(dataset, workers, kinds):
    found = evaluate_instances(Oracle(dataset), dataset, 4, workers, kinds)
    assert {kind: scores["AP"] for kind, scores in found.metrics.items()} == pytest.approx(dict.fromkeys(kinds, 1.0))
    assert found.kind == kinds[0]  # masks where there are any
    assert found.per_class.keys() == {f"{kind} AP" for kind in kinds}
    assert max(found.per_class[f"{found.kind} AP"].values()) == pytest.approx(1.0)
    assert found.precision is found.details[found.kind].precision
    mistakes = of_instances(found, dataset, 0.9)
    assert mistakes.confusion.sum() == mistakes.confusion.diagonal().sum() > 0
    assert of_instances(found, dataset, 1.1).confusion[:, :-1].sum() == 0  # nobody is so sure: all are missed


def test_each_process_takes_every_second_photograph(dataset, monkeypatch):
    monkeypatch.setattr(evaluation, "process_count", lambda: 2)
    seen = []
    for process in (0, 1):
        monkeypatch.setattr(evaluation, "process_index", lambda process=process: process)
        own = {found["image_id"] for found in detect(from_pixels(Oracle(dataset)), dataset, 5, 0)}
        assert own
        assert own <= set(dataset.image_ids[process::2].tolist())
        seen.append(own)
    monkeypatch.undo()
    whole = {found["image_id"] for found in detect(from_pixels(Oracle(dataset)), dataset, 5, 0)}
    assert seen[0] | seen[1] == whole
    assert not seen[0] & seen[1]


def test_examples_show_truth_beside_prediction(dataset):
    shown = examples(Oracle(dataset), dataset, [3, 1])
    assert [example.name for example in shown] == [dataset[number].path.name for number in (3, 1)]
    for example in shown:
        assert torch.equal(example.truth.boxes, example.prediction.boxes)
        assert example.truth.size == example.image.shape[:2]


def test_a_photograph_that_cannot_be_read_is_named(dataset, monkeypatch):
    monkeypatch.setattr(dataset, "path", lambda number: dataset.folders[0] / "gone.jpg")
    with pytest.raises(UserError, match=r"gone\.jpg"):
        list(photographs(dataset, 1, 0))


def test_only_rle_is_kept_of_the_masks(dataset):
    model = Oracle(dataset)
    detections = detect(from_pixels(model), dataset, 2, 0)
    gc.collect()
    assert len(model.given) == len(dataset)
    assert model.most_alive <= 4  # a batch, and the one before it
    assert not any(reference() is not None for reference in model.given)
    assert all(isinstance(found["segmentation"]["counts"], str) for found in detections)
    assert {found["image_id"] for found in detections} <= set(dataset.image_ids.tolist())


def test_ground_truth_leaves_crowds_out(dataset):
    crowded = next(sample for sample in dataset if sample.crowd.any())
    truth = ground_truth(crowded, dataset.class_names)
    assert len(truth) == (~crowded.crowd).sum() == truth.scores.sum()
    assert rle.area(rle.encode(truth.masks)).tolist() == crowded.masks[~crowded.crowd].sum((1, 2)).tolist()


def test_masks_are_ranked_by_their_own_scores_and_boxes_by_theirs(dataset):
    model = Oracle(dataset)

    def with_doubles(numbers, images):
        """Every object twice: once with a wrong mask but the better box score, which its mask score takes back."""
        results = []
        for right in model.predict(images):
            twice = right.select(torch.arange(len(right)).repeat(2))
            twice.masks[len(right) :] = False
            twice.scores = torch.cat((torch.full((len(right),), 0.5), torch.full((len(right),), 0.9)))
            twice.mask_scores = torch.cat((torch.full((len(right),), 0.9), torch.full((len(right),), 0.1)))
            results.append(twice)
        return results

    scored = evaluate_answers(with_doubles, dataset, 4, 0, ("segm", "bbox"))
    assert scored.metrics["segm"]["AP"] == pytest.approx(1.0)
    assert scored.metrics["bbox"]["AP"] == pytest.approx(1.0)
    assert {"mask_score", "score"} <= scored.detections[0].keys()
    without = [{k: v for k, v in found.items() if k != "mask_score"} for found in scored.detections]
    assert coco_details(dataset.annotations_json(), without, "segm").summary["AP"] < 0.6


# --- tables on the terminal


def rows(said: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]


def test_each_class_has_its_scores_of_masks_and_boxes_the_worst_last(capsys: pytest.CaptureFixture[str]) -> None:
    masks = {"cat": 0.25, "dog": 0.75, "[red] bird": 0.0, "gnu": math.nan}
    print_classes({"segm AP": masks, "bbox AP": {"cat": 0.5, "dog": 0.125, "[red] bird": 0.5, "gnu": math.nan}})
    said = capsys.readouterr().out
    assert said.count("segm AP") == said.count("bbox AP") == 1
    assert rows(said) == [["dog", "0.750", "0.125"], ["cat", "0.250", "0.500"], ["[red] bird", "0.000", "0.500"]]
    assert "1 of 4 classes do not occur in the data" in said


@pytest.mark.parametrize(("count", "shown"), [(30, 30), (31, 21), (80, 21)])
def test_of_many_classes_the_ten_best_and_the_ten_worst_are_shown(
    capsys: pytest.CaptureFixture[str], count: int, shown: int
) -> None:
    print_classes({"PQ": {f"c{number}": (number * 7 % count) / count for number in range(count)}})
    found = rows(capsys.readouterr().out)
    values = [row[1] for row in found if row[1]]
    assert len(found) == shown
    assert values == sorted(values, reverse=True)
    assert (values[0], values[-1]) == (f"{(count - 1) / count:.3f}", "0.000")
    if shown == 21:
        assert found[10] == [f"({count - 20} between)", ""]
        assert (values[9], values[10]) == (f"{(count - 10) / count:.3f}", f"{9 / count:.3f}")


def test_scores_of_other_classes_have_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_classes({"PQ": {"cat": 0.5, "sky": 1.0}, "segm AP": {"cat": 0.25}, "bbox AP": {"cat": 0.5}})
    said = capsys.readouterr().out
    assert rows(said) == [["sky", "1.000"], ["cat", "0.500"], ["cat", "0.250", "0.500"]]
    assert "do not occur" not in said


def test_what_cannot_be_scored_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores({"segm": {"AP": 0.5, "APs": -1.0}, "panoptic": {"All": {"pq": None, "n": 3}, "per_class": {1: {}}}})
    assert rows(capsys.readouterr().out) == [["segm", "0.500", "-", "", ""], ["panoptic All", "", "", "-", "3"]]
    print_classes({"AP": {"cat": math.nan}})
    assert capsys.readouterr().out == "1 of 1 classes do not occur in the data\n"
