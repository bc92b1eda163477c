"""What a converted model's classes are called: asked for, said by the file, or of the data set that it is of."""

import hashlib
import json

import pytest

from common.errors import UserError
from maskworks.published.class_lists import LISTS, classes_of, read_classes
from maskworks.published.coco_classes import COCO_CATEGORY_IDS, COCO_CLASSES, known_classes
from maskworks.published.origin import Origin


def test_cocos_classes_are_those_that_published_checkpoints_predict():
    """Whatever torchvision, whose list it is, calls them in a later version."""
    pairs = repr(list(zip(COCO_CLASSES, COCO_CATEGORY_IDS, strict=True)))
    assert hashlib.sha256(pairs.encode()).hexdigest().startswith("2aacf549eefb")


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        ("names.txt", "cat\n\nhot dog \n", (1, 2)),
        ("names.json", json.dumps(["cat", "hot dog"]), (1, 2)),
        ("coco.json", json.dumps({"categories": [{"id": 9, "name": "hot dog"}, {"id": 7, "name": "cat"}]}), (7, 9)),
        ("psg.json", json.dumps({"thing_classes": ["cat"], "stuff_classes": ["hot dog"]}), (1, 2)),
    ],
)
def test_names_are_read_from_lists_and_annotation_files(tmp_path, name, content, ids):
    (tmp_path / name).write_text(content)
    found = read_classes(str(tmp_path / name))
    assert (found.names, found.ids) == (("cat", "hot dog"), ids)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.txt", "", "no names"),
        ("twice.txt", "cat\ndog\ncat", "twice: cat"),
        ("broken.json", "{", "neither"),
        ("deep.json", "[" * 100_000, "neither"),
        ("other.json", json.dumps({"a": 1}), "no names"),
        ("numbers.json", json.dumps([1, 2]), "no names"),
        ("odd.json", json.dumps({"categories": [{"id": "7", "name": "cat"}]}), "no id and name"),
        ("same.json", json.dumps({"categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]}), "an id twice"),
    ],
)
def test_a_file_without_names_is_one_line(tmp_path, name, content, complaint):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=complaint) as error:
        read_classes(str(tmp_path / name))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="one of coco, pascal_voc, cityscapes"):
        read_classes(str(tmp_path / "nothing.txt"))


@pytest.mark.parametrize(
    ("path", "count", "source"),
    [
        ("SOLOv2_R50_3x.pth", 80, "the file's name, a published one"),
        ("yolact_base_54_800000.pth", 80, "the file's name, a published one"),
        ("mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth", 80, "the file's name"),
        ("yolact_resnet50_pascal_54_120000.pth", 20, "the file's name"),
    ],
)
def test_a_published_name_says_the_data_set(path, count, source):
    found, notes = classes_of(Origin(path), count, known_classes)
    assert (found.names, found.source, notes) == (tuple(LISTS["coco" if count == 80 else "pascal_voc"]), source, [])


def test_a_file_of_ones_own_gets_no_names_of_coco():
    found, notes = classes_of(Origin("mine.pth"), 80, known_classes)
    assert found.names[0] == "class 1" and "--classes" in notes[0]
    asked = Origin("mine.pth", classes=read_classes("coco"))
    assert classes_of(asked, 80, known_classes)[0].ids == COCO_CATEGORY_IDS
    with pytest.raises(UserError, match=r"mine\.pth has 3 classes, but --classes coco names 80"):
        classes_of(asked, 3, known_classes)


def test_what_meta_says_comes_first_and_what_cannot_be_taken_is_said():
    def of(count, **meta):
        return classes_of(Origin.read("mine_coco.pth", {"meta": meta}), count, known_classes)

    own = tuple(f"thing {number}" for number in range(80))
    assert of(80, CLASSES=own)[0].names == own
    assert of(80, dataset_meta={"classes": COCO_CLASSES})[0].ids == COCO_CATEGORY_IDS
    assert of(1, CLASSES="person")[0].names == ("person",)
    found, notes = of(80, CLASSES="person")
    assert found.names[0] == "class 1" and "CLASSES is not a list of names" in notes[0]
    found, notes = of(80, CLASSES=own[:3])
    assert "CLASSES has 3 names, but the model 80 classes" in notes[0]
    text = "metainfo = dict(classes=('cat', 'dog'))"
    assert of(2, cfg=text)[0].names == ("cat", "dog")


def test_a_configuration_or_detectrons_says_the_data_set():
    origin = Origin.read("mine.pth", {"meta": {"config": "dataset_type = 'CityscapesDataset'"}})
    assert classes_of(origin, 8, known_classes)[0].ids == (24, 25, 26, 27, 28, 31, 32, 33)
    origin = Origin("model_final.pkl", {"cfg": "TRAIN: {DATASETS: [coco_2014_train]}"})
    assert classes_of(origin, 80, known_classes)[0].names == COCO_CLASSES
