"""labelme's files become a COCO file that the loader and the doctor accept; what cannot, is named."""

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.data.coco import CocoDataset
from common.errors import UserError
from maskworks.own_data.labelme import circle
from scripts.check_dataset import examine
from scripts.labelme2coco import Convert, convert, main
from tests.running import status

HEIGHT, WIDTH = 40, 60
TRIANGLE = [[5, 5], [25, 5], [5, 25]]


def shape(label: str, points: Any, kind: str = "polygon", group: int | None = None) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": group, "flags": {}}


def save(path: Path, shapes: list[dict[str, Any]], image: str | None = None, **changes: Any) -> None:
    """A labelme file, and its image beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imageData": "A" * 100}
    content |= {"imagePath": image or f"{path.stem}.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    path.write_text(json.dumps(content | changes))
    if image is None:
        cv2.imwrite(str(path.with_suffix(".png")), np.zeros((HEIGHT, WIDTH, 3), np.uint8))


def converted(tmp_path: Path, **options: Any) -> dict[str, Any]:
    out = tmp_path / "coco.json"
    convert(Convert(tmp_path / "photos", out, **options))
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_every_shape_with_an_area_becomes_the_mask_it_outlines(tmp_path: Path) -> None:
    save(tmp_path / "photos/a.json", [shape("cat", TRIANGLE), shape("dog", [[50, 30], [40, 10]], "rectangle")])
    save(tmp_path / "photos/deep/b.json", [shape("ball", [[30, 20], [30, 10]], "circle")])
    save(tmp_path / "photos/empty.json", [])
    content = converted(tmp_path)
    assert [image["file_name"] for image in content["images"]] == ["a.png", "deep/b.png", "empty.png"]
    data = CocoDataset([tmp_path / "photos"], [tmp_path / "coco.json"])
    assert data.class_names == ("ball", "cat", "dog")
    cat, dog = data[0].masks
    assert cat.sum() == pytest.approx(200, abs=15)  # half of 20 x 20
    assert dog.sum() == 200
    assert dog[10:30, 40:50].all()
    assert data[0].boxes.tolist() == [[5, 5, 25, 25], [40, 10, 50, 30]]
    ball = data[1].masks[0]
    assert ball.sum() == pytest.approx(np.pi * 100, rel=0.02)
    assert data[1].boxes.tolist() == [[20, 10, 40, 30]]
    annotations, faults = examine(tmp_path / "coco.json", tmp_path / "photos")
    assert faults == []
    assert len(annotations.ids) == 3


def test_shapes_of_a_group_are_pieces_of_one_object(tmp_path: Path) -> None:
    other = [[40, 20], [50, 20], [50, 30]]
    save(tmp_path / "photos/a.json", [shape("cat", TRIANGLE, group=1), shape("cat", other, group=1)])
    save(tmp_path / "photos/b.json", [shape("cat", TRIANGLE, group=1), shape("dog", other, group=1)])
    save(tmp_path / "photos/c.json", [shape("cat", TRIANGLE), shape("cat", other)])
    content = converted(tmp_path)
    assert [entry["image_id"] for entry in content["annotations"]] == [1, 2, 2, 3, 3]  # a label ends a group
    whole = content["annotations"][0]
    assert whole["segmentation"] == [[5, 5, 25, 5, 5, 25], [40, 20, 50, 20, 50, 30]]
    assert whole["bbox"] == [5, 5, 45, 25]
    masks = CocoDataset([tmp_path / "photos"], [tmp_path / "coco.json"])[0].masks
    assert masks.shape[0] == 1
    assert masks[0, 10, 8]
    assert masks[0, 22, 48]
    assert whole["area"] == masks.sum()


def painted(label: str, corner: tuple[int, int], pixels: Any, group: int | None = None) -> dict[str, Any]:
    """A mask as labelme stores it: a PNG of the box, whose corners are pixels."""
    _, data = cv2.imencode(".png", np.array(pixels, np.uint8) * 255)
    (x, y), (height, width) = corner, np.shape(pixels)
    box = [[x, y], [x + width - 1, y + height - 1]]
    return shape(label, box, "mask", group) | {"mask": base64.b64encode(data.tobytes()).decode()}


def test_painted_masks_keep_their_pixels_alone_and_beside_outlines(tmp_path: Path) -> None:
    ring = [[1, 1, 1], [1, 0, 1]]
    corner = painted("cat", (WIDTH - 2, HEIGHT - 1), ring)  # of its first row two pixels are in the image
    save(tmp_path / "photos/a.json", [painted("cat", (4, 7), ring), corner, painted("cat", (-1, -1), ring)])
    together = [painted("cat", (40, 30), ring, 1), shape("cat", [[10, 10], [20, 20]], "rectangle", 1)]
    save(tmp_path / "photos/b.json", together)
    content = converted(tmp_path)
    data = CocoDataset([tmp_path / "photos"], [tmp_path / "coco.json"])
    expected = np.zeros((3, HEIGHT, WIDTH), bool)
    expected[0, 7:9, 4:7] = ring
    expected[1, HEIGHT - 1, WIDTH - 2 :] = True
    expected[2, 0, :2] = (False, True)
    assert np.array_equal(data[0].masks, expected)
    assert data[0].boxes.tolist()[0] == [4, 7, 7, 9]
    both = np.zeros((HEIGHT, WIDTH), bool)
    both[30:32, 40:43] = ring
    both[10:20, 10:20] = True
    assert np.array_equal(data[1].masks, both[None])
    assert content["annotations"][3]["area"] == 105
    assert examine(tmp_path / "coco.json", tmp_path / "photos")[1] == []


def test_what_sticks_out_of_the_image_does_not_widen_the_box(tmp_path: Path) -> None:
    save(tmp_path / "photos/a.json", [shape("cat", [[-10, -10], [12, -10], [12, 8], [-10, 8]])])
    entry = converted(tmp_path)["annotations"][0]
    assert (entry["bbox"], entry["area"]) == ([0, 0, 12, 8], 96)


@pytest.mark.parametrize("radius", [0.01, 0.5, 3.0, 400.0])
def test_a_circles_polygon_stays_within_a_tenth_of_a_pixel(radius: float) -> None:
    corners = circle(np.array([50.0, 50.0]), radius)
    middles = (corners + np.roll(corners, 1, axis=0)) / 2
    assert radius - np.hypot(*(middles - 50).T).min() <= 0.1 + 1e-9
    assert np.hypot(*(corners - 50).T) == pytest.approx(radius)


def test_classes_have_the_order_that_is_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "photos/a.json", [shape("dog", TRIANGLE), shape("cat", TRIANGLE)])
    save(tmp_path / "photos/b.json", [shape("ant", TRIANGLE)])

    def names(**options: Any) -> list[str]:
        return [category["name"] for category in converted(tmp_path, **options)["categories"]]

    assert names() == ["ant", "cat", "dog"]
    assert names(order="appearance") == ["dog", "cat", "ant"]
    assert names(classes=("cat", "bird", "dog", "ant")) == ["cat", "bird", "dog", "ant"]
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\n\nant\ncat\n")
    assert names(classes=(str(tmp_path / "labels.txt"),)) == ["dog", "ant", "cat"]
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read"):
        names(classes=(str(tmp_path / "gone.txt"),))
    with pytest.raises(UserError, match="'cat' twice"):
        names(classes=("cat", "cat"))


def faults(tmp_path: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    """The lines that name what cannot be converted, as seen from the folder of photographs."""
    with pytest.raises(UserError, match="nothing is written"):
        converted(tmp_path, **options)
    assert not (tmp_path / "coco.json").exists()
    return [line.removeprefix(f"{tmp_path}/photos/") for line in capsys.readouterr().err.splitlines()]


def test_every_faulty_file_is_named_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    save(photos / "good.json", [shape("cat", TRIANGLE)])
    save(photos / "line.json", [shape("cat", TRIANGLE), shape("rope", [[1, 1], [2, 2]], "linestrip")])
    save(photos / "few.json", [shape("cat", [[1, 1], [2, 2]])])
    save(photos / "flat.json", [shape("cat", [[1, 1], [1, 1], [1, 1]])])
    save(photos / "huge.json", [shape("cat", [[1e300, 1], [1, 1], [1, 1]])])
    save(photos / "paint.json", [painted("cat", (1, 1), [[0]])])
    save(photos / "large.json", [painted("cat", (1, 1), [[1, 1]]) | {"points": [[1, 1], [9e300, 9]]}])
    save(photos / "bits.json", [painted("cat", (1, 1), [[1]]) | {"mask": "bm8gUE5H"}])
    save(photos / "none.json", [shape("cat", [[1, 1], [2, 2]], "mask")])
    save(photos / "size.json", [shape("cat", TRIANGLE)], imageHeight=41)
    save(photos / "gone.json", [], image="missing.png")
    save(photos / "twice.json", [], image="good.png")
    save(photos / "list.json", [], **{"imagePath": 3})
    (photos / "cut.json").write_text('{"shapes": [')
    (photos / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (photos / "note.png").write_text("no image")
    save(photos / "note.json", [], image="note.png")
    lines = faults(tmp_path, capsys)
    expected = {
        "line.json": "shape 2 ('rope'): a linestrip has no outline",
        "few.json": "shape 1 ('cat'): a polygon of 2 points",
        "flat.json": "object 1 ('cat'): its outline covers no pixel",
        "huge.json": "object 1 ('cat'): polygon 0 has a corner that is not finite or beyond",
        "paint.json": "object 1 ('cat'): its mask covers no pixel",
        "large.json": "shape 1 ('cat'): its mask is 2 x 1 pixels, but its box from 1, 1 to ",
        "bits.json": "shape 1 ('cat'): its mask is not a PNG",
        "none.json": "shape 1 ('cat'): its mask is not a PNG",
        "size.json": f"annotated at {WIDTH} x 41 pixels",
        "gone.json": "imagePath 'missing.png' names no file",
        "twice.json": "its image good.png is that of",
        "list.json": "not a labelme file",
        "cut.json": "broken JSON",
        "coco.json": "not a labelme file",
        "note.json": "not an image",
    }
    assert len(lines) == len(expected)
    for file, problem in expected.items():
        assert [line for line in lines if line.startswith(f"{file}: ") and problem in line], file


def test_faulty_images_are_left_out_only_if_that_is_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "photos/good.json", [shape("cat", TRIANGLE)])
    save(tmp_path / "photos/line.json", [shape("cat", TRIANGLE), shape("rope", [[1, 1], [2, 2]], "line")])
    content = converted(tmp_path, skip_faulty=True)
    assert [image["file_name"] for image in content["images"]] == ["good.png"]
    assert len(content["annotations"]) == 1


def test_a_label_outside_of_the_given_classes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "photos/a.json", [shape("cat", TRIANGLE)])
    assert faults(tmp_path, capsys, classes=("dog",)) == [
        "a.json: its label 'cat' is none of the classes dog; add or correct it"
    ]


@pytest.mark.parametrize("path", ["../secret.png", "..\\secret.png", "inner/../../secret.png", "link.png"])
def test_no_image_path_leads_out_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    save(tmp_path / "photos/a.json", [shape("cat", TRIANGLE)], image=path)
    (tmp_path / "photos/link.png").symlink_to(tmp_path / "secret.png")
    (line,) = faults(tmp_path, capsys)
    assert "leads out of" in line


@pytest.mark.parametrize("path", ["../images/a.png", "..\\images\\a.png"])
def test_labels_and_images_may_be_in_folders_of_one_root(tmp_path: Path, path: str) -> None:
    save(tmp_path / "photos/labels/a.json", [shape("cat", TRIANGLE)], image=path)
    (tmp_path / "photos/images").mkdir()
    cv2.imwrite(str(tmp_path / "photos/images/a.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    convert(Convert(tmp_path / "photos/labels", tmp_path / "coco.json", images=tmp_path / "photos"))
    assert len(CocoDataset([tmp_path / "photos"], [tmp_path / "coco.json"])[0].masks) == 1


def test_the_command_says_what_it_wrote_and_ends_with_2_for_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "photos/a.json", [shape("cat", TRIANGLE)])
    monkeypatch.chdir(tmp_path)
    assert status(main, "photos", "--out", "coco.json", "--classes", "dog", "cat") == 0
    written = "coco.json: 1 images, 1 objects of 2 classes; file_name starts from photos\n"
    assert capsys.readouterr().out == written
    assert status(main, "nowhere", "--out", "coco.json") == 2
    assert capsys.readouterr().err == "error: nowhere: no such folder; check the path\n"
