"""Anchors and box arithmetic against what can be counted or reasoned by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn.boxes import (
    LARGEST_GROWTH,
    anchors_of_levels,
    cell_anchors,
    decode,
    non_maximum_suppression,
    overlaps,
    sides,
)
from maskrcnn.config import Conventions, Proposals

COORDINATE = st.integers(0, 30)
LONG = 64 * 2**0.5  # half the long side of 128 x 128 pixels at 1 : 2


@st.composite
def whole_boxes(draw):
    count = draw(st.integers(1, 20))
    boxes = []
    for _ in range(count):
        x1, y1 = draw(COORDINATE), draw(COORDINATE)
        boxes.append([x1, y1, x1 + draw(st.integers(1, 15)), y1 + draw(st.integers(1, 15))])
    return torch.tensor(boxes, dtype=torch.float32)


def test_growth_is_limited_and_shrinking_only_where_asked():
    reference, huge = torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([[0.0, 0, 50, -50]])
    one_way, both_ways = (sides(decode(huge, reference, (1, 1, 1, 1), False, both), False) for both in (False, True))
    assert one_way[0, 0].item() == pytest.approx(1000, rel=1e-4)
    assert one_way[0, 1].item() == pytest.approx(0, abs=1e-6)
    assert both_ways[0, 1].item() == pytest.approx(16 * math.exp(-LARGEST_GROWTH), rel=1e-3)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("detectron", [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]]),  # of Faster R-CNN's code
        ("mmdetection", [[-LONG, -LONG / 2, LONG, LONG / 2], [-64, -64, 64, 64], [-LONG / 2, -LONG, LONG / 2, LONG]]),
        ("torchvision", [[-91, -45, 91, 45], [-64, -64, 64, 64], [-45, -91, 45, 91]]),
    ],
)
def test_the_anchors_of_the_first_pixel_are_each_librarys(convention, expected):
    found = cell_anchors((128,), (0.5, 1.0, 2.0), 16, convention)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-4)
    several = cell_anchors((64, 128), (0.5, 1.0, 2.0), 16, convention)
    assert torch.equal(several[1::2], found)  # ratio by ratio, in each from size to size


@pytest.mark.parametrize(
    ("convention", "steps"), [("mmdetection", ((4, 4), (8, 8))), ("torchvision", ((5, 3), (11, 5)))]
)
def test_anchors_go_row_by_row_column_by_column_and_shape_by_shape(convention, steps):
    features = [torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)]
    settings = Proposals((32, 64), (4, 8), (1.0, 0.25))
    for level, (found, (down, right)) in enumerate(
        zip(anchors_of_levels(features, (11, 10), settings, convention), steps, strict=True)
    ):
        side, (height, width) = 16 * 2**level, features[level].shape[2:]
        shapes = [[-side, -side, side, side], [-2 * side, -side / 2, 2 * side, side / 2]]
        places = [[x * right, y * down] * 2 for y in range(height) for x in range(width)]
        assert found.tolist() == [[a + b for a, b in zip(s, p, strict=True)] for p in places for s in shapes]
    (only,) = anchors_of_levels(features[:1], (11, 10), Proposals((32, 64), (4,), (1.0,)), "mmdetection")
    assert only[:2].tolist() == [[-16, -16, 16, 16], [-32, -32, 32, 32]]  # a single level has all sizes


def greedy(boxes, scores, groups, threshold, inclusive, at_threshold):
    """NMS as its definition reads, one box after the other."""
    iou = overlaps(boxes.double(), boxes.double(), inclusive)
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i)):
        rivals = [iou[index, other].item() for other in kept if groups[other] == groups[index]]
        if not any(rival > threshold or (at_threshold and rival == threshold) for rival in rivals):
            kept.append(index)
    return kept


@given(whole_boxes(), st.integers(0, 1000), st.sampled_from(["detectron", "mmdetection", "torchvision"]))
def test_suppression_is_greedy_within_groups(boxes, seed, convention):
    random = np.random.RandomState(seed)
    scores = torch.from_numpy(random.permutation(len(boxes)) / 20).float()
    groups = torch.from_numpy(random.randint(0, 3, len(boxes)))
    ours = convention == "detectron"
    kept = non_maximum_suppression(boxes, scores, groups, 0.5, Conventions(nms=convention, inclusive_corners=ours))
    expected = greedy(boxes, scores, groups, 0.5, inclusive=ours, at_threshold=ours)
    assert kept.tolist() == (sorted(expected) if ours else expected)


@pytest.mark.parametrize("row", [[0.0, 0, 2, 0], [0.0, 0, 0, 2]])
@pytest.mark.parametrize("convention", ["detectron", "mmdetection"])
def test_one_pixel_of_three_overlaps_them_by_a_third(row, convention):
    boxes, one_group = torch.tensor([row, [0.0, 0, 0, 0]]), torch.zeros(2, dtype=torch.int64)
    for threshold, kept in ((0.34, [0, 1]), (0.33, [0])):
        found = non_maximum_suppression(
            boxes, torch.tensor([0.9, 0.8]), one_group, threshold, Conventions(nms=convention, inclusive_corners=True)
        )
        assert found.tolist() == kept


@pytest.mark.parametrize("convention", ["detectron", "mmdetection", "torchvision"])
def test_nothing_to_suppress_is_no_error(convention):
    none = torch.zeros(0, dtype=torch.int64)
    assert len(non_maximum_suppression(torch.zeros(0, 4), torch.zeros(0), none, 0.5, Conventions(nms=convention))) == 0
