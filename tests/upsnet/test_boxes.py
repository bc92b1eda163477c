"""Boxes that end at their last pixel, against their definitions written out."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from upsnet.boxes import clip, decode, encode, ious, nms
from upsnet.proposals import anchors_of, cell_anchors

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


@given(box_lists, box_lists)
def test_the_iou_counts_pixels(first, second):
    expected = [[(pixels(a) & pixels(b)).sum() / (pixels(a) | pixels(b)).sum() for b in second] for a in first]
    torch.testing.assert_close(
        ious(torch.tensor(first).float(), torch.tensor(second).float()), torch.tensor(expected).float()
    )


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


@given(box, box)
def test_decoding_undoes_encoding(target, reference):
    boxes, references = torch.tensor([target]).float(), torch.tensor([reference]).float()
    deltas = encode(boxes, references, (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(decode(deltas, references, (10.0, 10.0, 5.0, 5.0)), boxes, atol=1e-3, rtol=1e-4)


def test_a_side_grows_at_most_by_1000_over_16():
    grown = decode(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 15.0, 15.0]]))
    torch.testing.assert_close(grown[0, 2] - grown[0, 0] + 1, torch.tensor(1000.0))


def test_boxes_are_cut_to_the_last_row_and_column():
    boxes = clip(torch.tensor([[-3.0, 2.0, 50.0, 70.0]]), torch.tensor([30, 40]))
    assert boxes.tolist() == [[0, 2, 39, 29]]


def test_anchors_are_rounded_as_in_faster_r_cnn():
    assert cell_anchors(16) == [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]]


def test_anchors_go_row_by_row_and_cell_by_cell():
    anchors = anchors_of(16, 2, 3, torch.device("cpu")).reshape(2, 3, 3, 4)
    torch.testing.assert_close(anchors[1, 2, 0], torch.tensor([-84.0 + 32, -40.0 + 16, 99.0 + 32, 55.0 + 16]))
