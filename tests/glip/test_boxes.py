"""Anchors, deltas and overlap in boxes that end at their last pixel."""

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
    assert levels[4][0].tolist() == [-448, -448, 575, 575]


@given(boxes, boxes)
def test_decoding_undoes_encoding(targets, anchors):
    pairs = min(len(targets), len(anchors))
    found = decode(encode(targets[:pairs], anchors[:pairs]), anchors[:pairs])
    # growth is limited to 1000 / 16
    assert torch.allclose(found, targets[:pairs], atol=1e-3)


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
    assert clip(torch.tensor([[-3.0, 2.0, 50.0, 60.0]]), height=20, width=30).tolist() == [[0, 2, 29, 19]]
