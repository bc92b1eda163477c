"""PSG's files: preparation, the data set, and what is wrong with them."""

import json
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from maskworks import shapes
from refinemask_psg.psg.data import PsgDataset
from refinemask_psg.psg.files import read_psg
from scripts.prepare_psg import Prepare, prepare
from tests.running import run

ROOT = Path(__file__).parents[2]
SEGMENTS = [  # id, class, crowd, box x1 y1 x2 y2
    (1, 0, 0, (0, 0, 20, 40)),
    (2, 0, 1, (20, 0, 40, 20)),
    (3, 1, 0, (20, 20, 40, 40)),
    (300, 3, 0, (40, 0, 60, 40)),
]


def entry(number=7):
    return {
        "file_name": f"train2017/{number}.png",
        "height": 40,
        "width": 60,
        "image_id": str(number),
        "pan_seg_file_name": f"panoptic/{number}.png",
        "coco_image_id": str(number + 1000),
        "segments_info": [
            {"id": identity, "category_id": label, "iscrowd": crowd, "isthing": int(label < 3), "area": 400}
            for identity, label, crowd, _ in SEGMENTS
        ],
        "annotations": [
            {"bbox": [float(side) for side in box], "bbox_mode": 0, "category_id": label}
            for _, label, _, box in SEGMENTS
        ],
        "relations": [[0, 2, 1], [1, 3, 0], [2, 3, 1]],
    }


def psg(*entries, test=()):
    return {
        "data": list(entries),
        "thing_classes": ["person", "truck", "cat"],
        "stuff_classes": ["road"],
        "predicate_classes": ["on", "beside"],
        "test_image_ids": [str(number) for number in test],
    }


def write(folder, content, name="psg_train_val.json"):
    path = folder / name
    path.write_text(json.dumps(content))
    for each in content["data"]:
        picture = np.zeros((40, 60, 3), np.uint8)
        for identity, _, _, (x1, y1, x2, y2) in SEGMENTS:
            picture[y1:y2, x1:x2] = (identity >> 16 & 255, identity >> 8 & 255, identity & 255)  # blue, green, red
        for file in (each["file_name"], each["pan_seg_file_name"]):
            if ".." not in file:
                (folder / file).parent.mkdir(exist_ok=True)
                cv2.imwrite(str(folder / file), picture)
    return path


def test_trucks_are_things_unless_the_faults_are_asked_for(tmp_path, capsys):
    path = write(tmp_path, psg(entry(7), entry(8), test=[8]))
    prepare(Prepare(path, out=tmp_path / "right"))
    assert "1 images to train on, 1 to validate" in capsys.readouterr().out
    prepare(Prepare(path, out=tmp_path / "wrong", original_faults=True))
    names = {}
    for kind in ("right", "wrong"):
        content = json.loads((tmp_path / kind / "psg_tra.json").read_text())
        names[kind] = [(each["name"], each["isthing"]) for each in content["categories"]]
        assert content["annotations"][0]["relations"] == entry()["relations"]
        assert [image["id"] for image in content["images"]] == [7]
    assert names["right"] == [("person", 1), ("truck", 1), ("cat", 1), ("road", 0)]
    assert names["wrong"] == [("person", 1), (" truck", 0), ("cat", 1), ("road", 0)]


DAMAGES = {
    "relation 0 names segments 0 and 9 of 4": lambda e: e["relations"].insert(0, [0, 9, 0]),
    "relation 3 has predicate 2, expected 0 to 1": lambda e: e["relations"].append([0, 1, 2]),
    "3 annotations for 4 segments_info": lambda e: e["annotations"].pop(),
    "segment 1 has category_id 0 in segments_info and 1 in annotations": lambda e: e["annotations"][1].update(
        category_id=1
    ),
    "segment 2 has id 1, which another has too": lambda e: e["segments_info"][2].update(id=1),
    "segment 0 has id 0, expected R": lambda e: e["segments_info"][0].update(id=0),
    "data[1].image_id: Expected `str` matching regex '^[0-9]{1,15}$'": lambda e: e.update(image_id="7a"),
    "its file_name '../7.png' leads out": lambda e: e.update(file_name="../7.png"),
    "Object missing required field `segments_info`": lambda e: e.pop("segments_info"),
    "Expected `int`, got `str`": lambda e: e["relations"].append([0, 1, "on"]),
}


@pytest.mark.parametrize("problem", DAMAGES)
def test_a_damaged_entry_is_named(tmp_path, problem):
    damaged = entry(7)
    DAMAGES[problem](damaged)
    path = write(tmp_path, psg(entry(6)), "fine.json")
    path.write_text(json.dumps(psg(entry(6), damaged)))
    with pytest.raises(UserError, match=r"fine\.json: data\[1\]") as caught:
        read_psg(path)
    assert problem in str(caught.value)


def test_nothing_is_written_when_a_file_is_damaged(tmp_path):
    path = write(tmp_path, psg(entry(7)))
    path.write_text(path.read_text()[:-200])
    failed = run("scripts/prepare_psg.py", path.name, "--out", "out", cwd=tmp_path, status=2)
    assert failed.stderr.splitlines()[-1].startswith("error: psg_train_val.json: ")
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    path = write(tmp_path, psg(entry(7), entry(8), test=[8]))
    other = write(tmp_path, psg(entry(9), test=[9]), "psg_val_test.json")
    with pytest.raises(UserError, match=r"psg_val_test\.json: no entry for the validation image 8"):
        prepare(Prepare(path, other, out=tmp_path / "out"))


def test_an_instance_file_with_other_classes_is_refused(tmp_path):
    path, coco = write(tmp_path, psg(entry(7))), tmp_path / "coco.json"
    coco.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}))
    with pytest.raises(UserError, match=r"coco\.json: 1 categories, expected COCO's 80"):
        prepare(Prepare(path, instances=coco, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# --- the data set


def test_a_sample_has_things_and_stuff_as_objects_but_no_crowds(tmp_path):
    dataset = PsgDataset([tmp_path], [write(tmp_path, psg(entry()))], "train")
    sample = dataset[0]
    assert sample.labels.tolist() == [0, 0, 1, 3]
    assert sample.crowd.tolist() == [False, True, False, False]
    assert sample.masks.sum(axis=(1, 2)).tolist() == [800, 400, 400, 800]
    assert sample.boxes[3].tolist() == [40, 0, 60, 40]
    # without the crowd: the truck is object 1, the road object 2; what the crowd does is left out
    assert sample.relations.tolist() == [[0, 1, 1], [1, 2, 1]]
    assert [(sample.semantic == value).sum() for value in (0, 1, 3, 255)] == [1200, 400, 800, 0]
    assert (dataset.thing_count, dataset.predicate_names) == (3, ("on", "beside"))


def test_a_segment_without_extent_takes_its_relations_along(tmp_path):
    content = psg(entry())
    content["data"][0]["segments_info"][0]["area"] = 0
    path = write(tmp_path, content)
    sample = PsgDataset([tmp_path], [path], "train")[0]
    assert sample.labels.tolist() == [0, 1, 3]
    assert sample.relations.tolist() == [[0, 1, 1]]
    assert (sample.semantic == 255).sum() == 800
    faulty = PsgDataset([tmp_path], [path], "train", original_faults=True)[0]
    assert faulty.relations.tolist() == [[0, 2, 1], [1, 3, 0], [2, 3, 1]]


def test_prepared_files_read_as_the_competitions_own(tmp_path):
    path = write(tmp_path, psg(entry(7), entry(8), test=[8]))
    prepare(Prepare(path, out=tmp_path))
    for split, name in (("train", "psg_tra.json"), ("val", "psg_val.json")):
        ours, theirs = PsgDataset([tmp_path], [tmp_path / name], split), PsgDataset([tmp_path], [path], split)
        assert ours.image_ids.tolist() == theirs.image_ids.tolist()
        assert np.array_equal(ours[0].masks, theirs[0].masks)
        assert np.array_equal(ours[0].relations, theirs[0].relations)


def test_the_originals_truck_is_a_thing_here(tmp_path, caplog):
    path = write(tmp_path, psg(entry()))
    prepare(Prepare(path, out=tmp_path, original_faults=True))
    dataset = PsgDataset([tmp_path], [tmp_path / "psg_tra.json"], "train")
    assert dataset.class_names == ("person", "truck", "cat", "road")
    assert dataset.is_thing.tolist() == [True, True, True, False]
    assert "' truck'" in caplog.text
    faulty = PsgDataset([tmp_path], [tmp_path / "psg_tra.json"], "train", original_faults=True)
    assert faulty.class_names[1] == " truck"
    assert faulty.is_thing.tolist() == [True, False, True, False]


def test_images_not_worth_training_are_left_out(tmp_path):
    low, without_things = entry(1), entry(2)
    low["height"] = 31
    for listed in (without_things["segments_info"], without_things["annotations"]):
        del listed[:3]
    without_things["relations"] = []
    path = write(tmp_path, psg(low, without_things, entry(3)))
    assert PsgDataset([tmp_path], [path], "train", keep_empty=False).image_ids.tolist() == [3]
    assert len(PsgDataset([tmp_path], [path], "train")) == 3


def test_the_built_in_data_set_is_read(tmp_path):
    folder = shapes.write(tmp_path / "scenes", "val", 0, 4)
    dataset = PsgDataset([folder.root], [folder.scene_graph], "val")
    assert len(dataset) == 4
    assert dataset.thing_count == 8
    for index in range(4):
        sample = dataset[index]
        assert (sample.masks.sum(axis=0) == (sample.semantic != 255)).all() or sample.crowd.any()
        assert sample.relations[:, :2].max(initial=0) < (~sample.crowd).sum()


def test_a_picture_of_another_size_is_named(tmp_path):
    path = write(tmp_path, psg(entry()))
    cv2.imwrite(str(tmp_path / "panoptic" / "7.png"), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(UserError, match=r"panoptic/7\.png: is 10 x 10, but its image 60 x 40"):
        PsgDataset([tmp_path], [path], "train")[0]


def test_an_annotation_of_no_image_is_named(tmp_path):
    path = write(tmp_path, psg(entry()))
    prepare(Prepare(path, out=tmp_path))
    content = json.loads((tmp_path / "psg_tra.json").read_text())
    broken = deepcopy(content)
    broken["annotations"][0]["image_id"] = 99
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"broken\.json: annotations\[0\] \(image_id 99\): its image_id is not among"):
        PsgDataset([tmp_path], [tmp_path / "broken.json"], "train")
