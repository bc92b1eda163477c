"""Predictions written for annotation tools come back through --data as the objects that they were."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from PIL import Image

from common.data.coco import CocoDataset
from common.errors import UserError
from common.ops import masks as rle
from common.ops.masks import encode
from common.ops.outlines import Mask, outlines
from common.run.settings import Data
from maskworks.own_data import found, splits
from maskworks.own_data.correcting import PredictToCorrect, refuse_to_replace, to_correct

HEIGHT, WIDTH = 90, 120
FORMATS = ["coco", "labelme", "yolo", "cvat", "label-images"]


def disc(x: float, y: float, radius: float) -> Mask:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


RING = disc(25, 25, 20) & ~disc(25, 25, 8)
PARTS = disc(80, 20, 12) | disc(80, 60, 15)
HOLES_IN_PARTS = (disc(20, 70, 12) & ~disc(17, 70, 4)) | (disc(50, 70, 10) & ~disc(52, 70, 3))
MASKS = {
    "ring": ("cell", RING),
    "parts": ("dog", PARTS),
    "both": ("cell", HOLES_IN_PARTS),
    "corner": ("dog", disc(119, 0, 9)),
}


def predictions(folder: Path, masks: bool = True) -> Path:
    """What predict.py leaves of two pictures of one name in two folders; one object scores too little."""
    images, annotations = [], []
    for number, (place, objects) in enumerate({"a": list(MASKS.values()), "b": [("dog", RING)]}.items(), start=1):
        picture = folder / place / "one.png"
        picture.parent.mkdir(parents=True)
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(picture)
        images.append({"id": number, "file_name": str(picture), "height": HEIGHT, "width": WIDTH})
        for score, (label, mask) in zip((0.9, 0.8, 0.7, 0.6), objects, strict=False):
            code = encode(mask[None])[0]
            entry = {"image_id": number, "category_id": {"cell": 3, "dog": 7}[label], "score": score}
            entry |= {"bbox": rle.boxes([code])[0].tolist()} | ({"segmentation": code} if masks else {})
            annotations.append(entry)
    annotations.append(annotations[0] | {"score": 0.2})
    categories = [{"id": 3, "name": "cell"}, {"id": 7, "name": "dog"}]
    (folder / "out").mkdir()
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "out/predictions.json").write_text(json.dumps(content))
    return folder / "out"


def written(folder: Path, kind: Any, masks: bool = True, rectangles: bool = False) -> CocoDataset:
    """What --data makes of predictions that were written in a format."""
    out = predictions(folder, masks)
    options = PredictToCorrect(images=[], weights="", out=str(out), format=kind)
    refuse_to_replace(options)
    assert to_correct(out, options) == out
    reading = found.read(out / kind, rectangles)
    named = splits.written("data", {"train": reading.train})["train"]
    return CocoDataset(named.images, named.annotations)


def test_no_format_writes_nothing(tmp_path: Path) -> None:
    out = predictions(tmp_path)
    assert to_correct(out, PredictToCorrect(images=[], weights="", out=str(out))) == out
    assert [path.name for path in out.iterdir()] == ["predictions.json"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_written_folder_is_read_back_with_the_same_objects(tmp_path: Path, kind: str, capsys: Any) -> None:
    data = written(tmp_path, kind)
    assert ("label images have no classes" in capsys.readouterr().out) == (kind == "label-images")
    assert len(data) == 2
    expected = {1: list(MASKS.values()), 2: [("dog", RING)]}
    for sample in (data[0], data[1]):
        objects = expected[int(sample.image[0, 0, 0])]
        names = [data.class_names[label] for label in sample.labels]
        assert sorted(names) == sorted("object" if kind == "label-images" else label for label, _ in objects)
        for name, mask in objects:
            own = [m for n, m in zip(names, sample.masks, strict=True) if n in (name, "object")]
            best = max((m & mask).sum() / (m | mask).sum() for m in own)
            assert best == 1 if kind == "label-images" else best >= 0.95


@pytest.mark.parametrize("name", MASKS)
def test_outlines_are_short_and_cover_the_mask_holes_and_parts_among_them(name: str) -> None:
    mask = MASKS[name][1]
    drawn = outlines(mask)
    assert len(drawn) == {"ring": 1, "parts": 2, "both": 2, "corner": 1}[name]
    covered = rle.decode([rle.from_polygons([each.ravel().tolist() for each in drawn], HEIGHT, WIDTH)])[0]
    assert (covered & mask).sum() / (covered | mask).sum() >= 0.95
    assert sum(map(len, drawn)) < 80


def test_any_mask_comes_back_at_least_nearly_and_tiny_ones_wholly() -> None:
    random = np.random.RandomState(0)
    for size in (1, 2, 3, 5, 8, 16, 40):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[10 : 10 + size, 20 : 20 + size] = random.rand(size, size) < 0.7
        mask[10, 20] = True
        code = rle.from_polygons([each.ravel().tolist() for each in outlines(mask)], HEIGHT, WIDTH)
        overlap = rle.iou(encode(mask[None]), [code], np.zeros(1, bool))[0, 0]
        assert overlap >= (1 if size <= 8 else 0.95), size


@pytest.mark.parametrize("kind", ["coco", "labelme", "yolo", "cvat"])
def test_boxes_come_back_as_boxes(tmp_path: Path, kind: str) -> None:
    data = written(tmp_path, kind, masks=False, rectangles=True)
    by_value = {int(sample.image[0, 0, 0]): sample for sample in (data[0], data[1])}
    assert len(by_value[1].boxes) == 4
    assert by_value[2].boxes[0] == pytest.approx([5, 5, 46, 46], abs=1e-3)


def test_boxes_have_no_label_images_and_corrected_files_stay(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="boxes have no pixels"):
        written(tmp_path / "boxes", "label-images", masks=False)
    written(tmp_path / "masks", "labelme")
    options = PredictToCorrect(images=[], weights="", out=str(tmp_path / "masks/out"), format="labelme")
    with pytest.raises(UserError, match="perhaps corrected ones"):
        refuse_to_replace(options)


@pytest.mark.parametrize("package", ["solov2", "yolact", "maskrcnn", "refinemask_psg", "glip"])
def test_the_commands_of_instance_models_write_it(package: str, tmp_path: Path, monkeypatch: Any) -> None:
    """With the network's work done before: what predictions leave is there."""
    command = import_module(f"{package}.predict")
    out = predictions(tmp_path, masks=package != "glip")
    nothing = SimpleNamespace(class_names=(), category_ids=(), scene_graph=None, names=(), config=MagicMock())
    nothing.config.data = Data()
    monkeypatch.setattr(import_module(package), "load", lambda _, device: nothing)
    monkeypatch.setattr(command, "local_file", lambda name: name)
    monkeypatch.setattr(command, "predict", lambda *_, **__: out)
    monkeypatch.setattr(command.report, "of_predictions", lambda folder: folder)
    monkeypatch.setattr(command, "chosen_prompt", lambda *_: nothing, raising=False)
    line = ["predict.py", "a", "--weights", "w", "--out", str(out), "--format", "cvat", "--threshold", "0.65"]
    monkeypatch.setattr(sys, "argv", line)
    command.main()
    content = json.loads((out / "cvat/annotations/instances_default.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["one.png", "one-2.png"]
    assert len(content["annotations"]) == 4  # one has less than --threshold
    with pytest.raises(UserError, match="perhaps corrected ones"):
        command.main()


def test_labelme_has_the_parts_of_an_object_in_one_group_with_its_score(tmp_path: Path) -> None:
    written(tmp_path, "labelme")
    content = json.loads((tmp_path / "out/labelme/one.json").read_text())
    groups = [(shape["label"], shape["group_id"], shape["description"]) for shape in content["shapes"]]
    assert groups == [
        *[("cell", None, "0.900"), ("dog", 2, "0.800"), ("dog", 2, "0.800"), ("cell", 3, "0.700")],
        *[("cell", 3, "0.700"), ("dog", None, "0.600")],
    ]
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("one.png", HEIGHT, WIDTH)
