"""CocoDataset against pycocotools and hand-made files: content, unions, faults, paths, workers."""

import json
import logging
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

from common.coco import CocoDataset, Sample, refuse_other_classes
from common.errors import UserError

HEIGHT, WIDTH = 24, 32
TRIANGLE = [2.0, 2.0, 20.5, 4.0, 9.25, 18.0]


def make_mask() -> np.ndarray[Any, np.dtype[np.uint8]]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:15, 8:30:2] = 1
    return mask


def compressed() -> dict[str, Any]:
    code = oracle.encode(np.asfortranarray(make_mask()))
    return {"size": code["size"], "counts": code["counts"].decode()}


def uncompressed() -> dict[str, Any]:
    pixels = make_mask().ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels, prepend=0))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, pixels.size]).tolist()}


def annotation(identity: int, image: int = 5, category: int = 3, **changes: Any) -> dict[str, Any]:
    entry = {
        "id": identity,
        "image_id": image,
        "category_id": category,
        "bbox": [2, 2, 18.5, 16],
        "area": 150.5,
    }
    entry |= {"iscrowd": 0, "segmentation": [TRIANGLE]}
    return {key: value for key, value in (entry | changes).items() if value is not ...}


def content() -> dict[str, Any]:
    """Three images (the last one empty) and two categories with sparse ids, out of order."""
    names = {5: "a.png", 2: "deep/b.png", 90: "c.png"}
    return {
        "info": {"year": 2020},
        "images": [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in names.items()],
        "categories": [{"id": 17, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "person"}],
        "annotations": [
            annotation(1),
            annotation(70, image=2, category=17, segmentation=uncompressed(), iscrowd=1),
            annotation(8, category=17, segmentation=[TRIANGLE, [22, 10, 30, 10, 30, 22, 22, 22]]),
            annotation(9, image=2, segmentation=compressed()),
        ],
    }


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in ("a.png", "deep/b.png", "c.png"):
        cv2.imwrite(str(folder / name), pixels)
    return folder


def write(images: Path, data: Any, name: str = "annotations.json") -> Path:
    path = images.parent / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def load(images: Path, data: Any, **options: Any) -> CocoDataset:
    return CocoDataset([images], [write(images, data)], **options)


def assert_same(one: Sample, other: Sample) -> None:
    for name in ("image", "boxes", "labels", "masks", "crowd"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.image_id, one.path) == (other.image_id, other.path)


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


FATAL = {
    "missing key": (lambda d: d["annotations"][0].pop("bbox"), "annotation 1: .*bbox"),
    "missing id": (lambda d: d["annotations"][0].pop("id"), "annotation number 0 .*id"),
    "text for a number": (
        lambda d: d["annotations"][0].update(category_id="person"),
        "annotation 1: .*category_id",
    ),
    "duplicate image": (lambda d: d["images"].append(dict(d["images"][0])), "image 5: 2 entries"),
    "duplicate annotation": (lambda d: d["annotations"].append(annotation(1)), "annotation 1: 2 entries"),
    "duplicate category": (lambda d: d["categories"].append({"id": 3, "name": "x"}), "category 3: 2 entries"),
    "unknown image": (lambda d: d["annotations"][0].update(image_id=6), "annotation 1: its image_id"),
    "unknown category": (
        lambda d: d["annotations"][0].update(category_id=4),
        "annotation 1: its category_id",
    ),
    "NaN box": (
        lambda d: d["annotations"][0].update(bbox=[float("nan"), 1, 2, 3]),
        r"annotation 1: its bbox \[nan",
    ),
    "infinite box": (
        lambda d: d["annotations"][0].update(bbox=[1, 1, float("inf"), 3]),
        "annotation 1: its bbox",
    ),
    "negative box": (lambda d: d["annotations"][0].update(bbox=[5, 5, -2, 3]), "annotation 1: .*negative"),
    "short box": (lambda d: d["annotations"][0].update(bbox=[5, 5, 2]), "annotation 1: "),
    "negative area": (lambda d: d["annotations"][0].update(area=-1), "annotation 1: its area"),
    "odd polygon": (
        lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        "annotation 1: .*odd",
    ),
    "NaN polygon": (
        lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, float("nan")]]),
        "annotation 1: .*NaN",
    ),
    "RLE of another size": (
        lambda d: d["annotations"][3]["segmentation"].update(size=[WIDTH, HEIGHT]),
        r"annotation 9: RLE of size \[32, 24\] for an image of \[24, 32\]",
    ),
    "RLE with other counts": (
        lambda d: d["annotations"][1]["segmentation"]["counts"].append(1),
        "annotation 70: .*sum to 769",
    ),
    "negative RLE": (
        lambda d: d["annotations"][1].update(segmentation={"size": [HEIGHT, WIDTH], "counts": [-2, 770]}),
        "annotation 70: .*count 0 is -2",
    ),
    "nonsense RLE": (
        lambda d: d["annotations"][3]["segmentation"].update(counts="\x01é"),
        "annotation 9: RLE",
    ),
    "overflowing RLE": (
        lambda d: d["annotations"][1].update(segmentation={"size": [HEIGHT, WIDTH], "counts": [2**63 - 1] * 3}),
        "annotation 70: RLE",
    ),
    "no such kind of mask": (lambda d: d["annotations"][0].update(segmentation="mask.png"), "annotation 1: "),
    "bad keypoints": (
        lambda d: (
            d["annotations"][0].update(keypoints=[1, 2, 2]),
            d["annotations"][2].update(keypoints=[1, 2, 2]),
            d["annotations"][3].update(keypoints=[1, 2]),
        ),
        "annotation 9: 2 keypoint numbers, expected 3",
    ),
    "size of an image": (lambda d: d["images"][0].update(width=0), "image 5: .*width"),
    "missing image": (
        lambda d: d["images"][0].update(file_name="d.png"),
        r"image 5 \('d\.png'\): there is no such file",
    ),
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("method", ["fork", "spawn"])
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


@settings(max_examples=60, deadline=None)
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
