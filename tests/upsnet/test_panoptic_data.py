"""Panoptic data sets, built in, published and broken; their scores, by one process and from files."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from common.data.augment import augmented
from common.data.coco import CocoDataset
from common.errors import UserError
from common.metrics import evaluate_panoptic
from common.results import Instances
from maskworks import shapes
from scripts.prepare_cityscapes_panoptic import prepare
from tests.given import given_folder
from upsnet.augmentation import training_transforms
from upsnet.config import Augment
from upsnet.panoptic_data import PanopticDataset
from upsnet.scoring import confuse, evaluate_panoptic_model, mean_iou, panoptic_truth


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> shapes.ShapesFolder:
    return shapes.ensure("val", seed=3, count=6, cache=tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def dataset(made) -> PanopticDataset:
    return PanopticDataset([made.images], [made.panoptic])


def test_things_are_the_instance_files_objects(made, dataset):
    instances = CocoDataset([made.images], [made.instances])
    assert dataset.class_names[: dataset.thing_count] == instances.class_names
    assert len(dataset) == len(instances)
    for sample, expected in zip(dataset, instances, strict=True):
        key = lambda row: (row[0], row[1], row[2].tobytes())  # noqa: E731
        ours = sorted(zip(sample.labels.tolist(), sample.crowd.tolist(), sample.masks, strict=True), key=key)
        theirs = sorted(zip(expected.labels.tolist(), expected.crowd.tolist(), expected.masks, strict=True), key=key)
        assert [row[:2] for row in ours] == [row[:2] for row in theirs]
        assert all((one[2] == other[2]).all() for one, other in zip(ours, theirs, strict=True))
        assert sorted(map(tuple, sample.boxes)) == sorted(map(tuple, expected.boxes))
        assert (sample.image == expected.image).all()


def test_every_pixel_has_the_class_of_its_segment(dataset):
    for index, sample in enumerate(dataset):
        assert sample.semantic is not None
        for mask, label in zip(sample.masks, sample.labels, strict=True):
            assert (sample.semantic[mask] == label).all()
        stuff = sample.semantic[~sample.masks.any(axis=0)]
        assert (stuff >= dataset.thing_count).all()
        assert panoptic_truth(dataset, index, sample).segments.min() >= 1


def test_training_targets_end_at_their_last_pixel_and_follow_the_image(dataset):
    sample = dataset[0]
    height, width = sample.image.shape[:2]
    settings = Augment(long_side=2 * max(height, width), short_sides=(2 * min(height, width),), flip=1.0)
    _, target = augmented(sample, training_transforms(settings))
    whole = ~sample.crowd
    x1, x2 = sample.boxes[whole, 0], sample.boxes[whole, 2] - 1
    mirrored = np.stack((width - 1 - x2, width - 1 - x1), axis=1)
    np.testing.assert_allclose(target.boxes[:, [0, 2]], 2 * mirrored)
    assert target.semantic is not None
    assert (target.semantic[::2, ::2].numpy() == sample.semantic[:, ::-1]).all()
    assert len(target.crowd_labels) == int(sample.crowd.sum())


def test_a_union_numbers_images_anew_and_a_limit_cuts_it(made, dataset):
    both = PanopticDataset([made.images], [made.panoptic, made.panoptic], limit=8)
    assert len(both) == 8
    assert both.image_ids.tolist() == list(range(1, 9))
    assert (both[7].semantic == dataset[1].semantic).all()


def change(made: shapes.ShapesFolder, folder: Path, edit) -> Path:
    """A copy of the data set whose JSON was edited."""
    content = json.loads(made.panoptic.read_text())
    shutil.copytree(made.panoptic_folder, folder / "panoptic")
    edit(content, folder / "panoptic")
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder / "panoptic.json"


def first_segment(content) -> dict:
    return content["annotations"][0]["segments_info"][0]


FAULTS = {
    "unknown category_id 7": lambda content, _: first_segment(content).update(category_id=7),
    "several entries with this id": lambda content, _: content["images"].append(content["images"][0]),
    "it has no annotation": lambda content, _: content["annotations"].pop(),
    "its image is not among": lambda content, _: content["images"].pop(),
    "is not R \\+ 256 G": lambda content, _: first_segment(content).update(id=2**24),
    "leads out of": lambda content, _: content["annotations"][0].update(file_name="../x.png"),
    "there is no such file": lambda content, folder: (folder / content["annotations"][0]["file_name"]).unlink(),
    "expected a file in COCO's panoptic format": lambda content, _: content["categories"][0].pop("isthing"),
}


@pytest.mark.parametrize("message", list(FAULTS))
def test_a_fault_stops_with_the_file_and_the_entry(made, tmp_path, message):
    path = change(made, tmp_path, FAULTS[message])
    with pytest.raises(UserError, match=message) as error:
        PanopticDataset([made.images], [path])
    assert str(path) in str(error.value)


def test_a_png_that_contradicts_the_json_is_named(made, tmp_path):
    def repaint(content, folder):
        file = folder / content["annotations"][0]["file_name"]
        picture = cv2.imread(str(file))
        picture[0, 0] = (1, 2, 3)
        cv2.imwrite(str(file), picture)
        other = folder / content["annotations"][1]["file_name"]
        cv2.imwrite(str(other), cv2.imread(str(other))[:-1])

    broken = PanopticDataset([made.images], [change(made, tmp_path, repaint)])
    with pytest.raises(UserError, match=rf"segment {3 + 256 * 2 + 65536} is not in"):
        broken[0]
    with pytest.raises(UserError, match="write it again at the image's size"):
        broken[1]


def test_images_without_things_can_be_left_out(made, tmp_path):
    def empty(content, _):
        things = {category["id"] for category in content["categories"] if category["isthing"]}
        infos = content["annotations"][2]["segments_info"]
        for info in infos:
            info["iscrowd"] = int(info["category_id"] in things)

    path = change(made, tmp_path, empty)
    every, some = PanopticDataset([made.images], [path]), PanopticDataset([made.images], [path], keep_empty=False)
    things = [(~sample.crowd).any() for sample in every]
    assert len(some) == sum(things) < len(every)
    assert some.image_ids.tolist() == every.image_ids[np.array(things)].tolist()


def test_cocos_own_files_are_read():
    folder = given_folder("MASKWORKS_DATA", "panoptic_sample")
    dataset = PanopticDataset([folder / "images"], [folder / "panoptic.json"])
    assert (len(dataset), len(dataset.class_names), dataset.thing_count) == (2, 133, 80)
    for index, sample in enumerate(dataset):
        infos = json.loads((folder / "panoptic.json").read_text())["annotations"][index]["segments_info"]
        areas = {info["id"]: info["area"] for info in infos if dataset.category_ids.index(info["category_id"]) < 80}
        assert sorted(sample.masks.sum(axis=(1, 2)).tolist()) == sorted(areas.values())


class Remembers(torch.nn.Module):
    """Answers with the ground truth, some of it spoilt."""

    def __init__(self, dataset: PanopticDataset, spoilt: int):
        super().__init__()
        self.known = {}
        for index, sample in enumerate(dataset):
            truth = panoptic_truth(dataset, index, sample)
            truth.segments[truth.segments <= spoilt] = 0
            keep = torch.from_numpy(~sample.crowd)
            found = Instances(
                torch.ones(int(keep.sum())),
                torch.from_numpy(sample.labels)[keep],
                torch.from_numpy(sample.boxes)[keep],
                torch.from_numpy(sample.masks)[keep],
                sample.image.shape[:2],
                dataset.class_names,
            )
            semantic = torch.from_numpy(sample.semantic)
            self.known[sample.image.tobytes()] = SimpleNamespace(panoptic=truth, instances=found, semantic=semantic)

    def predict_everything(self, images):
        return [self.known[image.tobytes()] for image in images]


def test_the_ground_truth_scores_everything(dataset):
    evaluation = evaluate_panoptic_model(Remembers(dataset, 0), dataset, 1, 0)
    assert evaluation.metrics["panoptic"]["All"]["pq"] == 1
    assert evaluation.metrics["segm"]["AP"] == pytest.approx(1)
    assert evaluation.metrics["bbox"]["AP"] == pytest.approx(1)
    assert evaluation.metrics["semantic"]["mIoU"] == 1


def test_the_score_is_that_of_the_written_files(dataset, made, tmp_path):
    (tmp_path / "panoptic").mkdir()
    evaluation = evaluate_panoptic_model(Remembers(dataset, 2), dataset, 1, 0, tmp_path / "panoptic")
    (tmp_path / "panoptic.json").write_text(json.dumps({"annotations": evaluation.predictions}))
    expected = evaluate_panoptic(made.panoptic, tmp_path / "panoptic.json")
    assert evaluation.metrics["panoptic"] == expected
    assert 0 < expected["All"]["pq"] < 1


def test_the_mean_iou_is_over_the_classes_of_the_ground_truth():
    truth, found = np.array([[0, 0, 1, 255]]), np.array([[0, 2, 1, 1]])
    confusion = confuse(truth, found, 3)
    assert confusion.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert mean_iou(confusion) == pytest.approx((1 / 2 + 1) / 2)
    assert mean_iou(np.zeros((2, 2), np.int64)) is None


def test_cityscapes_annotations_become_cocos(tmp_path):
    numbers = np.full((16, 32), 7, np.uint16)  # road
    numbers[:4], numbers[4:8, :8], numbers[4:8, 8:12], numbers[4:8, 12:20] = 23, 26_000, 26_001, 24
    numbers[12:] = 1  # the car's own bonnet, which is not scored
    for kind, name, content in (
        ("gtFine", "x_gtFine_instanceIds.png", numbers),
        ("leftImg8bit", "x_leftImg8bit.png", np.zeros((16, 32, 3), np.uint8)),
    ):
        (tmp_path / kind / "val" / "ulm").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / kind / "val" / "ulm" / name), content)
    prepare(tmp_path, "val")
    dataset = PanopticDataset([tmp_path / "leftImg8bit" / "val"], [tmp_path / "panoptic_val.json"])
    assert (len(dataset.class_names), dataset.thing_count) == (19, 8)
    sample = dataset[0]
    names = [dataset.class_names[label] for label in sample.labels]
    assert list(zip(names, sample.crowd.tolist(), sample.masks.sum(axis=(1, 2)).tolist(), strict=True)) == [
        ("person", True, 32),
        ("car", False, 32),
        ("car", False, 16),
    ]
    assert sample.semantic is not None
    assert {dataset.class_names[label] for label in np.unique(sample.semantic[:12])} == {"sky", "road", "person", "car"}
    assert (sample.semantic[12:] == 255).all()
    with pytest.raises(UserError, match="exists already"):
        prepare(tmp_path, "val")
    with pytest.raises(UserError, match="expected the unpacked gtFine"):
        prepare(tmp_path, "train")
