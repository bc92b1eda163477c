"""Boxes of every package that counts in pixels: overlap, deltas and the image's edge, by one set of examples."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import glip.boxes
import maskrcnn.boxes
import refinemask_psg.boxes
import upsnet.boxes

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
STDS = (0.1, 0.1, 0.2, 0.2)


class Kind(NamedTuple):
    """A package's functions, and whether a box ends at its last pixel or behind it."""

    overlaps: Callable[[Any, Any], torch.Tensor]
    encode: Callable[[Any, Any], torch.Tensor]  # boxes, references
    decode: Callable[[Any, Any], torch.Tensor]  # deltas, references
    clip: Callable[[Any, int, int], torch.Tensor]  # boxes, height, width
    last: int


def of_maskrcnn(inclusive: bool) -> Kind:
    ours = maskrcnn.boxes
    return Kind(
        partial(ours.overlaps, inclusive=inclusive),
        partial(ours.encode, weights=WEIGHTS, inclusive=inclusive),
        partial(ours.decode, weights=WEIGHTS, inclusive=inclusive, both_ways=inclusive),
        lambda boxes, height, width: ours.clip(boxes, torch.tensor([height, width]), inclusive),
        int(inclusive),
    )


KINDS = {
    "glip": Kind(glip.boxes.iou, glip.boxes.encode, glip.boxes.decode, glip.boxes.clip, 1),
    "upsnet": Kind(
        upsnet.boxes.ious,
        partial(upsnet.boxes.encode, weights=WEIGHTS),
        partial(upsnet.boxes.decode, weights=WEIGHTS),
        lambda boxes, height, width: upsnet.boxes.clip(boxes, torch.tensor([height, width])),
        1,
    ),
    "maskrcnn of detectron": of_maskrcnn(True),
    "maskrcnn of mmdetection": of_maskrcnn(False),
    "refinemask_psg": Kind(
        refinemask_psg.boxes.pairwise_iou,
        lambda boxes, references: refinemask_psg.boxes.encode(references, boxes, STDS),
        lambda deltas, references: refinemask_psg.boxes.decode(references, deltas, STDS),
        lambda boxes, height, width: refinemask_psg.boxes.clip(boxes, (height, width)),
        0,
    ),
}

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
pixel_boxes = st.lists(st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 30)] * 2), min_size=1, max_size=6)


def boxes_of(rows: list[tuple[int, int, int, int]], last: int) -> torch.Tensor:
    """Boxes of rows of left, top, width and height in pixels."""
    return torch.tensor([[x, y, x + w - last, y + h - last] for x, y, w, h in rows], dtype=torch.float32)


@each_kind
@given(first=pixel_boxes, second=pixel_boxes)
def test_overlap_counts_pixels(kind, first, second):
    def pixels(row):
        x, y, width, height = row
        return {(x + right, y + down) for right in range(width) for down in range(height)}

    counted = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in second] for a in first]
    found = kind.overlaps(boxes_of(first, kind.last), boxes_of(second, kind.last))
    torch.testing.assert_close(found, torch.tensor(counted))


@each_kind
@given(boxes=pixel_boxes, references=pixel_boxes)
def test_decoding_undoes_encoding(kind, boxes, references):
    count = min(len(boxes), len(references))
    boxes, references = boxes_of(boxes[:count], kind.last), boxes_of(references[:count], kind.last)
    found = kind.decode(kind.encode(boxes, references), references)
    torch.testing.assert_close(found, boxes, rtol=1e-4, atol=1e-3)


@each_kind
def test_deltas_of_a_hand_computed_box(kind):
    reference, box = boxes_of([(0, 0, 10, 10)], kind.last), boxes_of([(5, -2, 20, 10)], kind.last)
    deltas = kind.encode(box, reference)  # by a side to the right, by a fifth up; twice as wide
    torch.testing.assert_close(deltas, torch.tensor([[10.0, -2, 5 * math.log(2), 0]]))
    torch.testing.assert_close(kind.decode(deltas, reference), box)


@each_kind
def test_a_side_grows_at_most_by_1000_over_16(kind):
    grown = kind.decode(torch.tensor([[0.0, 0, 99, 0]]), boxes_of([(0, 0, 16, 16)], kind.last))
    torch.testing.assert_close(grown[0, 2:] - grown[0, :2] + kind.last, torch.tensor([1000.0, 16]))


@each_kind
def test_clipped_boxes_end_at_the_images_last_pixel(kind):
    boxes = torch.tensor([[-3.0, 2.0, 50.0, 60.0], [40.0, 30.0, 50.0, 60.0]])
    x, y = 30 - kind.last, 20 - kind.last
    assert kind.clip(boxes, 20, 30).tolist() == [[0, 2, x, y], [x, y, x, y]]
