"""Boxes that end at their last pixel, against their definitions written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upsnet.boxes import anchors_of, cell_anchors, clip, decode, nms
from upsnet.config import Proposals
from upsnet.proposals import Level, propose

sides = st.integers(1, 40)
box = st.tuples(st.integers(0, 40), st.integers(0, 40), sides, sides).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
box_lists = st.lists(box, min_size=1, max_size=8)


def pixels(corners: list[int]) -> np.ndarray:
    """The box as the pixels that it covers, its last ones included."""
    mask = np.zeros((100, 100), bool)
    mask[corners[1] : corners[3] + 1, corners[0] : corners[2] + 1] = True
    return mask


@given(box_lists, st.permutations(range(8)))
def test_a_box_is_suppressed_by_a_better_one_that_overlaps_it_more(boxes, order):
    scores = [order[index] / 8 for index in range(len(boxes))]
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        overlap = [
            (pixels(boxes[index]) & pixels(boxes[k])).sum() / (pixels(boxes[index]) | pixels(boxes[k])).sum()
            for k in kept
        ]
        if all(each <= 0.45 for each in overlap):
            kept.append(index)
    assert nms(torch.tensor(boxes).float(), torch.tensor(scores), 0.45).tolist() == kept


def test_one_pixel_of_three_overlaps_them_by_a_third():
    for three in ([0.0, 0, 2, 0], [0.0, 0, 0, 2]):
        boxes, scores = torch.tensor([three, [0.0, 0, 0, 0]]), torch.tensor([0.9, 0.8])
        assert nms(boxes, scores, 0.34).tolist() == [0, 1]
        assert nms(boxes, scores, 0.33).tolist() == [0]


def test_anchors_are_rounded_as_in_faster_r_cnn():
    assert cell_anchors(16) == [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]]


def test_anchors_go_row_by_row_and_cell_by_cell():
    anchors = anchors_of(16, 2, 3, torch.device("cpu")).reshape(2, 3, 3, 4)
    torch.testing.assert_close(anchors[1, 2, 0], torch.tensor([-84.0 + 32, -40.0 + 16, 99.0 + 32, 55.0 + 16]))


@pytest.mark.parametrize("count", [7, 60])
def test_proposals_are_the_best_of_each_level_without_duplicates(count):
    torch.manual_seed(0)
    shapes = ((3, 4), (2, 2), (1, 2), (1, 1), (1, 1))
    levels = [Level(torch.randn(3, *shape), 0.5 * torch.randn(12, *shape)) for shape in shapes]
    size, boxes, scores = torch.tensor([60, 90]), [], []
    for level, (height, width), stride in zip(levels, shapes, (4, 8, 16, 32, 64), strict=True):
        anchors, own = anchors_of(stride, height, width, torch.device("cpu")).reshape(height, width, 3, 4), []
        for y, x, shape in np.ndindex(height, width, 3):
            moved = decode(level.deltas[4 * shape : 4 * shape + 4, y, x][None], anchors[y, x, shape][None])
            own.append((level.logits[shape, y, x].sigmoid().item(), clip(moved, size)[0]))
        own = sorted(own, key=lambda each: -each[0])[:10]
        kept = nms(torch.stack([box for _, box in own]), torch.tensor([score for score, _ in own]), 0.4)[:count]
        scores += [own[at][0] for at in kept]
        boxes += [own[at][1] for at in kept]
    best = sorted(range(len(boxes)), key=lambda at: -scores[at])[:count]
    found = propose(levels, size, Proposals(10, count, 0.4))
    torch.testing.assert_close(found.boxes, torch.stack(boxes)[best])
    torch.testing.assert_close(found.scores, torch.tensor(scores)[best])
