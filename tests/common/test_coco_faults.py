"""Faults in COCO files: each is named in a line, with file and entry, and no path leads outside."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.data.annotation_checks import _areas
from common.data.annotation_files import RleEntry
from common.data.coco import CocoDataset
from common.errors import UserError
from common.ops import masks as rle
from maskworks.commands import refuse_other_classes
from tests.common.coco_example import HEIGHT, TRIANGLE, WIDTH, annotation, content, load, write

NAN, INFINITY = float("nan"), float("inf")
Change = Callable[[Any], object]
OF_ANNOTATION_1: dict[str, tuple[dict[str, Any], str]] = {
    "text for a number": ({"category_id": "person"}, ".*category_id"),
    "unknown image": ({"image_id": 6}, "its image_id"),
    "unknown category": ({"category_id": 4}, "its category_id"),
    "NaN box": ({"bbox": [NAN, 1, 2, 3]}, r"its bbox \[nan"),
    "infinite box": ({"bbox": [1, 1, INFINITY, 3]}, "its bbox"),
    "negative box": ({"bbox": [5, 5, -2, 3]}, ".*negative"),
    "short box": ({"bbox": [5, 5, 2]}, ""),
    "negative area": ({"area": -1}, "its area"),
    "odd polygon": ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, ".*odd"),
    "NaN polygon": ({"segmentation": [[1, 2, 3, 4, 5, NAN]]}, ".*NaN"),
    "no such kind of mask": ({"segmentation": "mask.png"}, ""),
}
# the second annotation has the id 70 and an RLE in numbers, the fourth the id 9 and one in text
SIZE = {"size": [HEIGHT, WIDTH]}
OTHERS: dict[str, tuple[Change, str]] = {
    "missing key": (lambda d: d["annotations"][0].pop("bbox"), "annotation 1: .*bbox"),
    "missing id": (lambda d: d["annotations"][0].pop("id"), "annotation number 0 .*id"),
    "duplicate image": (lambda d: d["images"].append(dict(d["images"][0])), "image 5: 2 entries"),
    "duplicate annotation": (lambda d: d["annotations"].append(annotation(1)), "annotation 1: 2 entries"),
    "duplicate category": (lambda d: d["categories"].append({"id": 3, "name": "x"}), "category 3: 2 entries"),
    "RLE of another size": (
        lambda d: d["annotations"][3]["segmentation"].update(size=[WIDTH, HEIGHT]),
        r"annotation 9: RLE of size \[32, 24\] for an image of \[24, 32\]",
    ),
    "RLE with other counts": (
        lambda d: d["annotations"][1]["segmentation"]["counts"].append(1),
        "annotation 70: .*sum to 769",
    ),
    "negative RLE": (
        lambda d: d["annotations"][1].update(segmentation=SIZE | {"counts": [-2, 770]}),
        "annotation 70: .*count 0 is -2",
    ),
    "nonsense RLE": (lambda d: d["annotations"][3]["segmentation"].update(counts="\x01é"), "annotation 9: RLE"),
    "overflowing RLE": (
        lambda d: d["annotations"][1].update(segmentation=SIZE | {"counts": [2**63 - 1, 10**400, 0]}),
        "annotation 70: RLE",
    ),
    "bad keypoints": (
        lambda d: [d["annotations"][at].update(keypoints=[1, 2, 2][:count]) for at, count in ((0, 3), (2, 3), (3, 2))],
        "annotation 9: 2 keypoint numbers, expected 3",
    ),
    "size of an image": (lambda d: d["images"][0].update(width=0), "image 5: .*width"),
    "missing image": (
        lambda d: d["images"][0].update(file_name="d.png"),
        r"image 5 \('d\.png'\): there is no such file",
    ),
}
FATAL = OTHERS | {
    kind: (lambda d, changes=changes: d["annotations"][0].update(changes), f"annotation 1: {pattern}")
    for kind, (changes, pattern) in OF_ANNOTATION_1.items()
}


@pytest.mark.parametrize("kind", FATAL)
def test_faults_that_stop_are_one_line_naming_file_and_entry(kind: str, images: Path) -> None:
    change, pattern = FATAL[kind]
    data = content()
    change(data)
    with pytest.raises(UserError, match=pattern) as caught:
        load(images, data)
    message = str(caught.value)
    assert str(images.parent / "annotations.json") in message
    assert "\n" not in message
    assert ";" in message  # what to do


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('{"images": [], "annotations": [}', "broken JSON: .*byte 31"),
        ('{"images": [], "annotations": []', "broken JSON"),
        ('{"images": [], "categories": []}', "missing key 'annotations'"),
        ("[1, 2]", 'expected a COCO object with "images"'),
        ("", "broken JSON"),
        ('{"images": [], "annotations": [], "categories": []}', "no image"),
    ],
)
def test_files_that_are_no_coco_files_are_refused(text: str, pattern: str, images: Path) -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        load(images, text)
    assert str(images.parent / "annotations.json") in str(caught.value)


def test_missing_files_and_folders_are_named(images: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: cannot be read"):
        CocoDataset([images], [images / "none.json"])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        CocoDataset([images / "nowhere"], [write(images, content())])


def test_many_faults_are_counted_and_the_doctor_is_named(images: Path) -> None:
    data = content()
    data["annotations"] = [annotation(i, category=99) for i in range(1, 51)]
    with pytest.raises(UserError, match=r"annotation 1: .*annotation 3: .*50 faults.*check_dataset\.py") as caught:
        load(images, data)
    assert "annotation 4:" not in str(caught.value)


def test_harmless_faults_are_left_out_with_one_line(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = content()
    data["annotations"] += [
        annotation(100, bbox=[5, 5, 0, 3]),
        annotation(101, bbox=[40, 5, 4, 3]),  # right of the image
        annotation(102, segmentation=[]),
        annotation(103, segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
        annotation(104, segmentation=[[1, 2, 3, 4]]),
        annotation(105, segmentation=[[1, 2, 3, 4], TRIANGLE]),  # loses one polygon only
    ]
    with caplog.at_level(logging.WARNING):
        dataset = load(images, data)
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "2 x degenerate box" in message
    assert "3 x empty mask" in message
    assert "2 x tiny polygon" in message
    answer = dataset.annotations_json()["annotations"]
    assert [each["id"] for each in answer if each["image_id"] == 5] == [1, 8, 105]
    assert answer[2]["segmentation"] == [TRIANGLE]
    assert len(dataset[0].masks) == 3


def test_an_image_of_another_size_stops(images: Path) -> None:
    cv2.imwrite(str(images / "a.png"), np.zeros((10, 12, 3), np.uint8))
    dataset = load(images, content())
    with pytest.raises(UserError, match=r"a\.png: the image is 12 x 10, but its annotation file says 32 x 24"):
        dataset[0]
    assert dataset[1].image_id == 2


def test_a_polygon_that_cannot_be_drawn_is_named(images: Path) -> None:
    data = content()
    data["annotations"][0]["segmentation"] = [[0, 0, 1e300, 5, 3, 1e300]]
    with pytest.raises(UserError, match=r"annotations\.json: annotation 1: polygon 0"):
        load(images, data)[0]


@pytest.mark.parametrize(
    "name", ["../secret.png", "deep/../../secret.png", "ABSOLUTE", "link.png", "folder/secret.png"]
)
def test_no_path_leads_out_of_the_images_folder(name: str, images: Path) -> None:
    outside = images.parent / "outside"
    outside.mkdir()
    for secret in (images.parent / "secret.png", outside / "secret.png"):
        cv2.imwrite(str(secret), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (images / "link.png").symlink_to(outside / "secret.png")
    (images / "folder").symlink_to(outside)
    data = content()
    data["images"][0]["file_name"] = str(outside / "secret.png") if name == "ABSOLUTE" else name
    with pytest.raises(UserError, match=r"image 5 .*leads out of the images folder"):
        load(images, data)


def test_links_inside_the_folder_are_followed_but_not_once_they_lead_out(images: Path) -> None:
    (images / "link.png").symlink_to(images / "c.png")
    data = content()
    data["images"][0]["file_name"] = "link.png"
    dataset = load(images, data)
    assert dataset[0].image.shape == (HEIGHT, WIDTH, 3)
    cv2.imwrite(str(images.parent / "secret.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (images / "link.png").unlink()
    (images / "link.png").symlink_to(images.parent / "secret.png")
    with pytest.raises(UserError, match="leads out"):
        dataset[0]


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000, "..", "", "deep"])
def test_strange_names_are_refused_in_a_line(name: str, images: Path) -> None:
    data = content()
    data["images"][0]["file_name"] = name
    with pytest.raises(UserError, match="image 5 "):
        load(images, data)


def test_other_classes_than_the_checkpoints_are_refused(images: Path) -> None:
    dataset = load(images, content())
    refuse_other_classes(dataset, ["person", "cat"])
    for names in (["cat", "person"], ["person"], ["person", "cat", "dog"]):
        with pytest.raises(UserError, match=r"\['person', 'cat'\]") as caught:
            refuse_other_classes(dataset, names)
        assert str(names) in str(caught.value)


def test_sound_rle_text_is_checked_at_once_and_every_broken_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    check = rle.check
    monkeypatch.setattr(rle, "check", lambda *given: looked.append(given) or check(*given))
    masks = np.random.RandomState(0).rand(5, 6, 9) > 0.5
    codes = [RleEntry((6, 9), each["counts"]) for each in rle.encode(masks)]
    codes[1].counts = [4, 50]
    sizes = np.array([[6, 9]] * 5, np.int32)
    areas = masks.sum((1, 2)).tolist()
    areas[1] = 50
    assert _areas(codes, sizes) == areas
    assert not looked or rle.compiled() is None
    codes[2].counts, codes[4].size = "0P", (9, 6)
    found = _areas(codes, sizes)
    assert [found[at] for at in (0, 1, 3)] == [areas[at] for at in (0, 1, 3)]
    assert "cut off" in str(found[2]) and "of size [9, 6]" in str(found[4])
