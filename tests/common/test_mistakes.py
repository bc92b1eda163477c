"""Confusion of classes and the quality of images, against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest

from common import rle
from common.mistakes import find_mistakes

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]  # classes are in the order of their ids
IMAGES = [{"id": number, "height": 20, "width": 20, "file_name": ""} for number in (11, 5)]


def polygon(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def entry(image: int, category: int, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), **more}


def truth(*entries: dict[str, Any]) -> dict[str, Any]:
    annotations = [{"id": i, "segmentation": polygon(*each["bbox"])} | each for i, each in enumerate(entries, 1)]
    return {"images": IMAGES, "categories": CATEGORIES, "annotations": annotations}


def found(image: int, category: int, box: tuple[int, int, int, int], score: float = 0.9) -> dict[str, Any]:
    return entry(image, category, box, score=score, segmentation=rle.from_polygons(polygon(*box), 20, 20))


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_what_is_found_taken_for_another_missed_and_made_up_is_counted(kind: Any) -> None:
    annotations = truth(
        entry(11, 3, (0, 0, 10, 10)),  # found, by half of its surroundings
        entry(11, 7, (10, 10, 10, 10)),  # taken for a cat
        entry(5, 7, (0, 0, 4, 4)),  # missed
    )
    detections = [
        found(11, 3, (0, 0, 10, 16)),
        found(11, 3, (10, 10, 10, 10)),
        found(11, 7, (0, 16, 2, 4)),  # made up
        found(5, 7, (0, 0, 4, 4), score=0.29),  # too unsure to count
    ]
    mistakes = find_mistakes(annotations, detections, kind)
    assert mistakes.class_names == ("cat", "dog")
    assert mistakes.confusion.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    # one of 2 objects is found, by one of 3 predictions: F1 is 2 / 5, and its IoU 100 / 160
    assert mistakes.quality == pytest.approx([2 / 5 * 100 / 160, 0])
    assert mistakes.worst(1) == [1]
    assert mistakes.worst(5) == [1, 0]


def test_an_object_of_the_same_class_comes_before_a_better_overlap_of_another() -> None:
    annotations = truth(entry(11, 3, (0, 0, 10, 10)), entry(11, 7, (0, 0, 10, 9)))
    mistakes = find_mistakes(annotations, [found(11, 3, (0, 0, 10, 9)), found(11, 7, (0, 0, 10, 10))])
    assert mistakes.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_an_object_is_found_once_by_the_surest() -> None:
    annotations = truth(entry(11, 3, (0, 0, 10, 10)))
    detections = [found(11, 3, (0, 0, 10, 10), 0.5), found(11, 3, (0, 0, 10, 8), 0.8)]
    mistakes = find_mistakes(annotations, detections)
    assert mistakes.confusion[0, 0] == 1
    assert mistakes.confusion[2, 0] == 1
    assert mistakes.quality[0] == pytest.approx(2 / 3 * 0.8)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_what_lies_on_a_crowd_of_its_class_is_no_mistake(kind: Any) -> None:
    annotations = truth(entry(11, 3, (0, 0, 20, 20), iscrowd=1))
    mistakes = find_mistakes(annotations, [found(11, 3, (0, 0, 5, 5)), found(11, 7, (8, 8, 5, 5))], kind)
    assert mistakes.confusion.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert mistakes.quality.tolist() == [0, 1]


def test_nothing_there_and_nothing_found_is_right() -> None:
    mistakes = find_mistakes(truth(), [])
    assert not mistakes.confusion.any()
    assert np.array_equal(mistakes.quality, [1, 1])
