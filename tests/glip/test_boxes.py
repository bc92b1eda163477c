"""Anchors, deltas and overlap in boxes that end at their last pixel."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from glip.boxes import anchors_of, clip, decode, encode, iou

corner = st.integers(0, 30)
side = st.integers(0, 30)
boxes = st.lists(st.tuples(corner, corner, side, side), min_size=1, max_size=5).map(
    lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)
)


def test_the_published_anchors():
    levels = anchors_of([(2, 3), (1, 2), (1, 1), (1, 1), (1, 1)], 8.0, torch.device("cpu"))
    assert levels[0][0].tolist() == [-28, -28, 35, 35]
    assert levels[0][4].tolist() == [-20, -20, 43, 43]  # one to the right, one down
    sides = [level[0, 2:] - level[0, :2] + 1 for level in levels]
    assert [side.tolist() for side in sides] == [[64, 64], [128, 128], [256, 256], [512, 512], [1024, 1024]]
    assert levels[1][1].tolist() == [-56 + 16, -56, 71 + 16, 71]
    assert levels[4][0].tolist() == [-448, -448, 575, 575]


@given(boxes, boxes)
def test_decoding_undoes_encoding(targets, anchors):
    pairs = min(len(targets), len(anchors))
    found = decode(encode(targets[:pairs], anchors[:pairs]), anchors[:pairs])
    # growth is limited to 1000 / 16
    assert torch.allclose(found, targets[:pairs], atol=1e-3)


def test_deltas_of_a_hand_computed_box():
    anchor, box = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[5.0, -2, 24, 7]])
    deltas = encode(box, anchor)  # by a side to the right, by a fifth up; twice as wide
    torch.testing.assert_close(deltas, torch.tensor([[10.0, -2, 5 * math.log(2), 0]]))
    torch.testing.assert_close(decode(deltas, anchor), box)


def test_a_side_grows_at_most_by_1000_over_16():
    grown = decode(torch.tensor([[0.0, 0, 99, 0]]), torch.tensor([[0.0, 0, 15, 15]]))
    torch.testing.assert_close(grown[0, 2:] - grown[0, :2] + 1, torch.tensor([1000.0, 16]))


@given(boxes, boxes)
def test_overlap_counts_pixels(first, second):
    def pixels(box):
        grid = np.zeros((64, 64), bool)
        x1, y1, x2, y2 = (int(value) for value in box)
        grid[y1 : y2 + 1, x1 : x2 + 1] = True
        return grid

    expected = [[(pixels(a) & pixels(b)).sum() / (pixels(a) | pixels(b)).sum() for b in second] for a in first]
    assert np.allclose(iou(first, second), expected)


def test_clipped_boxes_end_in_the_last_pixel():
    boxes = torch.tensor([[-3.0, 2.0, 50.0, 60.0], [40.0, 30.0, 50.0, 60.0]])
    assert clip(boxes, height=20, width=30).tolist() == [[0, 2, 29, 19], [29, 19, 29, 19]]
