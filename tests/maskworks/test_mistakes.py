"""Confusion of classes and the quality of images, against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest

from common.metrics.panoptic import count_pairs
from common.ops import masks as rle
from maskworks.report.mistakes import compare_segments, find_mistakes, sum_up

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
    assert find_mistakes(annotations, detections, kind, threshold=0.2).confusion[1, 1] == 1  # sure enough for this one
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
    mistakes = find_mistakes(truth(), [found(5, 7, (0, 0, 4, 4))])  # nothing there, and yet found
    assert mistakes.confusion.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert mistakes.quality.tolist() == [1, 0]


LABELS = {3: 0, 5: 1, 9: 2}  # classes of category ids


def columns(*ids: int) -> Any:
    """A map of four rows with an id for each column."""
    return np.tile(np.array(ids, np.int64), (4, 1))


def segments(*rows: tuple[int, int], crowd: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Of (id, category)."""
    return [{"id": key, "category_id": category, "iscrowd": int(key in crowd)} for key, category in rows]


def test_segments_are_compared_without_the_pixels_that_have_no_label() -> None:
    truth = segments((5, 3), (9, 5), (2, 9), crowd=(2,))
    found = segments((1, 3), (2, 9), (3, 9), (4, 5), (6, 5))  # the last has no pixel
    pairs = count_pairs(columns(5, 5, 5, 5, 9, 9, 9, 2, 2, 0), columns(1, 1, 1, 2, 2, 2, 2, 3, 3, 4))
    first = compare_segments(pairs, truth, found, LABELS)
    # 5 is found, with 12 of 16 pixels; 9 taken for class 2; 3 lies on a crowd of its class, 4 where nothing is labelled
    assert first == ([(0, 0), (1, 2)], pytest.approx(2 * 0.75 / 4))
    pairs = count_pairs(columns(1, 1, 1, 1, 1, 1, 0, 0, 0, 0), columns(7, 7, 7, 7, 7, 7, 7, 7, 0, 0))
    second = compare_segments(pairs, segments((1, 3)), segments((7, 3)), LABELS)
    assert second == ([(0, 0)], 1.0)
    mistakes = sum_up(("a", "b", "c"), [first, second], threshold=None)
    assert mistakes.confusion.tolist() == [[2, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert mistakes.worst(2) == [0, 1]


@pytest.mark.parametrize("empty", ["truth", "found"])
def test_segments_of_empty_maps_are_missed_or_made_up(empty: str) -> None:
    there, nothing = (columns(1, 1), segments((1, 3))), (columns(0, 0), segments())
    truth, found = (nothing, there) if empty == "truth" else (there, nothing)
    compared = compare_segments(count_pairs(truth[0], found[0]), truth[1], found[1], {3: 0})
    assert compared == (([], 1.0) if empty == "truth" else ([(0, 1)], 0.0))  # on pixels without label nothing is wrong
