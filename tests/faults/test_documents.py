"""Annotation files that ask for too much, or for what cannot be."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.data.coco import CocoDataset
from common.errors import UserError
from common.ops import masks as rle
from tests.common.coco_example import HEIGHT, WIDTH, annotation, content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "deep/b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return tmp_path


def load(folder: Path, data: Any) -> CocoDataset:
    (folder / "instances.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return CocoDataset([folder], [folder / "instances.json"])


def test_a_polygon_of_a_million_corners_is_drawn_as_the_shape_it_is(folder):
    angles = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    circle = np.stack((16 + 8 * np.cos(angles), 12 + 8 * np.sin(angles)), axis=1)
    data = content()
    data["annotations"] = [annotation(1, segmentation=[circle.round(6).ravel().tolist()])]
    mask = load(folder, data)[0].masks[0]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(columns - 16, rows - 12)
    assert mask[distance < 7].all()
    assert not mask[distance > 9].any()


def test_a_polygon_that_runs_to_and_fro_without_end_is_refused(folder):
    data = content()
    data["annotations"] = [annotation(1, segmentation=[[0, 0, 1_000_000, 1_000_000] * 50])]
    with pytest.raises(UserError, match=r"annotation 1: the polygons' outlines are longer than"):
        load(folder, data)[0]


@pytest.mark.parametrize("size", [-1, 0, 2**31, 1e300, "wide", None, [5]])
@pytest.mark.parametrize("side", ["width", "height"])
def test_images_of_impossible_sizes_are_named(folder, size, side):
    data = content()
    data["images"][0][side] = size
    with pytest.raises(UserError, match=rf"image 5: .*{side}"):
        load(folder, data)


def test_an_image_said_to_be_huge_takes_no_memory(folder):
    data = content()
    data["images"][0].update(width=2**31 - 1, height=2**31 - 1)
    with pytest.raises(UserError, match=r"the image is 32 x 24, but its annotation file says 2147483647 x 2147483647"):
        load(folder, data)[0]
    with pytest.raises(UserError, match="at most"):
        rle.decode([{"size": [2**31 - 1, 2**31 - 1], "counts": "0"}])


@pytest.mark.parametrize("entry", [{"bbox": [0, 0, 1e300, 5]}, {"keypoints": [1e300, 1, 2]}, {"id": -1}, {"id": 2**60}])
def test_numbers_that_no_picture_has_are_named(folder, entry):
    data = content()
    data["annotations"][0].update(entry)
    with pytest.raises(UserError, match=rf"annotation {entry.get('id', 1)}: "):
        load(folder, data)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + '{"a": ' * 100_000, '{"images": [' + "1" * 100_000])
def test_nesting_and_numbers_without_end_are_no_crash(folder, text):
    with pytest.raises(UserError, match=r"instances\.json: "):
        load(folder, text)
