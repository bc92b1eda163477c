"""Own data in every format become what COCO's loader reads, with the masks that were drawn; what cannot, is named."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.coco import CocoDataset
from common.errors import UserError
from maskworks.own_data import found, splits
from tests.maskworks.own_data_formats import (
    CAT,
    CLASSED,
    DOG,
    HEIGHT,
    PICTURES,
    UNCLASSED,
    WIDTH,
    beside,
    coco,
    folder_of_masks,
    imagefolder,
    label_images,
    label_studio,
    labelme,
    mask_of,
    numbered,
    picture,
    pictures,
    save,
    text,
    voc,
    yolo,
)

Make = Callable[[Path], Path]


def opened(reading: found.Reading, part: str = "train") -> CocoDataset:
    parts = {"train": reading.train} | ({"val": reading.val} if reading.val else {})
    named = splits.written("data", parts)[part]
    return CocoDataset(named.images, named.annotations)


def contents(data: CocoDataset) -> dict[str, set[tuple[str, bytes]]]:
    """Picture -> its objects as (class, pixels); the pictures are opened, too."""
    return {
        data[at].path.stem: {
            (data.class_names[label], mask.tobytes())
            for label, mask in zip(data[at].labels, data[at].masks, strict=True)
        }
        for at in range(len(data))
    }


@pytest.mark.parametrize("name", CLASSED)
def test_a_format_with_classes_becomes_the_objects_that_it_has(tmp_path: Path, name: str) -> None:
    reading = found.read(CLASSED[name](tmp_path / "own data"))
    assert reading.val is None
    data = opened(reading)
    expected = {name: {(label, mask_of(box).tobytes()) for label, box in objects} for name, objects in PICTURES.items()}
    assert contents(data) == expected
    assert data.class_names == ("cat", "dog")


@pytest.mark.parametrize("name", UNCLASSED)
def test_label_images_become_one_object_for_each_number_or_file(tmp_path: Path, name: str) -> None:
    reading = found.read(UNCLASSED[name](tmp_path / "own data"))
    data = opened(reading)
    assert data.class_names == ("object",)
    drawn = {name: {("object", mask_of(box).tobytes()) for _, box in objects} for name, objects in PICTURES.items()}
    assert contents(data) == drawn
    assert data.annotations_json()["annotations"][0]["bbox"] == [2, 1, 8, 8]
    assert reading.notes == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("beside", "the COCO file annotations.json"),
        ("cvat", "the COCO file instances_default.json"),
        ("roboflow", "train/, with the COCO file _annotations.coco.json"),
        ("yolo", "YOLO's data.yaml"),
        ("labelme", "labelme's JSON files"),
        ("voc", "Pascal VOC's own data"),
        ("imagefolder", "Hugging Face's imagefolder"),
    ],
)
def test_what_a_path_is_taken_for_is_said(tmp_path: Path, name: str, kind: str) -> None:
    assert found.read(CLASSED[name](tmp_path / "own data")).kind == kind


def test_what_is_coco_already_is_left_where_it_is(tmp_path: Path) -> None:
    named = splits.written("data", {"train": found.read(beside(tmp_path / "a")).train})["train"]
    assert named.annotations == [str(tmp_path / "a/annotations.json")]
    assert not (tmp_path / "cache").exists()


def test_a_converted_file_is_named_by_its_content_and_written_once(tmp_path: Path) -> None:
    first = splits.written("data", {"train": found.read(labelme(tmp_path / "a")).train})["train"].annotations[0]
    os.utime(first, (1, 1))
    assert splits.written("data", {"train": found.read(tmp_path / "a").train})["train"].annotations == [first]
    assert Path(first).stat().st_mtime == 1
    labelled = json.loads((tmp_path / "a/b.json").read_text()) | {"shapes": []}
    text(tmp_path / "a/b.json", json.dumps(labelled))
    assert splits.written("data", {"train": found.read(tmp_path / "a").train})["train"].annotations != [first]


@pytest.mark.parametrize(("second", "taken"), [("val", True), ("valid", True), ("test", True), ("other", False)])
def test_folders_for_training_and_validation_are_both_read(tmp_path: Path, second: str, taken: bool) -> None:
    for folder, name in (("train", "a"), (second, "b")):
        picture(tmp_path / folder / f"images/{name}.png")
        text(tmp_path / folder / "annotations.json", json.dumps(coco(names=(name,))))
    reading = found.read(tmp_path)
    assert list(contents(opened(reading))) == ["a"]
    assert (reading.val is not None) is taken
    if taken:
        assert list(contents(opened(reading, "val"))) == ["b"]
        assert reading.kind == f"train/ and {second}/, with the COCO file annotations.json"


def test_test_pictures_stay_unseen_where_others_validate(tmp_path: Path) -> None:
    for folder in ("train", "valid", "test"):
        beside(tmp_path / folder)
    reading = found.read(tmp_path)
    assert reading.val is not None
    assert reading.val.folder == tmp_path / "valid"
    assert reading.notes == ["test/ is not looked at"]


def test_coco_s_own_layout_is_read_and_its_files_for_other_tasks_are_not(tmp_path: Path) -> None:
    for part, name in (("train2017", "a"), ("val2017", "b")):
        picture(tmp_path / part / f"{name}.png")
        text(tmp_path / f"annotations/instances_{part}.json", json.dumps(coco(names=(name,))))
        text(tmp_path / f"annotations/captions_{part}.json", json.dumps({"images": [], "annotations": []}))
        text(tmp_path / f"annotations/person_keypoints_{part}.json", json.dumps(coco(names=())))
    reading = found.read(tmp_path)
    assert reading.kind == "COCO's instances_train2017.json and instances_val2017.json"
    assert list(contents(opened(reading))) == ["a"]
    assert list(contents(opened(reading, "val"))) == ["b"]
    for part in ("train2014", "val2014"):
        text(tmp_path / f"annotations/instances_{part}.json", json.dumps(coco(names=("a",))))
        picture(tmp_path / part / "a.png")
    reading = found.read(tmp_path)
    assert reading.kind == "COCO's instances_train2014.json and instances_val2014.json"
    assert "could also be COCO's instances_train2017.json and instances_val2017.json" in reading.notes[0]


def test_classes_found_in_each_folder_alone_are_joined(tmp_path: Path) -> None:
    labelme(tmp_path / "train")
    labelme(tmp_path / "val")
    (tmp_path / "val/a.json").unlink()  # only the dog is left
    reading = found.read(tmp_path)
    assert opened(reading, "val").class_names == opened(reading).class_names == ("cat", "dog")
    assert contents(opened(reading, "val")) == {"b": {("dog", mask_of(CAT).tobytes())}}


def test_another_possible_reading_is_said(tmp_path: Path) -> None:
    labelme(tmp_path)
    text(tmp_path / "result.json", json.dumps(coco()))
    reading = found.read(tmp_path)
    assert reading.kind == "the COCO file result.json"
    assert reading.notes == ["it could also be labelme's JSON files: to take that, name it itself"]


def test_voc_s_lists_say_what_trains_and_boxes_alone_stay_boxes(tmp_path: Path) -> None:
    voc(tmp_path)
    for path in (tmp_path / "SegmentationObject").iterdir():
        path.unlink()
    (tmp_path / "SegmentationObject").rmdir()
    text(tmp_path / "ImageSets/Main/train.txt", "a\n")
    text(tmp_path / "ImageSets/Main/val.txt", "b\n")
    reading = found.read(tmp_path)
    train, val = opened(reading), opened(reading, "val")
    assert not train.has_masks
    assert train[0].boxes.tolist() == [list(CAT), list(DOG)]
    assert val[0].path.name == "b.jpg"
    boxes = found.read(tmp_path, rectangles=True)
    assert contents(opened(boxes, "val")) == {"b": {("dog", mask_of(CAT).tobytes())}}


def test_voc_s_pictures_without_masks_are_counted_and_lists_must_name_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voc(tmp_path)
    (tmp_path / "SegmentationObject/b.png").unlink()
    reading = found.read(tmp_path)
    assert reading.notes == ["1 pictures without masks are left out"]
    assert list(contents(opened(reading))) == ["a"]
    text(tmp_path / "ImageSets/Segmentation/train.txt", "a\n")
    text(tmp_path / "ImageSets/Segmentation/val.txt", "b\n")
    with pytest.raises(UserError, match="1 fault"):
        found.read(tmp_path)
    assert "val.txt: names b, which has no XML file in Annotations, or no mask" in capsys.readouterr().err


def test_binary_label_images_are_parted_and_that_is_said(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    for name, objects in PICTURES.items():
        save(
            tmp_path / f"labels/{name}.png", np.any([mask_of(box) for _, box in objects], axis=0).astype(np.uint8) * 255
        )
    reading = found.read(tmp_path)
    assert [len(objects) for objects in contents(opened(reading)).values()] == [2, 1]
    assert reading.notes == ["the label images have one number only, so each connected part is taken for an object"]


def test_label_images_of_one_object_each_are_not_taken_for_binary_ones_if_others_have_more(tmp_path: Path) -> None:
    """However late the first one with two comes: touching objects would become one."""
    touching = mask_of((2, 1, 6, 9)) * np.uint8(1) + mask_of((6, 1, 10, 9)) * np.uint8(2)
    for number in range(25):
        picture(tmp_path / f"images/{number:02}.png", number)
        save(tmp_path / f"masks/{number:02}.png", touching if number == 24 else mask_of(DOG).astype(np.uint8))
    reading = found.read(tmp_path)
    assert reading.notes == []
    assert len(contents(opened(reading))["24"]) == 2


def test_numbers_that_look_like_classes_are_doubted(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    for name in PICTURES:
        save(tmp_path / f"masks/{name}.png", (mask_of(CAT) | mask_of(DOG)) * np.uint8(3 if name == "a" else 4))
    assert "if they are classes" in found.read(tmp_path).notes[0]


def spoil(make: Make, file: str, content: bytes | str | None) -> Make:
    def made(root: Path) -> Path:
        path = make(root)
        if content is None:
            (root / file).unlink()
        else:
            text(root / file, "")
            (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return made


def unequal(root: Path) -> Path:
    path = label_images(np.uint16, ".png")(root)
    save(root / "masks/a.png", numbered("a", np.uint16)[:-1])
    return path


def coloured(root: Path) -> Path:
    path = label_images(np.uint16, ".png")(root)
    picture(root / "masks/a.png")
    return path


def pages(root: Path) -> Path:
    path = label_images(np.uint16, ".tif")(root)
    save(root / "masks/a.tif", numbered("a", np.uint16), save_all=True, append_images=[Image.new("L", (WIDTH, HEIGHT))])
    return path


WRONG = {
    "no folder": (lambda root: root, "no such file or folder"),
    "an empty folder": (
        lambda root: text(root / "a.txt", "").parent,
        "nothing in it is understood. What is: a COCO JSON",
    ),
    "pictures alone": (lambda root: (pictures(root), root)[1], "nothing in it is understood"),
    "COCO without pictures": (spoil(beside, "a.png", None), "a.png"),
    "a broken entry of COCO": (
        spoil(beside, "annotations.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}'),
        "file_name",
    ),
    "Label Studio's without pictures": (spoil(label_studio, "images/a.png", None), "a.png"),
    "YOLO's class": (spoil(yolo, "train/labels/a.txt", "9 0 0 1 0 1 1"), "1 fault, named above"),
    "YOLO's names": (spoil(yolo, "data.yaml", "train: train/images"), "no `names` in it"),
    "labelme's shape": (
        spoil(labelme, "a.json", '{"shapes": [{"label": "cat", "points": [[1, 1]]}], "imagePath": "a.png"}'),
        "1 fault, named above",
    ),
    "VOC's XML": (spoil(voc, "Annotations/a.xml", "<annotation>"), "1 fault, named above"),
    "VOC's entities": (spoil(voc, "Annotations/a.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"), "1 fault, named above"),
    "VOC's masks of another object": (spoil(voc, "SegmentationObject/a.png", b"no picture"), "1 fault, named above"),
    "a lost label image": (spoil(folder_of_masks, "masks/c/1.png", b""), "1 fault, named above"),
    "sizes that differ": (unequal, "1 fault, named above"),
    "colours for numbers": (coloured, "1 fault, named above"),
    "several pages": (pages, "1 fault, named above"),
    "no JSON in a line": (spoil(imagefolder, "metadata.jsonl", '{"file_name"\n'), "1 fault, named above"),
    "a file elsewhere": (
        spoil(imagefolder, "metadata.jsonl", '{"file_name": "../../secret.png", "objects": []}'),
        "1 fault, named above",
    ),
}
NAMED = {
    "YOLO's class": "train/labels/a.txt, line 1: class 9; expected a whole number from 0 to 1",
    "labelme's shape": "a.json: shape 1 ('cat'): a polygon of 1 points",
    "VOC's XML": "Annotations/a.xml: not XML",
    "VOC's entities": "Annotations/a.xml: has a document type",
    "VOC's masks of another object": "SegmentationObject/a.png: not a label image that can be read",
    "a lost label image": "masks/c: there is no picture for it",
    "sizes that differ": "masks/a.png: 40 x 19 pixels, but its picture 40 x 20",
    "colours for numbers": "masks/a.png: has 3 channels; expected one",
    "several pages": "masks/a.tif: has 2 pages; expected one",
    "no JSON in a line": "metadata.jsonl, line 1: not JSON",
    "a file elsewhere": "metadata.jsonl, line 1: file_name '../../secret.png' leads out of",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, problem = WRONG[name]
    path = make(tmp_path / "own")
    with pytest.raises(UserError) as caught:
        opened(found.read(path))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (name in NAMED)
    assert all(NAMED[name] in line for line in lines)


def test_voc_s_boxes_and_masks_must_be_of_the_same_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc(tmp_path)
    swapped = np.zeros((HEIGHT, WIDTH), np.uint8)
    swapped[mask_of(CAT)], swapped[mask_of(DOG)] = 2, 1
    save(tmp_path / "SegmentationObject/a.png", swapped)
    with pytest.raises(UserError, match="1 fault"):
        found.read(tmp_path)
    assert "object 1: its box is not where" in capsys.readouterr().err
