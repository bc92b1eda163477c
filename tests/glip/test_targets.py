"""ATSS against a plain reading of its paper."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glip.boxes import anchors_of, iou
from glip.targets import NO_OBJECT, Assignment, assign, centerness_of, token_targets

SIZES = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
# odd corners: no two anchors are as near to a box's centre
numbers = st.floats(0, 55).map(lambda value: round(value, 2) + 0.0131)
boxes = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=0, max_size=4).map(
    lambda rows: torch.tensor([[x, y, x + w + 3, y + h * 0.97 + 3] for x, y, w, h in rows]).reshape(-1, 4)
)


def plainly(targets, anchors):
    every, starts = torch.cat(anchors), [0, 64, 80, 84, 85, 86]
    overlaps = iou(every, targets)
    owners = {}
    for number, box in enumerate(targets):
        centre = (box[:2] + box[2:]) / 2
        candidates = []
        for first, last in pairwise(starts):
            middle = (every[first:last, :2] + every[first:last, 2:]) / 2
            order = (middle - centre).norm(dim=1).argsort()[:9]
            candidates += (order + first).tolist()
        values = overlaps[candidates, number]
        for place in candidates:
            x, y = ((every[place, :2] + every[place, 2:]) / 2).tolist()
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlaps[place, number] >= values.mean() + values.std() and inside:
                best = owners.get(place)
                if best is None or overlaps[place, number] > overlaps[place, best]:
                    owners[place] = number
    return sorted(owners.items())


@settings(max_examples=40)
@given(boxes)
def test_assignment(targets):
    anchors = anchors_of(SIZES, 4.0, torch.device("cpu"))
    found = assign(targets, anchors)
    assert list(zip(found.anchors.tolist(), found.objects.tolist(), strict=True)) == plainly(targets, anchors)


def test_anchors_that_all_overlap_a_box_alike_all_answer_for_it():
    halves, box = torch.tensor([[0.0, 0, 3, 3], [4, 0, 7, 3]]), torch.tensor([[0.0, 0, 7, 3]])
    assert assign(box, [halves]).anchors.tolist() == [0, 1]


def test_centerness_is_one_in_the_middle_and_falls_to_the_edges():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).expand(2, 4)
    boxes = torch.tensor([[-5.0, -5.0, 15.0, 15.0], [3.0, 5 - 8.0, 9.0, 13.0]])  # distances 10 and 10; 2, 4 and 8, 8
    assert torch.allclose(centerness_of(boxes, anchors), torch.tensor([1.0, 0.5**0.5]))


def test_only_a_full_caption_has_a_token_for_no_object():
    positive = torch.zeros(1, NO_OBJECT + 1, dtype=torch.bool)
    positive[0, 3] = True
    nobody = Assignment(torch.tensor([1]), torch.tensor([0]))
    full, short = token_targets(positive, nobody, 2), token_targets(positive[:, :20], nobody, 2)
    assert full.nonzero().tolist() == [[0, NO_OBJECT], [1, 3]]
    assert short.nonzero().tolist() == [[1, 3]]
