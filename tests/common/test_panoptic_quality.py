"""Panoptic quality: what panopticapi says of samples, and contradictory input, which is refused by name.

That every scenario scores as with panopticapi, tests/parity/cases/upsnet/pq_eval shows.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.data.images import read_ids
from common.errors import UserError
from common.metrics import evaluate_panoptic
from common.metrics.panoptic import count_pairs, quality_of_pairs
from tests.given import given_folder

PQ_CASE = Path(__file__).parents[1] / "parity" / "cases" / "upsnet" / "pq_eval"
SCENARIOS: dict[str, Any] = json.loads((PQ_CASE / "spec.json").read_text())["scenarios"]
Json = dict[str, Any]


def write_scenario(name: str, folder: Path) -> tuple[Path, Path]:
    """A scenario of the parity case as JSON files beside folders of PNGs of the same names."""
    arrays = np.load(PQ_CASE / "golden.npz")
    for part, data in (("gt", "gt_json"), ("pred", "pred_json")):
        (folder / part).mkdir()
        (folder / f"{part}.json").write_text(json.dumps(SCENARIOS[name][data]))
        for annotation in SCENARIOS[name][data]["annotations"]:
            key = f"in/{name}/{part}/{annotation['image_id']}"
            if key in arrays:
                cv2.imwrite(str(folder / part / annotation["file_name"]), arrays[key][..., ::-1])
    return folder / "gt.json", folder / "pred.json"


def test_the_pairs_of_ids_that_meet_are_enough(tmp_path: Path) -> None:
    files = write_scenario("real_coco", tmp_path)
    truth, found = (json.loads(file.read_text()) for file in files)
    maps = (map(read_ids, sorted((tmp_path / part).iterdir())) for part in ("gt", "pred"))
    segments = ([each["segments_info"] for each in side["annotations"]] for side in (truth, found))
    pairs = [count_pairs(*both) for both in zip(*maps, strict=True)]
    assert quality_of_pairs(*segments, pairs, truth["categories"]) == evaluate_panoptic(*files)


def test_pairs_of_a_photograph_of_more_than_a_megapixel_are_scored():
    """By hand: a little more than half of the only object is found, and the rest is void."""
    ids, half = np.array([5, 5]), 1024 * 1024
    segment = {"id": 5, "category_id": 1, "area": 2 * half, "iscrowd": 0}
    pairs = (ids, np.array([0, 7]), np.array([half - 1000, half + 1000]))
    found = quality_of_pairs([[segment]], [[{"id": 7, "category_id": 1}]], [pairs], [{"id": 1, "isthing": 1}])
    assert found["All"] == {"pq": found["All"]["sq"], "sq": (half + 1000) / (2 * half), "rq": 1.0, "n": 1}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("error_id_only_in_png", "image 5: segment 62 is in the PNG but not in the JSON"),
        ("error_id_only_in_json", "image 5: segment 63 is in the JSON but not in the PNG"),
        ("error_unknown_category", "image 5: segment 61 has the unknown category_id 77"),
        ("error_missing_prediction", "no prediction for the image with id 6"),
        ("error_shape_mismatch", r"differ in size: \(40, 60\) and \(39, 60\)"),
    ],
)
def test_pictures_and_json_that_contradict_each_other_are_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        evaluate_panoptic(*write_scenario(name, tmp_path))


@pytest.mark.parametrize(("crowd", "wrong"), [(1, 1), (2, 0)])
def test_of_several_crowds_of_a_class_the_last_listed_excuses_what_lies_in_it(
    crowd: int, wrong: int, tmp_path: Path
) -> None:
    """As panopticapi's table of crowds, in which the last of a class overwrites the others."""
    truth, found = np.zeros((4, 10, 3), np.uint8), np.zeros((4, 10, 3), np.uint8)
    truth[:, :4, 2], truth[:, 6:, 2] = 1, 2  # OpenCV's order: red last
    found[:, (0 if crowd == 1 else 6) : (4 if crowd == 1 else 10), 2] = 7
    for part, picture in (("gt", truth), ("pred", found)):
        (tmp_path / part).mkdir()
        cv2.imwrite(str(tmp_path / part / "1.png"), picture)
    crowds = [{"id": i, "category_id": 3, "iscrowd": 1, "area": 16} for i in (1, 2)]
    image = {"image_id": 1, "file_name": "1.png"}
    annotations = {
        "annotations": [{**image, "segments_info": crowds}],
        "categories": [{"id": 3, "name": "person", "isthing": 1}],
    }
    predictions = {"annotations": [{**image, "segments_info": [{"id": 7, "category_id": 3}]}]}
    row = evaluate_panoptic(annotations, predictions, tmp_path / "gt", tmp_path / "pred")["per_class"][3]
    assert (row["tp"], row["fp"], row["fn"]) == (0, wrong, 0)


def test_a_group_without_any_segment_has_no_quality(tmp_path: Path) -> None:
    computed = evaluate_panoptic(*write_scenario("no_thing_at_all", tmp_path))
    assert computed["Things"] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert computed["All"] == computed["Stuff"]
    assert computed["All"]["n"] > 0


@pytest.mark.parametrize("name", ["prediction_a", "prediction_b"])
def test_panoptic_sample_scores_as_recorded(name: str) -> None:
    folder = given_folder("MASKWORKS_DATA", "panoptic_sample")
    expected = json.loads((folder / "expected.json").read_text())[name]
    computed = evaluate_panoptic(folder / "panoptic.json", folder / f"{name}.json")
    for group in ("All", "Things", "Stuff"):
        assert computed[group] == pytest.approx(expected[group], rel=0, abs=1e-12)
    for category, numbers in expected["per_class"].items():
        ours = {key: computed["per_class"][int(category)][key] for key in numbers}
        assert ours == pytest.approx(numbers, rel=0, abs=1e-12)


def test_panoptic_takes_objects_with_folders_and_no_images_at_all(tmp_path: Path) -> None:
    truth, predictions = write_scenario("random", tmp_path)
    objects = json.loads(truth.read_text()), json.loads(predictions.read_text())
    computed = evaluate_panoptic(*objects, tmp_path / "gt", tmp_path / "pred")
    assert computed == evaluate_panoptic(truth, predictions)
    categories = [{"id": 3, "isthing": 1}]
    nothing = evaluate_panoptic({"annotations": [], "categories": categories}, {"annotations": []}, tmp_path, tmp_path)
    assert nothing["All"] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert nothing["per_class"] == {3: dict.fromkeys(("pq", "sq", "rq", "iou_sum", "tp", "fp", "fn"), 0)}
    with pytest.raises(UserError, match="name the folder"):
        evaluate_panoptic(*objects)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file_name": "../gt/1.png"}, "leads out of"),
        ({"file_name": "absent.png"}, "absent.png: cannot be read"),
        ({"segments_info": [{"id": 2**24, "category_id": 1}]}, "out of range"),
        ({"segments_info": [{"id": 0, "category_id": 1}]}, "out of range"),
        ({"segments_info": [{"id": 9, "category_id": 1}] * 2}, "occurs twice"),
        ({"segments_info": None}, "must be a list"),
        ({"segments_info": [{"id": -1, "category_id": 1}]}, "annotation 0: segment 0: 'id' is out of range: -1"),
        ({"segments_info": [{"id": 9}]}, "annotation 0: segment 0 has no 'category_id'"),
    ],
)
def test_broken_panoptic_predictions_are_named(change: Json, words: str, tmp_path: Path) -> None:
    truth, predictions = write_scenario("iou_exactly_half", tmp_path)
    data = json.loads(predictions.read_text())
    data["annotations"][0].update(change)
    with pytest.raises(UserError, match=words):
        evaluate_panoptic(truth, data, None, tmp_path / "pred")


def test_areas_that_are_no_numbers_of_pixels_are_named(tmp_path: Path) -> None:
    truth, predictions = write_scenario("iou_exactly_half", tmp_path)
    truth.write_text(truth.read_text().replace('"area": ', '"area": 0.5, "was": '))
    with pytest.raises(UserError, match=r"gt\.json: annotation 0: segment: an area is not"):
        evaluate_panoptic(truth, predictions)


HUGE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes([0, 2, 0, 0]) * 2  # 131072 x 131072


@pytest.mark.parametrize("content", [b"", b"\x89PNG no more", b"BM, which is no PNG at all", HUGE])
def test_a_broken_png_is_named(content: bytes, tmp_path: Path) -> None:
    truth, predictions = write_scenario("iou_exactly_half", tmp_path)
    (tmp_path / "gt" / "1.png").write_bytes(content)
    with pytest.raises(UserError, match=r"gt/1\.png: not a picture"):
        evaluate_panoptic(truth, predictions)
