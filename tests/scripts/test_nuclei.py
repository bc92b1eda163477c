"""The field's score of scripts/bench/nuclei.py, on numbers worked out by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.ops import masks as rle
from scripts.bench.nuclei import field_score, matched


def coded(left: int, right: int) -> Any:
    mask = np.zeros((4, 20), bool)
    mask[:, left:right] = True
    return rle.encode(mask[None])[0]


def test_an_object_is_found_once_and_by_the_surest() -> None:
    overlaps = np.array([[0.6, 0.0], [0.9, 0.0], [0.7, 0.55]])
    assert matched(overlaps, 0.5) == 2  # nothing is left for the second; the third finds the other object
    assert matched(overlaps, 0.6) == 1
    assert matched(np.zeros((2, 0)), 0.5) == 0


def test_the_score_counts_what_is_found_missed_and_not_there_over_all_pictures() -> None:
    images = [{"id": number, "height": 4, "width": 20} for number in (1, 2)]
    truth = [
        {"image_id": 1, "segmentation": coded(0, 10)},
        {"image_id": 1, "segmentation": coded(12, 20)},
        {"image_id": 2, "segmentation": coded(0, 5)},
    ]
    found = [
        {"image_id": 1, "score": 0.9, "segmentation": coded(0, 8)},  # an IoU of 0.8
        {"image_id": 2, "score": 0.8, "segmentation": coded(10, 20)},  # nothing there
        {"image_id": 2, "score": 0.1, "segmentation": coded(0, 5)},  # below the cut
    ]
    dataset: Any = SimpleNamespace(annotations_json=lambda: {"images": images, "annotations": truth})
    evaluation: Any = SimpleNamespace(detections=found)
    assert field_score(dataset, evaluation, 0.5, 0.5) == pytest.approx(1 / 4)  # two missed, one that isn't there
    assert field_score(dataset, evaluation, 0.05, 0.5) == pytest.approx(2 / 4)
    assert field_score(dataset, evaluation, 0.05, 0.85) == pytest.approx(1 / 5)
