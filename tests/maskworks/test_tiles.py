"""Large pictures in tiles: what each shows to train on; and that what is found in them is what the whole shows."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from common.data.coco import CocoDataset
from common.errors import UserError
from common.ops import masks as rle
from common.results import Instances
from common.run.settings import Data
from maskworks.own_data.tile_joining import from_part, in_tiles
from maskworks.own_data.tile_prediction import PredictInTiles, chosen_tiling
from maskworks.own_data.tiles import TiledDataset, Tiling, Window
from maskworks.prediction.command import Predict
from maskworks.prediction.files import instance_map

Pixels = NDArray[np.uint8]
Json = dict[str, Any]
NAMES = ("cell", "spot")


# --- where tiles lie


@pytest.mark.parametrize("length", [1, 99, 100, 101, 181, 250, 1037])
@pytest.mark.parametrize("overlap", [0, 20, 50])
def test_tiles_cover_a_picture_are_of_one_size_and_share_what_they_should(length: int, overlap: int) -> None:
    windows = Tiling(100, overlap).windows(length, 60)
    assert {(window.left, window.right) for window in windows} == {(0, 60)}
    assert (windows[0].top, windows[-1].bottom) == (0, length)
    assert {window.bottom - window.top for window in windows} == {min(length, 100)}
    for one, other in pairwise(windows):
        assert one.top < other.top <= one.bottom - overlap
    assert len(windows) == max(1, -(-(length - overlap) // (100 - overlap)))  # no more than needed


def test_senseless_tiles_are_refused() -> None:
    assert Tiling.of(0, 128) is None
    for tile, overlap in ((-5, 0), (100, -1), (100, 51)):
        with pytest.raises(UserError, match=f"--tile {tile} --overlap {overlap}: expected"):
            Tiling.of(tile, overlap)


def test_prediction_takes_the_tiles_of_training_unless_it_is_told_otherwise() -> None:
    trained = Data(tile=1024, overlap=64)
    plain, cut = Predict([], ""), PredictInTiles([], "")
    assert chosen_tiling(plain, trained) == chosen_tiling(cut, trained) == Tiling(1024, 64)
    assert chosen_tiling(replace(cut, tile=512), trained) == Tiling(512, 64)
    assert chosen_tiling(replace(cut, tile=0), trained) is chosen_tiling(cut, Data()) is None
    assert chosen_tiling(replace(cut, tile=512, overlap=8), Data()) == Tiling(512, 8)
    with pytest.raises(UserError, match="--overlap 8: nothing is cut"):
        chosen_tiling(replace(cut, overlap=8), Data())


# --- what a tile shows


def write_json(path: Path, content: Json) -> Path:
    path.write_text(json.dumps(content))
    return path


def square(top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((100, 180), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.fixture
def tiled(tmp_path: Path) -> TiledDataset:
    """A picture of 100 x 180 in two tiles of 100 that share 20 columns, 80 to 100, and one that is no larger."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 180, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    Image.fromarray(pixels[:30, :40]).save(tmp_path / "small.png")
    images = [
        {"id": 7, "file_name": "large.png", "height": 100, "width": 180},
        {"id": 8, "file_name": "small.png", "height": 30, "width": 40},
    ]
    outline = [[60.0, 60, 120, 60, 120, 80, 60, 80]]
    objects = [
        {"segmentation": rle.encode(square(10, 10, 20)[None])[0], "bbox": [9.5, 10, 20.5, 20]},  # in the first
        {"segmentation": rle.encode(square(40, 90, 40)[None])[0], "bbox": [90, 40, 40, 40]},  # a quarter in the first
        {"segmentation": rle.encode(square(0, 97, 30)[None])[0], "bbox": [97, 0, 30, 30]},  # a tenth in the first
        {"segmentation": outline, "bbox": [60, 60, 60, 20]},  # two thirds in each
    ]
    entries = [
        entry | {"id": at, "image_id": 7, "category_id": 1, "area": 400, "iscrowd": 0}
        for at, entry in enumerate(objects, start=1)
    ]
    entries.append(entries[0] | {"id": 9, "image_id": 8})
    entries[-1]["segmentation"] = [[1, 1, 9, 1, 9, 9, 1, 9]]
    content = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "cell"}]}
    return TiledDataset(CocoDataset([tmp_path], [write_json(tmp_path / "a.json", content)]), Tiling(100, 20))


def test_objects_are_cut_and_small_remnants_left_out(tiled: TiledDataset) -> None:
    left, right, small = (tiled[index] for index in range(3))
    whole = tiled.dataset[0]
    assert (len(tiled), tiled.cut, tiled.sizes.tolist()) == (3, 1, [[100, 100], [100, 100], [30, 40]])
    np.testing.assert_array_equal(left.image, whole.image[:, :100])
    np.testing.assert_array_equal(right.image, whole.image[:, 80:])
    assert left.boxes.tolist() == [[9.5, 10, 30, 30], [90, 40, 100, 80], [60, 60, 100, 80]]
    assert right.boxes.tolist() == [[10, 40, 50, 80], [17, 0, 47, 30], [0, 60, 40, 80]]
    np.testing.assert_array_equal(left.masks, whole.masks[[0, 1, 3], :, :100])
    np.testing.assert_array_equal(right.masks, whole.masks[[1, 2, 3], :, 80:])
    for one, other in zip(vars(small).values(), vars(tiled.dataset[1]).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [tiled.path(index).name for index in range(3)] == ["large.png", "large.png", "small.png"]


def test_outlines_go_with_the_objects_of_a_tile(tiled: TiledDataset) -> None:
    outlines = tiled.polygons(1)
    assert [len(own) for own in outlines] == [0, 0, 1]
    assert outlines[2][0].tolist() == [[-20, 60], [40, 60], [40, 80], [-20, 80]]


def test_of_what_is_far_larger_than_a_tile_every_part_counts(tmp_path: Path) -> None:
    Image.new("RGB", (1000, 50)).save(tmp_path / "a.png")
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1000, 50], "area": 50_000, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 50, "width": 1000}],
        "annotations": [entry | {"segmentation": [[0, 0, 1000, 0, 1000, 50, 0, 50]]}],
        "categories": [{"id": 1, "name": "road"}],
    }
    road = TiledDataset(CocoDataset([tmp_path], [write_json(tmp_path / "a.json", content)]), Tiling(100, 0))
    assert [road[index].boxes.tolist() for index in range(10)] == [[[0, 0, 100, 50]]] * 10


def test_boxes_without_masks_are_cut_by_their_area(tmp_path: Path) -> None:
    Image.new("RGB", (180, 100)).save(tmp_path / "a.png")
    boxes = [[95, 50, 20, 10], [97, 0, 30, 30], [0, 0, 180, 100]]
    entry = {"image_id": 1, "category_id": 1, "area": 200, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 180}],
        "annotations": [entry | {"id": at, "bbox": box} for at, box in enumerate(boxes, start=1)],
        "categories": [{"id": 1, "name": "cell"}],
    }
    tiles = TiledDataset(CocoDataset([tmp_path], [write_json(tmp_path / "a.json", content)]), Tiling(100, 20))
    assert tiles[0].boxes.tolist() == [[95, 50, 100, 60], [0, 0, 100, 100]]
    assert tiles[1].boxes.tolist() == [[15, 50, 35, 60], [17, 0, 47, 30], [0, 0, 100, 100]]
    assert not tiles[1].masks.any()


# --- what is found in tiles


def answers(image: Pixels, *, by_parts: bool = True) -> Instances:
    """A model whose answers are known: every colour is an object, and where it shows in several parts, each is one."""
    found = []
    for colour in np.unique(image.reshape(-1, 3), axis=0).tolist():
        if not any(colour):
            continue
        mask = (image == colour).all(axis=2)
        count, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4) if by_parts else (2, mask)
        found += [(colour, numbers == number) for number in range(1, count)]
    found.sort(key=lambda each: -each[0][0])
    masks = np.array([mask for _, mask in found], bool).reshape(-1, *image.shape[:2])
    corners = np.array([[*np.argwhere(mask).min(0)[::-1], *np.argwhere(mask).max(0)[::-1] + 1] for mask in masks])
    return Instances(
        scores=torch.tensor([colour[0] / 256 for colour, _ in found]),
        labels=torch.tensor([colour[1] for colour, _ in found], dtype=torch.int64),
        boxes=torch.from_numpy(corners.reshape(-1, 4)).float(),
        masks=torch.from_numpy(masks),
        size=(image.shape[0], image.shape[1]),
        class_names=NAMES,
    )


def predict(images: Sequence[Pixels]) -> list[Instances]:
    return [answers(image) for image in images]


def scene() -> Pixels:
    """Objects within tiles of 100, across one seam and several, at corners and picture's edges, and touching others."""
    image = np.zeros((260, 330, 3), np.uint8)
    shapes = [
        (slice(5, 25), slice(5, 25)),  # within one tile
        (slice(70, 120), slice(60, 110)),  # across a corner
        (slice(30, 40), slice(0, 330)),  # from edge to edge: in every column of tiles
        (slice(40, 60), slice(70, 95)),  # touches the last one, and a neighbour:
        (slice(40, 60), slice(95, 120)),
        (slice(86, 90), slice(150, 154)),  # small, where tiles share pixels
        (slice(130, 240), slice(120, 128)),  # two legs ...
        (slice(130, 240), slice(200, 208)),
        (slice(240, 250), slice(120, 208)),  # ... and what joins them
        (slice(150, 151), slice(0, 90)),  # a line
        (slice(200, 259), slice(300, 330)),  # at the picture's end
    ]
    for number, place in enumerate(shapes):
        colour = 7 if number in {6, 7, 8} else number + 1  # the legs are one object
        image[place] = (20 * colour, colour % 2, colour)
    return image


@pytest.mark.parametrize(("tile", "overlap"), [(100, 20), (100, 50), (64, 16), (128, 4), (259, 30)])
def test_joined_tiles_find_what_the_whole_picture_shows(tile: int, overlap: int) -> None:
    image = scene()
    whole = answers(image)
    found = in_tiles(predict, image, Tiling(tile, overlap))
    assert found.scores.tolist() == pytest.approx(whole.scores.tolist())
    assert found.labels.tolist() == whole.labels.tolist()
    assert found.boxes.tolist() == whole.boxes.tolist()
    assert found.to_coco(1, (1, 2)) == whole.to_coco(1, (1, 2))
    np.testing.assert_array_equal(instance_map(found), instance_map(whole))
    np.testing.assert_array_equal(np.asarray(found.draw(image)), np.asarray(whole.draw(image)))
    best = found.select(found.scores > 0.5)
    assert best.to_coco(1, (1, 2)) == whole.select(whole.scores > 0.5).to_coco(1, (1, 2))


def test_a_picture_no_larger_than_a_tile_is_predicted_as_ever() -> None:
    image = scene()
    seen: list[Sequence[Pixels]] = []
    found = in_tiles(lambda images: seen.append(images) or predict(images), image, Tiling(330, 100))
    assert seen[0][0] is image
    assert found.masks is not None
    assert in_tiles(predict, np.zeros((300, 300, 3), np.uint8), Tiling(100, 20)).to_coco(1, (1, 2)) == []


def test_boxes_alone_are_joined_too() -> None:
    image = scene()[62:]  # without what touches and what has legs: boxes don't tell these
    image[image[..., 2] == 7] = 0

    def boxes(images: Sequence[Pixels]) -> list[Instances]:
        return [replace(answers(each, by_parts=False), masks=None) for each in images]

    found, whole = in_tiles(boxes, image, Tiling(100, 20)), boxes([image])[0]
    assert found.codes is None
    assert found.to_coco(1, (1, 2)) == whole.to_coco(1, (1, 2))


def test_what_a_seam_cuts_is_left_to_the_tile_that_shows_it_whole() -> None:
    """The first tile sees only a sliver of what the second has whole, and it sees the sliver too small."""
    image = np.zeros((100, 180, 3), np.uint8)
    image[40:70, 85:120] = (200, 0, 1)

    def sees(images: Sequence[Pixels]) -> list[Instances]:
        found = predict(images)[0]
        if images[0][50, 99].any():  # of the first tile, whose last column it touches
            found.masks[:, :, :95] = False
            found.scores -= 0.1
        return [found]

    found = in_tiles(sees, image, Tiling(100, 20))
    assert [entry["bbox"] for entry in found.to_coco(1, (1, 2))] == [[85, 40, 35, 30]]


def test_a_part_that_lies_in_a_larger_find_is_dropped_and_classes_stay_apart() -> None:
    """The second tile sees an object far too flat, so that the masks don't agree where both tiles look."""
    image = np.zeros((100, 180, 3), np.uint8)
    image[40:70, 60:110] = (200, 0, 1)

    def sees(images: Sequence[Pixels]) -> list[Instances]:
        found = predict(images)[0]
        if images[0][50, 0].any():  # of the second tile, whose first column it touches
            found.masks[:, 50:] = False
        return [found]

    found = in_tiles(sees, image, Tiling(100, 20))
    assert [entry["bbox"] for entry in found.to_coco(1, (1, 2))] == [[60, 40, 40, 30]]

    def sees_another_class(images: Sequence[Pixels]) -> list[Instances]:
        found = sees(images)[0]
        found.labels += int(images[0][50, 0].any())
        return [found]

    assert len(in_tiles(sees_another_class, image, Tiling(100, 20))) == 2


def test_a_part_becomes_the_code_of_the_whole() -> None:
    random = np.random.default_rng(0)
    for height, width in [(6, 5), (1, 7), (7, 1)]:
        for _ in range(60):
            whole = np.zeros((height, width), bool)
            top, left = random.integers(height), random.integers(width)
            part = (
                random.random((random.integers(top, height) - top + 1, random.integers(left, width) - left + 1)) < 0.7
            )
            whole[top : top + part.shape[0], left : left + part.shape[1]] = part
            assert from_part(part, top, left, height, width) == rle.encode(whole[None])[0]


def test_windows_share_what_lies_in_both() -> None:
    assert Window(0, 0, 10, 10).common(Window(5, 8, 20, 9)) == Window(5, 8, 10, 9)
    empty = Window(0, 0, 10, 10).common(Window(12, 3, 20, 9))
    assert empty.bottom <= empty.top
