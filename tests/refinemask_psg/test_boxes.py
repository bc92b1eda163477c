"""Boxes: deltas of several classes, suppression, proposals' targets; against torchvision and by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from refinemask_psg.boxes import decode, level_anchors, nms_within, pairwise_iou
from refinemask_psg.targets import BACKGROUND, IGNORED, Candidates, choose, match

seeds = st.integers(0, 2**31 - 1)
STDS = (0.1, 0.1, 0.2, 0.2)


def random_boxes(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100
    return torch.cat((corners, corners + 1 + 50 * torch.rand(count, 2, generator=generator)), dim=1)


def test_empty_boxes_overlap_nothing():
    empty = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert pairwise_iou(empty, empty).item() == 0


def test_deltas_of_several_classes_are_decoded_each():
    boxes = random_boxes(0, 2)
    deltas = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = decode(boxes, deltas, STDS)
    for label in range(3):
        torch.testing.assert_close(found[:, label], decode(boxes, deltas[:, label], STDS))


def test_a_delta_can_not_blow_up_a_box():
    found = decode(torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([[0.0, 0.0, 100.0, -100.0]]), (1, 1, 1, 1))
    torch.testing.assert_close(found, torch.tensor([[8 - 500, 8 - 0.128, 8 + 500, 8 + 0.128]]))


@given(seeds, st.floats(0.1, 0.9))
def test_suppression_is_torchvisions_within_each_group(seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    boxes, scores = random_boxes(seed, 40), torch.rand(40, generator=generator)
    groups = torch.randint(3, (40,), generator=generator)
    assert (
        nms_within(boxes, scores, groups, threshold).tolist() == batched_nms(boxes, scores, groups, threshold).tolist()
    )


def test_anchors_have_their_level_s_area_around_each_cell():
    anchors = level_anchors(2, 3, stride=4, scale=8, device=torch.device("cpu")).view(2, 3, 3, 4)
    sides = anchors[..., 2:] - anchors[..., :2]
    torch.testing.assert_close(sides.prod(dim=-1), torch.full((2, 3, 3), 32.0**2))
    torch.testing.assert_close(sides[0, 0, :, 1] / sides[0, 0, :, 0], torch.tensor([0.5, 1.0, 2.0]))
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    assert centres[1, 2, 0].tolist() == [8, 4]  # x, y


OBJECTS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])


@pytest.mark.parametrize(
    ("box", "low_quality", "expected"),
    [
        ([0, 0, 10, 8], False, 0),  # overlap 0.8
        ([0, 0, 10, 5], False, IGNORED),  # 0.5
        ([0, 0, 10, 2], False, BACKGROUND),  # 0.2
        ([20, 0, 30, 4], True, 1),  # 0.4, the best there is for that object
        ([20, 0, 30, 2], True, BACKGROUND),  # 0.2 is not enough even so
    ],
)
def test_boxes_are_matched_by_their_overlap(box, low_quality, expected):
    matches = match(torch.tensor([box]).float(), OBJECTS, 0.7, 0.3, smallest=0.3, low_quality=low_quality)
    assert matches.tolist() == [expected]


def test_of_two_objects_that_claim_a_box_the_last_gets_it():
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert match(box, objects, 0.5, 0.5, smallest=0.5, low_quality=False).tolist() == [0]
    assert match(box, objects, 0.5, 0.5, smallest=0.5, low_quality=True).tolist() == [1]


def test_without_objects_everything_is_background():
    assert match(OBJECTS, torch.zeros(0, 4), 0.7, 0.3, smallest=0.3, low_quality=True).tolist() == [BACKGROUND] * 2


def test_samples_are_as_many_as_asked_and_sorted():
    candidates = torch.arange(100, 110)
    assert choose(candidates, 4, "even", None).tolist() == [100, 102, 105, 107]
    hardness = torch.zeros(110)
    hardness[[103, 109, 101]] = torch.tensor([3.0, 2.0, 1.0])
    assert choose(candidates, 2, "hard", hardness).tolist() == [103, 109]
    chosen = choose(candidates, 6, "random", None)
    assert len(set(chosen.tolist())) == 6
    assert chosen.tolist() == sorted(chosen.tolist())
    assert choose(candidates, 20, "random", None).tolist() == candidates.tolist()


def test_the_objects_themselves_are_candidates():
    proposals = torch.tensor([[0.0, 0.0, 10.0, 9.0], [50.0, 50.0, 60.0, 60.0]])
    candidates = Candidates.of(proposals, OBJECTS, torch.tensor([3, 1]), 5, iou=0.5, low_quality=True)
    assert candidates.labels.tolist() == [3, 1, 3, 5]
    sampled = candidates.sample(OBJECTS, 16, "random", None)
    assert sampled.labels.tolist() == [3, 1, 3, 5]
    assert sampled.is_true_box.tolist() == [True, True, False]
    assert sampled.true_boxes.tolist() == OBJECTS[[0, 1, 0]].tolist()


def test_at_most_a_quarter_of_the_samples_is_positive():
    proposals = OBJECTS[:1].repeat(20, 1)
    candidates = Candidates.of(proposals, OBJECTS, torch.tensor([3, 1]), 5, iou=0.5, low_quality=False)
    sampled = candidates.sample(OBJECTS, 8, "random", None)
    assert (sampled.labels < 5).sum() == len(sampled.objects) == 2
