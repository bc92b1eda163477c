"""The scores equal pycocotools', and broken input is refused by name."""

import contextlib
import copy
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from common.errors import UserError
from common.metrics import coco_details, evaluate_coco
from common.ops import masks as rle
from maskworks.many.scores_of_parts import coco_details_of_parts
from tests.given import given_folder

Json = dict[str, Any]


def with_pycocotools(truth: Json, detections: list[Json], kind: str, limit: int = 100) -> COCOeval:
    """pycocotools on ids + 1: to it, 0 would mean "not matched"."""
    dataset = COCO()
    dataset.dataset = copy.deepcopy(truth)
    for annotation in dataset.dataset["annotations"]:
        annotation["id"] += 1
    with contextlib.redirect_stdout(io.StringIO()):
        dataset.createIndex()
        found = COCO()
        found.dataset = {**dataset.dataset, "annotations": []}
        found.createIndex()
        if detections:  # loadRes fails on an empty list
            found = dataset.loadRes(copy.deepcopy(detections))
        evaluation = COCOeval(dataset, found, kind)
        if limit != 100:
            evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal(truth: Json, detections: list[Json], kind: Any) -> None:
    ours = evaluate_coco(truth, detections, kind)
    theirs = with_pycocotools(truth, detections, kind).stats
    np.testing.assert_allclose(list(ours.values()), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("limit", [11, 60, 100, 400])
def test_more_or_fewer_detections_count_as_pycocotools_counts_them(kind: Any, limit: int) -> None:
    random = np.random.default_rng(0)
    images = [{"id": 1, "height": 160, "width": 160}, {"id": 2, "height": 160, "width": 160}]
    annotations: list[Json] = []
    for x, y in np.ndindex(15, 15):  # 225 of a class in an image
        mask = np.zeros((1, 160, 160), bool)
        mask[0, 10 * y : 10 * y + 8, 10 * x : 10 * x + 8] = True
        entry = {"category_id": 1 + (y == 14), "bbox": [10 * x, 10 * y, 8, 8], "area": 64, "iscrowd": 0}
        code = rle.encode(mask)[0]
        annotations.append(entry | {"id": len(annotations), "image_id": 1 + (x > 12), "segmentation": code})
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}
    keys = ("image_id", "category_id", "bbox", "segmentation")
    detections = [{key: each[key] for key in keys} | {"score": random.random()} for each in annotations * 2]
    details = coco_details(truth, detections, kind, limit)
    theirs = with_pycocotools(truth, detections, kind, limit).eval
    assert details.summary["AP"] == pytest.approx(theirs["precision"][..., 0, 2].mean(), abs=1e-12)
    assert details.summary[f"AR{limit}"] == pytest.approx(theirs["recall"][..., 0, 2].mean(), abs=1e-12)
    assert details.summary["AR10"] == pytest.approx(theirs["recall"][..., 0, 1].mean(), abs=1e-12)
    assert evaluate_coco(truth, detections, kind, limit) == details.summary


# ---- COCO: generated sets ----

SIDE = 40


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    x, y = draw(st.integers(0, SIDE - 2)), draw(st.integers(0, SIDE - 2))
    width, height = draw(st.integers(1, SIDE)), draw(st.integers(1, SIDE))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y : y + height, x : x + width] = True
    return mask


@st.composite
def coco_sets(draw: st.DrawFn, *, polygons: bool = False, boxed: bool = False) -> tuple[Json, list[Json]]:
    """Few images and classes, so that objects compete; crowds, ties, classes and images without anything."""
    images = [{"id": i * 7, "height": SIDE, "width": SIDE} for i in range(draw(st.integers(1, 3)))]
    categories = [{"id": i * 3 + 1, "name": f"class {i}"} for i in range(draw(st.integers(1, 3)))]
    annotations, detections = [], []
    for i in range(draw(st.integers(0, 6))):
        mask = rle.encode(draw(masks())[None])[0]
        box = rle.boxes([mask])[0].tolist()
        x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
        shape: Any = [[x0, y0, x1, y0, x1, y1, x0, y1]] if polygons and draw(st.booleans()) else mask
        crowd = draw(st.integers(0, 3)) == 0
        scale = draw(st.sampled_from([1, 20, 400]))  # areas are taken from the file: all size classes occur
        owner = {
            "id": i,
            "image_id": draw(st.sampled_from(images))["id"],
            "category_id": draw(st.sampled_from(categories))["id"],
        }
        area = int(rle.area([mask])[0]) * scale
        annotations.append({**owner, "iscrowd": int(crowd), "area": area, "bbox": box, "segmentation": shape})
    for _ in range(draw(st.integers(0, 8))):
        mask = rle.encode(draw(masks())[None])[0]
        if annotations and draw(st.booleans()):
            near = draw(st.sampled_from(annotations))
            mask = near["segmentation"] if isinstance(near["segmentation"], dict) else mask
        found = {
            "image_id": draw(st.sampled_from(images))["id"],
            "category_id": draw(st.sampled_from(categories))["id"],
            "score": draw(st.sampled_from([0.1, 0.5, 0.5, 0.9])),
            "segmentation": mask,
        }
        detections.append({**found, "bbox": rle.boxes([mask])[0].tolist()} if boxed else found)
    return {"images": images, "categories": categories, "annotations": annotations}, detections


@pytest.mark.filterwarnings("ignore:.*annotation with id 0")
@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("boxed", [False, True])
def test_generated_sets_score_as_with_pycocotools(kind: str, boxed: bool) -> None:
    @settings(max_examples=60)
    @given(coco_sets(polygons=True, boxed=boxed))
    def check(example: tuple[Json, list[Json]]) -> None:
        assert_equal(*example, kind)

    check()


@pytest.mark.filterwarnings("ignore:.*annotation with id 0")
def test_images_that_come_in_parts_score_as_all_at_once() -> None:
    """To the last bit, in whatever order they come, and with so few detections of an image that the limit counts."""

    @settings(max_examples=30)
    @given(coco_sets(polygons=True, boxed=True), st.sampled_from([11, 100]), st.randoms())
    def check(example: tuple[Json, list[Json]], limit: int, random: Any) -> None:
        truth, detections = example
        images = random.sample(truth["images"], len(truth["images"]))

        def parts() -> Any:
            for image in images:
                own, found = (
                    [each for each in entries if each["image_id"] == image["id"]]
                    for entries in (truth["annotations"], detections)
                )
                yield truth | {"images": [image], "annotations": own}, {"segm": found, "bbox": found}

        for kind, details in coco_details_of_parts(parts(), limit).items():
            at_once = coco_details(truth, detections, kind, limit)
            assert details.summary == at_once.summary
            np.testing.assert_equal(details.per_class, at_once.per_class)
            np.testing.assert_equal(details.precision, at_once.precision)

    check()


@st.composite
def people(draw: st.DrawFn, *, boxed: bool) -> tuple[Json, list[Json]]:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    images = [{"id": i, "height": 200, "width": 200} for i in range(2)]
    annotations, detections = [], []
    for i in range(draw(st.integers(0, 4))):
        points = np.column_stack((random.uniform(0, 200, (17, 2)).round(1), random.integers(0, 3, 17)))
        points[points[:, 2] == 0] = 0
        if draw(st.integers(0, 4)) == 0:
            points[:] = 0
        box = [*random.uniform(0, 90, 2).tolist(), *random.uniform(20, 110, 2).tolist()]
        owner = {"image_id": draw(st.integers(0, 1)), "category_id": 1}
        marked = {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
        crowd = draw(st.integers(0, 1)) * draw(st.integers(0, 1))
        annotations.append({"id": i, **owner, "iscrowd": crowd, "bbox": box, "area": box[2] * box[3] / 2, **marked})
        for _ in range(draw(st.integers(0, 3))):
            noise = np.column_stack((random.normal(0, draw(st.sampled_from([0.5, 4, 40])), (17, 2)), np.zeros(17)))
            guess = (points + noise).ravel().tolist()
            found = {**owner, "score": float(random.random()), "keypoints": guess}
            detections.append({**found, "bbox": box} if boxed else found)
    return {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": annotations}, detections


@pytest.mark.filterwarnings("ignore:.*annotation with id 0")
@pytest.mark.parametrize("boxed", [False, True])
def test_keypoints_score_as_with_pycocotools(boxed: bool) -> None:
    @settings(max_examples=60)
    @given(people(boxed=boxed))
    def check(example: tuple[Json, list[Json]]) -> None:
        assert_equal(*example, "keypoints")

    check()


def test_people_whose_file_counts_no_key_points_are_not_looked_for() -> None:
    person = {"image_id": 0, "category_id": 1, "iscrowd": 0, "bbox": [10, 10, 90, 90], "area": 4000.0}
    marked = {"keypoints": [20.0, 30.0, 2.0] * 9 + [60.0, 70.0, 1.0] * 8}
    truth = {
        "images": [{"id": 0, "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, **person, **marked, "num_keypoints": 17},
            {"id": 2, **person, **marked, "bbox": [110, 110, 80, 80], "num_keypoints": 0},
        ],
    }
    found = [{"image_id": 0, "category_id": 1, "score": 0.9, "keypoints": marked["keypoints"]}]
    assert_equal(truth, found, "keypoints")
    assert evaluate_coco(truth, found, "keypoints")["AR"] == 1


def test_detections_without_boxes_have_the_areas_of_their_masks() -> None:
    """A wrong one, thin and wide: small by its mask, large by its box. It lowers the score of the small."""
    masks = np.zeros((2, 200, 200), bool)
    masks[0, 5:15, 5:15] = True
    masks[1, 60, 20:180] = masks[1, 60:180, 20] = True
    right, wrong = rle.encode(masks)
    owner = {"image_id": 0, "category_id": 1}
    truth = {
        "images": [{"id": 0, "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": 1, **owner, "segmentation": right, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0}],
    }
    found = [{**owner, "score": 0.5, "segmentation": right}, {**owner, "score": 0.9, "segmentation": wrong}]
    assert_equal(truth, found, "segm")
    assert evaluate_coco(truth, found)["APs"] == pytest.approx(0.5)


# ---- COCO: given sets ----


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_photographs_score_as_recorded(kind: Any) -> None:
    folder = given_folder("MASKWORKS_DATA", "casia100")
    expected = json.loads((folder / "expected.json").read_text())[kind]
    computed = evaluate_coco(folder / "annotations.json", str(folder / "detections.json"), kind)
    assert computed == pytest.approx(expected, rel=0, abs=1e-12)
    assert list(computed) == list(expected)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_parity_set_scores_as_with_pycocotools_but_for_annotation_0(kind: Any) -> None:
    """The recorded numbers take annotation 0 for missed, as pycocotools does; adding 1 to its ids gives ours."""
    arrays = np.load(given_folder("MASKWORKS_PARITY", "solov2/coco_eval") / "golden.npz")
    truth, detections = (json.loads(arrays[f"in/{name}_json"].tobytes()) for name in ("annotations", "detections"))
    with pytest.warns(UserWarning, match="id 0"):
        details = coco_details(truth, detections, kind)
    evaluation = with_pycocotools(truth, detections, kind)
    np.testing.assert_allclose(list(details.summary.values()), evaluation.stats, rtol=0, atol=1e-12)
    precision = evaluation.eval["precision"][..., 0, -1]
    known = (precision > -1).any(axis=(0, 1))
    expected = np.where(known, precision.mean(axis=(0, 1)), np.nan)
    np.testing.assert_allclose(list(details.per_class.values()), expected, rtol=0, atol=1e-12)
    # Only the class of annotation 0 differs from the record.
    recorded = arrays[f"out/per_category_ap_{kind}"]
    different = np.flatnonzero(~np.isclose(expected, recorded, rtol=0, atol=1e-9, equal_nan=True))
    ids = sorted(category["id"] for category in truth["categories"])
    zero = next(annotation for annotation in truth["annotations"] if annotation["id"] == 0)
    assert [ids[i] for i in different] == [zero["category_id"]]


# ---- COCO: small sets by hand ----


def small_set() -> tuple[Json, list[Json]]:
    """Two classes; the first is found, the second has one object and is not."""
    square = rle.encode(np.pad(np.ones((1, 20, 20), bool), ((0, 0), (2, 18), (2, 18))))[0]
    one = {"image_id": 5, "segmentation": square, "bbox": [2, 2, 20, 20], "area": 400, "iscrowd": 0}
    truth = {
        "images": [{"id": 5, "height": 40, "width": 40}],
        "categories": [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 9, "name": "bird"}],
        "annotations": [{"id": 1, "category_id": 1, **one}, {"id": 2, "category_id": 2, **one}],
    }
    return truth, [{"image_id": 5, "category_id": 1, "score": 0.5, "segmentation": square}]


def test_annotation_0_counts_like_any_other() -> None:
    truth, detections = small_set()
    expected = evaluate_coco(truth, detections)
    truth["annotations"][0]["id"] = 0
    with pytest.warns(UserWarning, match="annotation with id 0") as caught:
        assert evaluate_coco(truth, detections) == expected
    assert len(caught) == 1
    assert expected["AP"] == pytest.approx(0.5)
    assert expected["APs"] == pytest.approx(0.5)
    assert expected["APl"] == -1


def test_details_name_every_class() -> None:
    details = coco_details(*small_set())
    assert list(details.per_class) == ["cat", "dog", "bird"]
    assert details.per_class["cat"] == pytest.approx(1)
    assert details.per_class["dog"] == 0
    assert np.isnan(details.per_class["bird"])
    assert details.summary["AP"] == pytest.approx(0.5)
    assert list(details.precision) == ["cat", "dog"]
    assert details.precision["cat"].shape == (101,)
    assert details.precision["cat"].min() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["segm", "bbox", "keypoints"])
def test_nothing_to_find_and_nothing_found_are_defined(kind: Any) -> None:
    truth, detections = small_set()
    person = {"keypoints": [10.0, 10.0, 2.0] * 17, "num_keypoints": 17}
    truth["annotations"] = [{**annotation, **person} for annotation in truth["annotations"]]
    detections = [{**detection, **person} for detection in detections]
    nothing_found = evaluate_coco(truth, [], kind)
    assert nothing_found["AP"] == 0
    assert nothing_found["APl"] == -1
    empty = {**truth, "annotations": []}
    assert set(evaluate_coco(empty, detections, kind).values()) == {-1.0}
    assert set(evaluate_coco(empty, [], kind).values()) == {-1.0}
    for categories in ([], truth["categories"]):
        nothing = {"images": [], "annotations": [], "categories": categories}
        assert set(evaluate_coco(nothing, [], kind).values()) == {-1.0}


def test_objects_given_are_left_as_they_were() -> None:
    truth, detections = small_set()
    before = copy.deepcopy((truth, detections))
    evaluate_coco(truth, detections)
    assert (truth, detections) == before


def test_areas_that_the_file_lacks_are_those_of_the_masks() -> None:
    truth, detections = small_set()
    expected = evaluate_coco(truth, detections)
    truth["annotations"][0]["segmentation"] = [[2, 2, 22, 2, 22, 22, 2, 22]]
    for annotation in truth["annotations"]:
        del annotation["area"]  # first from one alone
        assert evaluate_coco(truth, detections) == expected


BROKEN_DETECTIONS: list[tuple[str, Any, str]] = [
    ("image_id", 6, "detection 1 is of image 6"),
    ("category_id", 7, "detection 1 is of category 7"),
    ("image_id", "5", "detection 1: 'image_id' must be a whole number"),
    ("score", float("nan"), "detection 1: 'score' is nan"),
    ("score", "high", "detection 1: 'score' must be a number"),
    ("segmentation", {"size": [40, 40], "counts": "R1"}, "detection 1: RLE string holds counts that sum to"),
    ("segmentation", {"size": [30, 40], "counts": "Pl0"}, "detection 1: RLE of size"),
    ("segmentation", None, "detection 1: an RLE must be"),
    ("bbox", None, "detection 1 has no 'segmentation'"),
]


@pytest.mark.parametrize(("key", "value", "words"), BROKEN_DETECTIONS)
def test_broken_detections_are_named(key: str, value: Any, words: str) -> None:
    truth, detections = small_set()
    broken = {**detections[0], key: value}
    if key == "bbox":
        del broken["segmentation"]
    with pytest.raises(UserError, match=words):
        evaluate_coco(truth, [detections[0], broken])


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, -3, 4], [1, 2, 3, float("inf")], "box", ["a"] * 4])
def test_broken_boxes_are_named(box: Any) -> None:
    truth, detections = small_set()
    good = {**detections[0], "bbox": [1, 2, 3, 4]}
    with pytest.raises(UserError, match="detection 1: 'bbox'"):
        evaluate_coco(truth, [good, {**good, "bbox": box}], "bbox")


BROKEN_TRUTH: list[tuple[str, Any, str]] = [
    ("id", 1, "annotation 1: id 1 occurs twice"),
    ("image_id", 6, "annotation 1 is of image 6"),
    ("category_id", 6, "annotation 1 is of category 6"),
    ("segmentation", [[1.0, 2.0, 3.0, 4.0]], "annotation 1: polygon 0 has 4 numbers"),
    ("segmentation", [], "annotation 1: a segmentation must be"),
    ("segmentation", [[1.0, 2.0, 3.0, float("nan"), 5.0, 6.0]], "annotation 1: polygon 0 has a corner"),
    ("segmentation", {"size": [40, 40], "counts": [1599]}, "annotation 1: RLE counts sum to 1599"),
    ("area", float("nan"), "annotation 1: 'area' is nan"),
]


@pytest.mark.parametrize(("key", "value", "words"), BROKEN_TRUTH)
def test_broken_ground_truth_is_named(key: str, value: Any, words: str) -> None:
    truth, detections = small_set()
    truth["annotations"][1][key] = value
    with pytest.raises(UserError, match=words):
        evaluate_coco(truth, detections)


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"images": [')
    (tmp_path / "other.json").write_text('{"name": 1}')
    for file, words in (("broken", "not valid JSON"), ("other", "not COCO ground truth"), ("absent", "cannot be read")):
        with pytest.raises(UserError, match=f"{file}.json: {words}"):
            evaluate_coco(tmp_path / f"{file}.json", [])


def test_the_warning_of_annotation_0_comes_only_then() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_coco(*small_set())
