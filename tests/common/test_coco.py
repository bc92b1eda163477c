"""CocoDataset against pycocotools: content, unions, workers."""

import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as oracle
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from common.data.coco import CocoDataset
from common.errors import UserError
from tests.common.coco_example import (
    HEIGHT,
    TRIANGLE,
    WIDTH,
    annotation,
    assert_same,
    compressed,
    content,
    load,
    make_mask,
    write,
)


def test_samples_hold_what_the_file_says(images: Path) -> None:
    dataset = load(images, content())
    assert len(dataset) == 3
    assert dataset.class_names == ("person", "cat")
    assert dataset.category_ids == (3, 17)
    assert dataset.image_ids.tolist() == [5, 2, 90]
    assert dataset.sizes.tolist() == [[HEIGHT, WIDTH]] * 3
    assert dataset.empty_images == 1
    sample = dataset[1]
    assert (sample.image_id, sample.path) == (2, images / "deep/b.png")
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.labels.tolist() == [1, 0]
    assert sample.crowd.tolist() == [True, False]
    np.testing.assert_array_equal(sample.boxes, np.array([[2, 2, 20.5, 18]] * 2, np.float32))
    assert sample.keypoints is None
    assert dataset[-1].image_id == 90
    with pytest.raises(IndexError):
        dataset[3]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_masks_of_every_kind_equal_pycocotools(images: Path) -> None:
    dataset = load(images, content())
    coco = COCO(images.parent / "annotations.json")
    compared = 0
    for sample in (dataset[i] for i in range(len(dataset))):
        expected = [coco.annToMask(each).astype(bool) for each in coco.imgToAnns[sample.image_id]]
        assert sample.masks.dtype == bool
        assert len(sample.masks) == len(expected)
        for mask, wanted in zip(sample.masks, expected, strict=True):
            np.testing.assert_array_equal(mask, wanted)
            compared += 1
    assert compared == 4
    np.testing.assert_array_equal(dataset[1].masks[0], make_mask().astype(bool))


def test_an_image_without_annotations_is_an_empty_sample(images: Path) -> None:
    sample = load(images, content())[2]
    assert sample.boxes.shape == (0, 4)
    assert sample.masks.shape == (0, HEIGHT, WIDTH)
    assert sample.labels.dtype == np.int64
    assert load(images, content(), keep_empty=False).image_ids.tolist() == [5, 2]


def test_limit_takes_the_first_images(images: Path) -> None:
    whole, one = load(images, content()), load(images, content(), limit=1)
    assert one.image_ids.tolist() == [5]
    assert_same(one[0], whole[0])
    assert [each["id"] for each in one.annotations_json()["annotations"]] == [1, 8]
    with pytest.raises(UserError, match="limit 0"):
        load(images, content(), limit=0)


def test_evaluation_gets_the_file_back(images: Path) -> None:
    data = content()
    answer = load(images, data).annotations_json()
    assert answer["images"] == data["images"]
    assert [(each["id"], each["name"]) for each in answer["categories"]] == [(3, "person"), (17, "cat")]
    by_id = {each["id"]: each for each in answer["annotations"]}
    assert set(by_id) == {1, 70, 8, 9}
    for each in data["annotations"]:
        kept = dict(by_id[each["id"]])
        if each["id"] == 70:  # comes back compressed
            assert kept.pop("segmentation") == compressed()
            each.pop("segmentation")
        assert kept == each


def test_a_missing_area_is_the_masks(images: Path) -> None:
    data = content()
    for each in data["annotations"]:
        del each["area"]
    areas = {each["id"]: each["area"] for each in load(images, data).annotations_json()["annotations"]}
    assert areas[9] == areas[70] == make_mask().sum()


def test_a_union_numbers_images_and_annotations_anew(images: Path) -> None:
    first, second = content(), content()
    second["images"] = second["images"][:1]
    second["annotations"] = [annotation(1, category=17)]
    files = [write(images, first, "first.json"), write(images, second, "second.json")]
    dataset = CocoDataset([images], files)
    assert dataset.image_ids.tolist() == [1, 2, 3, 4]
    assert [dataset[i].labels.tolist() for i in range(4)] == [[0, 1], [1, 0], [], [1]]
    alone = CocoDataset([images], [files[1]])[0]
    np.testing.assert_array_equal(dataset[3].masks, alone.masks)
    answer = dataset.annotations_json()
    assert [each["image_id"] for each in answer["annotations"]] == [1, 1, 2, 2, 4]
    assert len({each["id"] for each in answer["annotations"]}) == 5
    assert 0 not in {each["id"] for each in answer["annotations"]}


def test_a_union_pairs_folders_with_files(images: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png", "c.png"):
        cv2.imwrite(str(other / name), np.full((HEIGHT, WIDTH, 3), 7, np.uint8))
    file = write(images, content())
    dataset = CocoDataset([images, other], [file, file])
    assert dataset.path(0) == images / "a.png"
    assert dataset.path(3) == other / "a.png"
    assert (dataset[3].image == 7).all()
    with pytest.raises(UserError, match="2 images folders for 1 annotation files"):
        CocoDataset([images, other], [file])


def test_a_union_needs_the_same_categories(images: Path) -> None:
    other = content()
    other["categories"][0]["name"] = "dog"
    files = [write(images, content(), "first.json"), write(images, other, "second.json")]
    with pytest.raises(UserError, match=r"second\.json: its categories are not those.*cat.*dog"):
        CocoDataset([images], files)


def test_keypoints_are_read_where_there_are_some(images: Path) -> None:
    data = content()
    data["annotations"][0]["keypoints"] = [1, 2, 2, 3.5, 4, 1, 0, 0, 0]
    dataset = load(images, data)
    keypoints = dataset[0].keypoints
    assert keypoints is not None
    assert keypoints.tolist() == [[[1, 2, 2], [3.5, 4, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    entry = dataset.annotations_json()["annotations"][0]
    assert entry["keypoints"] == [1, 2, 2, 3.5, 4, 1, 0, 0, 0]
    assert entry["num_keypoints"] == 2


def test_files_with_boxes_only_keep_all_annotations(images: Path) -> None:
    data = content()
    data["annotations"] = [annotation(1, segmentation=...), annotation(2, segmentation=[])]
    dataset = load(images, data)
    assert not dataset.has_masks
    assert dataset[0].masks.shape == (2, HEIGHT, WIDTH)
    assert not dataset[0].masks.any()
    assert all("segmentation" not in each for each in dataset.annotations_json()["annotations"])


def test_id_0_and_loosely_typed_numbers_are_fine(images: Path) -> None:
    data = content()
    data["annotations"][0] |= {"id": 0, "iscrowd": False, "image_id": 5.0, "bbox": [2, 2, 18.5, 16.0]}
    data["images"][0] |= {"width": 32.0}
    dataset = load(images, data)
    assert dataset.annotations_json()["annotations"][0]["id"] == 0
    assert dataset[0].labels.tolist() == [0, 1]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_loader_workers_give_the_same_samples(method: str, images: Path) -> None:
    dataset = load(images, content())
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=method)
    samples = list(loader)
    assert len(samples) == 3
    for index, sample in enumerate(samples):
        assert np.array_equal(np.asarray(sample.masks), dataset[index].masks)
        assert sample.image_id == dataset[index].image_id


def test_columns_not_objects_are_what_a_worker_gets(images: Path) -> None:
    data = content()
    few = len(pickle.dumps(load(images, data)))
    data["annotations"] += [annotation(i, segmentation=[TRIANGLE]) for i in range(1000, 2000)]
    many = len(pickle.dumps(load(images, data)))
    assert (many - few) / 1000 < 200  # bytes for each annotation: its text and eight numbers


whole = st.integers(-5, 40)
boxes = st.tuples(whole, whole, whole, whole)
polygons = st.lists(st.lists(st.floats(-20, 60, allow_nan=False), max_size=9), max_size=3)


@settings(max_examples=60)
@given(entries=st.lists(st.tuples(boxes, polygons, st.sampled_from([5, 2, 90, 6]), st.booleans()), max_size=5))
def test_whatever_the_annotations_they_load_like_pycocotools_or_are_refused(
    entries: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    images = tmp_path_factory.mktemp("data") / "images"
    (images / "deep").mkdir(parents=True)
    data = content()
    for each in data["images"]:
        (images / each["file_name"]).touch()
    data["annotations"] = [
        annotation(at + 1, image=image, bbox=list(box), segmentation=outline, iscrowd=int(crowd))
        for at, (box, outline, image, crowd) in enumerate(entries)
    ]
    try:
        dataset = load(images, data)
    except UserError as error:
        refused = any(
            min(box[2:]) < 0 or image == 6 or any(len(p) >= 6 and len(p) % 2 for p in outline)
            for box, outline, image, _ in entries
        )
        assert refused, error
        return
    answer = {each["id"]: each for each in dataset.annotations_json()["annotations"]}
    for index in range(len(dataset)):
        masks = dataset.masks(index)
        own = [each for each in answer.values() if each["image_id"] == dataset.image_ids[index]]
        assert len(own) == len(masks)
        for each, mask in zip(own, masks, strict=True):
            assert each["bbox"] == list(entries[each["id"] - 1][0])
            outline = [polygon for polygon in entries[each["id"] - 1][1] if len(polygon) >= 6]
            expected = oracle.decode(oracle.merge(oracle.frPyObjects(outline, HEIGHT, WIDTH))) if outline else 0
            np.testing.assert_array_equal(mask, expected)
