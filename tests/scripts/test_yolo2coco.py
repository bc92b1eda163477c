"""A data set in YOLO's format becomes COCO files that the loader and the doctor accept; what cannot, is named."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from common.data.coco import CocoDataset
from common.errors import UserError
from scripts.check_dataset import examine
from scripts.yolo2coco import Convert, convert, main
from tests.running import status

HEIGHT, WIDTH = 40, 80
SQUARE = "0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"  # 20..40 x 10..20


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))


def labels(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def make(root: Path, *lines: str, **changes: Any) -> Path:
    """A data set with one training image of these labels and one validation image without any."""
    image(root / "images/train/a.png")
    labels(root / "labels/train/a.txt", *lines)
    image(root / "images/val/b.png")
    content = {"path": ".", "train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}}
    content = {key: value for key, value in (content | changes).items() if value is not None}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return root / "data.yaml"


def converted(data: Path, **options: Any) -> dict[str, dict[str, Any]]:
    out = data.parent / "coco"
    convert(Convert(data, out, **options))
    return {path.stem: json.loads(path.read_text()) for path in sorted(out.iterdir())}


def test_outlines_become_masks_in_pixels(tmp_path: Path) -> None:
    content = converted(make(tmp_path, f"1 {SQUARE}", "0.0 0 0 1 0 1 1"))
    assert set(content) == {"train", "val"}
    assert content["train"]["annotations"][0]["segmentation"] == [[20, 10, 40, 10, 40, 20, 20, 20]]
    data = CocoDataset([tmp_path], [tmp_path / "coco/train.json"])
    assert data.class_names == ("cat", "dog")
    assert data.path(0) == tmp_path / "images/train/a.png"
    assert data[0].labels.tolist() == [1, 0]
    assert data[0].boxes.tolist() == [[20, 10, 40, 20], [0, 0, 80, 40]]
    assert data[0].masks[0].sum() == 200
    assert data[0].masks[0, 10:20, 20:40].all()
    assert data[0].masks[1].sum() == pytest.approx(WIDTH * HEIGHT / 2, rel=0.03)
    annotations, faults = examine(tmp_path / "coco/train.json", tmp_path)
    assert faults == []
    assert len(annotations.ids) == 2
    assert len(CocoDataset([tmp_path], [tmp_path / "coco/val.json"])[0].masks) == 0  # no labels: nothing on it


def test_a_data_set_of_boxes_stays_one_of_boxes(tmp_path: Path) -> None:
    content = converted(make(tmp_path, "0 0.5 0.5 0.5 0.25", "1 0.9 0.5 0.2001 1.0002"))
    first, second = content["train"]["annotations"]
    assert "segmentation" not in first
    assert (first["bbox"], first["area"]) == ([20, 15, 40, 10], 400)
    assert second["bbox"] == [63.996, 0, 16.004, 40]  # what rounding brought over the border is moved back
    assert examine(tmp_path / "coco/train.json", tmp_path)[1] == []
    assert not CocoDataset([tmp_path], [tmp_path / "coco/train.json"]).has_masks


def test_boxes_become_rectangular_masks_if_that_is_asked_for(tmp_path: Path) -> None:
    data = make(tmp_path, f"0 {SQUARE}", "1 0.5 0.5 0.5 0.25")
    converted(data, rectangles=True)
    masks = CocoDataset([tmp_path], [tmp_path / "coco/train.json"])[0].masks
    assert masks.sum(axis=(1, 2)).tolist() == [200, 400]
    assert masks[1, 15:25, 20:60].all()


def faults(data: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    with pytest.raises(UserError, match="nothing is written"):
        converted(data, **options)
    assert not (data.parent / "coco").exists()
    return [line.removeprefix(f"{data.parent}/") for line in capsys.readouterr().err.splitlines()]


def test_every_faulty_line_is_named_with_its_file_and_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "0 0.1 0.2 x 0.3": "could not convert string to float: 'x'",
        "2 0.5 0.5 0.5 0.5": "class 2; expected a whole number from 0 to 1",
        "-1 0.5 0.5 0.5 0.5": "class -1",
        "0.5 0.5 0.5 0.5 0.5": "class 0.5",
        "0 0.1 0.1 0.2": "3 numbers behind the class",
        "0 0.1 0.1 0.2 0.2 0.3": "5 numbers behind the class",
        "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4": "7 numbers behind the class",
        "0": "0 numbers behind the class",
        "0 10 10 40 10 40 20": "reaches to 10; expected fractions",
        "0 nan 0.1 0.2 0.1 0.2 0.2": "reaches to nan",
        "0 0.9 0.5 0.5 0.5": "reaches to 1.15",
        "0 0.5 0.5 0 0.5": "its box has no extent",
        "0 0.5 0.5 0.5 0.5 0.5 0.5": "its outline covers no pixel",
    }
    found = faults(make(tmp_path, f"0 {SQUARE}", "", *wrong), capsys)
    assert len(found) == len(wrong)
    for number, (line, problem) in enumerate(zip(found, wrong.values(), strict=True), start=3):
        assert line.startswith(f"labels/train/a.txt, line {number}: {problem}")


def test_boxes_among_outlines_are_named_since_they_would_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make(tmp_path, f"0 {SQUARE}", "0 0.5 0.5 0.5 0.5")
    (line,) = faults(data, capsys)
    assert line.startswith("labels/train/a.txt, line 2: only a box")
    assert "--rectangles" in line


def test_faulty_images_are_left_out_only_if_that_is_asked_for(tmp_path: Path) -> None:
    data = make(tmp_path, f"0 {SQUARE}")
    image(tmp_path / "images/train/bad.png")
    labels(tmp_path / "labels/train/bad.txt", "7 1 2 3")
    content = converted(data, skip_faulty=True)
    assert [entry["file_name"] for entry in content["train"]["images"]] == ["images/train/a.png"]


def test_labels_and_images_that_cannot_be_read_or_have_no_other_half_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make(tmp_path, f"0 {SQUARE}")
    labels(tmp_path / "labels/train/lost.txt", f"0 {SQUARE}")
    labels(tmp_path / "labels/train/classes.txt", "cat", "dog")
    (tmp_path / "images/train/text.jpg").write_text("no image")
    image(tmp_path / "images/train/coded.png")
    (tmp_path / "labels/train/coded.txt").write_bytes(b"\xff\xfe0")
    lost, coded, text = faults(data, capsys)
    assert lost.startswith("labels/train/lost.txt: there is no image for these labels")
    assert coded.startswith("labels/train/coded.txt: cannot be read")
    assert text.startswith("images/train/text.jpg: not an image")


@pytest.mark.parametrize(
    "changes",
    [
        {"path": None},
        {"names": ["cat", "dog"]},
        {"train": ["images/train"], "val": None},
        {"path": None, "train": "../images/train", "val": "../images/val"},  # as some programs write it
        {"train": "train.txt"},
        {"train": ["images/train", "./images/train"]},
    ],
)
def test_the_forms_of_data_yaml_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = make(tmp_path, f"0 {SQUARE}", **changes)
    (tmp_path / "train.txt").write_text("./images/train/a.png\n\n")
    content = converted(data)["train"]
    assert [entry["file_name"] for entry in content["images"]] == ["images/train/a.png"]
    assert [entry["name"] for entry in content["categories"]] == ["cat", "dog"]
    assert len(content["annotations"]) == 1


def test_labels_may_lie_beside_images(tmp_path: Path) -> None:
    image(tmp_path / "train/a.jpg")
    labels(tmp_path / "train/a.txt", f"0 {SQUARE}")
    (tmp_path / "data.yaml").write_text("train: train\nnames: [cat]\n")
    assert len(converted(tmp_path / "data.yaml")["train"]["annotations"]) == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"path": "../elsewhere"}, "leads out of the file's folder; if that is meant: --root ../elsewhere"),
        ({"path": "/"}, "leads out of the file's folder"),
        ({"path": "missing"}, "there is no folder"),
        ({"train": "../../etc"}, "leads out of"),
        ({"train": "images/none"}, "no such folder or list of images"),
        ({"train": "labels/train"}, "no image in this folder"),
        ({"train": 3}, "train cannot be used"),
        ({"train": None, "val": None}, "none of train, val, test in it"),
        ({"names": None}, "no `names` in it"),
        ({"names": {1: "cat", 2: "dog"}}, "the numbers in names are not 0 to 1"),
        ({"names": [["cat"]]}, "names cannot be used"),
    ],
)
def test_a_data_yaml_that_cannot_be_used_is_explained(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    data = make(tmp_path / "set", f"0 {SQUARE}", **changes)
    with pytest.raises(UserError) as caught:
        converted(data)
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["names: [", "- a", "names: !!python/object/apply:os.getcwd []"])
def test_a_file_that_is_no_description_is_refused_and_runs_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=r"data\.yaml"):
        converted(tmp_path / "data.yaml")


def test_a_listed_image_outside_of_the_root_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / "secret.png")
    data = make(tmp_path / "set", f"0 {SQUARE}", train="train.txt")
    (tmp_path / "set/train.txt").write_text("images/train/a.png\n../secret.png\n")
    (line,) = faults(data, capsys)
    assert line.startswith("train.txt, line 2: '../secret.png' is no file in")


def test_the_root_may_be_elsewhere_if_the_user_says_so(tmp_path: Path) -> None:
    data = make(tmp_path / "set", f"0 {SQUARE}", path="/somewhere/else")
    moved = tmp_path / "description.yaml"
    data.rename(moved)
    convert(Convert(moved, tmp_path / "coco", root=tmp_path / "set"))
    assert len(CocoDataset([tmp_path / "set"], [tmp_path / "coco/train.json"])) == 1


def test_the_command_says_what_it_wrote_and_ends_with_2_for_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, f"0 {SQUARE}")
    monkeypatch.chdir(tmp_path)
    assert status(main, "data.yaml", "--out", "coco") == 0
    first = "coco/train.json: 1 images, 1 objects of 2 classes; file_name starts from ."
    assert capsys.readouterr().out.splitlines()[0] == first
    assert status(main, "none.yaml", "--out", "coco") == 2
    assert capsys.readouterr().err.startswith("error: none.yaml: cannot be read")
