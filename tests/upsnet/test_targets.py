"""What the heads must answer: against the original's recorded samples, and against small scenes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.data.batches import UNLABELLED, Target
from tests.given import given_folder
from tests.parity import upsnet as adapter
from tests.parity.case import read_case
from upsnet.boxes import encode, ious
from upsnet.config import Train
from upsnet.proposals import Level, all_anchors
from upsnet.targets import (
    IGNORED,
    Objects,
    anchor_targets,
    at_random,
    keep_boxes,
    lesson,
    mask_targets,
    panoptic_target,
    region_semantics,
    region_targets,
    semantic_channels,
)

CPU = torch.device("cpu")


def levels(height: int, width: int) -> list[Level]:
    sizes = [(height // stride, width // stride) for stride in (4, 8, 16, 32, 64)]
    return [Level(torch.zeros(3, *size), torch.zeros(12, *size)) for size in sizes]


@pytest.fixture(scope="module")
def recorded():
    return read_case(given_folder("MASKWORKS_PARITY", "upsnet") / "resnet50_coco")


def test_the_anchors_are_those_that_the_original_samples(recorded):
    inputs = recorded.inputs
    whole = inputs["gt_is_crowd"] == 0
    boxes = torch.from_numpy(inputs["gt_boxes"][whole] * inputs["im_info"][0, 2])
    anchors = torch.cat(all_anchors(levels(256, 384)[:4] + levels(256, 384)[4:]))
    settings = recorded.spec["settings"]["train"]
    train = Train(anchors=settings["rpn_batch_size"])
    found = anchor_targets(anchors, boxes, torch.from_numpy(inputs["im_info"][0, :2]), train, adapter.evenly)
    for stride, labels, deltas in zip(
        (4, 8, 16, 32, 64), *(by_level(values) for values in (found.labels, found.deltas)), strict=True
    ):
        _, height, width = inputs[f"rpn_target/field_p{stride}"]
        anchor, row, column = np.unravel_index(inputs[f"rpn_target/index_p{stride}"], (3, height, width))
        places = (row * (384 // stride) + column) * 3 + anchor
        assert sorted(places) == torch.nonzero(labels >= 0)[:, 0].tolist()
        assert (labels[places].numpy() == inputs[f"rpn_target/label_p{stride}"]).all()
        np.testing.assert_allclose(deltas[places], inputs[f"rpn_target/delta_p{stride}"], atol=1e-6)


def by_level(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return values.split([256 // stride * (384 // stride) * 3 for stride in (4, 8, 16, 32, 64)])


def test_the_regions_are_those_that_the_original_samples(recorded):
    inputs, scale = recorded.inputs, float(recorded.inputs["im_info"][0, 2])
    proposals = torch.from_numpy(recorded.outputs["train/proposals@sample"].reshape(-1, 5)[:, 1:])
    labels = torch.from_numpy(inputs["gt_classes"]).long()
    objects = Objects(torch.from_numpy(inputs["gt_boxes"]), labels, torch.from_numpy(inputs["gt_is_crowd"] == 1))
    found = region_targets(proposals / scale, objects, Train(), adapter.evenly)
    assert (found.labels.numpy() == inputs["sampled/cls_label"]).all()
    np.testing.assert_allclose(found.boxes * scale, inputs["sampled/rois"][:, 1:], atol=1e-3)
    np.testing.assert_allclose(found.deltas, inputs["sampled/bbox_target"][: len(found.deltas)], atol=1e-4)


def test_the_semantics_of_a_region_are_the_originals(recorded):
    inputs, scale = recorded.inputs, float(recorded.inputs["im_info"][0, 2])
    boxes = torch.from_numpy(inputs["gt_boxes"][inputs["gt_is_crowd"] == 0]) * scale
    found = region_semantics(torch.from_numpy(inputs["gt_semantic_net"][0]).long(), boxes)
    assert (found.numpy() != inputs["gt_semantic_roi"]).mean() < 1e-3  # a corner within rounding of a half


def test_without_objects_every_sample_is_background():
    nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    anchors = torch.cat(all_anchors(levels(192, 192)))
    found = anchor_targets(anchors, nothing.boxes, torch.tensor([192, 192]), Train(anchors=64), at_random(CPU))
    assert ((found.labels == 0).sum(), (found.labels == 1).sum()) == (64, 0)
    regions = region_targets(anchors[:20], nothing, Train(rois=8), at_random(CPU))
    assert regions.labels.tolist() == [0] * 8
    assert not len(regions.deltas)


@given(st.integers(0, 1000))
def test_samples_keep_their_numbers_and_thresholds(seed):
    torch.manual_seed(seed)
    corner, side = torch.rand(40, 2) * 150, torch.rand(40, 2) * 80 + 4
    boxes = torch.cat((corner, corner + side), dim=1)
    objects = Objects(boxes[:4], torch.tensor([1, 2, 3, 1]), torch.tensor([False, False, False, True]))
    train = Train(rois=16)
    found = region_targets(boxes, objects, train, at_random(CPU))
    positive = found.labels > 0
    assert positive.sum() == len(found.deltas) <= 4
    assert len(found.labels) <= 16
    best = ious(found.boxes, objects.boxes).amax(dim=1)
    assert (best[positive] >= 0.5).all()
    assert (best[~positive] < 0.5).all()


def first_of(count: int, wanted: int) -> torch.Tensor:
    return torch.arange(count)[:wanted]


def whole_boxes(random: np.random.RandomState, count: int, lowest: int = 0) -> torch.Tensor:
    corners = random.randint(lowest, 45, (count, 2))
    return torch.from_numpy(np.concatenate((corners, corners + random.randint(3, 25, (count, 2))), axis=1)).float()


@given(st.integers(1, 3), st.integers(4, 40), st.integers(0, 1000))
def test_every_anchor_learns_what_the_original_tells_it_one_at_a_time(count, wanted, seed):
    random = np.random.RandomState(seed)
    anchors, objects = whole_boxes(random, 60, lowest=-3), whole_boxes(random, count)
    train = Train(anchors=wanted, positive_anchors=0.25, positive_iou=0.5, negative_iou=0.2)
    found = anchor_targets(anchors, objects, torch.tensor([50, 60]), train, first_of)
    overlaps, labels = ious(anchors, objects), [IGNORED] * 60
    inside = [at for at, (x1, y1, x2, y2) in enumerate(anchors.tolist()) if min(x1, y1) >= 0 and x2 < 60 and y2 < 50]
    best = overlaps[inside].amax(dim=0)
    positive = [at for at in inside if overlaps[at].max() >= 0.5 or (overlaps[at] == best).any()]
    positive = positive[max(len(positive) - wanted // 4, 0) :]  # the first were chosen to go
    for at in positive:
        labels[at] = 1
    negative = [at for at in inside if overlaps[at].max() < 0.2]
    if len(negative) > wanted - len(positive):
        for at in negative[: wanted - len(positive)]:
            labels[at] = 0
    assert found.labels.tolist() == labels
    deltas = encode(objects[overlaps.argmax(dim=1)], anchors) * (found.labels == 1)[:, None]
    assert torch.equal(found.deltas, deltas)


@given(st.integers(0, 4), st.integers(0, 1000))
def test_every_region_learns_what_it_overlaps_most(crowds, seed):
    random = np.random.RandomState(seed)
    boxes, proposals = whole_boxes(random, 3 + crowds), whole_boxes(random, 30)
    objects = Objects(boxes, torch.arange(3 + crowds) + 1, torch.arange(3 + crowds) >= 3)
    found = region_targets(proposals, objects, Train(rois=20, positive_rois=0.28, roi_iou=0.3), first_of)
    candidates = torch.cat((boxes[:3], proposals))
    best, nearest = ious(candidates, boxes).max(dim=1)
    positive = (best >= 0.3).nonzero()[:, 0][:6]  # of 5.6
    chosen = torch.cat((positive, (best < 0.3).nonzero()[:, 0][: 20 - len(positive)]))
    assert torch.equal(found.boxes, candidates[chosen])
    assert found.labels.tolist() == (nearest[positive] + 1).tolist() + [0] * (len(chosen) - len(positive))
    assert torch.equal(found.deltas, encode(boxes[nearest[positive]], candidates[positive], (10.0, 10.0, 5.0, 5.0)))
    assert found.positive().tolist() == [label > 0 for label in found.labels]


def test_a_proposal_on_a_crowd_learns_the_crowds_class():
    objects = Objects(
        torch.tensor([[50.0, 50, 60, 60], [0, 0, 40, 40]]), torch.tensor([1, 2]), torch.tensor([False, True])
    )
    found = region_targets(torch.tensor([[0.0, 0, 39, 40]]), objects, Train(positive_rois=1.0), at_random(CPU))
    assert sorted(found.labels.tolist()) == [1, 2]


def test_a_mask_is_what_lies_in_the_middle_of_the_regions_cells():
    masks = torch.zeros(2, 60, 60, dtype=torch.bool)
    masks[0, 10:38, 10:24] = True  # the left half of its region
    masks[1, 40:, 40:] = True
    objects = torch.tensor([[10.0, 10, 23, 37], [40, 40, 59, 59]])
    regions = torch.tensor([[10.0, 10, 38, 38], [40, 40, 54, 54], [45, 45, 75, 75]])  # the last beyond the image
    target = mask_targets(regions, objects, masks)
    assert target[0, :, :14].all()
    assert not target[0, :, 14:].any()
    assert target[1:].all()


def test_channels_are_stuff_first():
    semantic = torch.tensor([[0, 1, 2, 4, UNLABELLED]], dtype=torch.uint8)
    assert semantic_channels(semantic, things=2, stuff=3).tolist() == [[3, 4, 0, 2, UNLABELLED]]


def test_things_that_the_panoptic_head_is_not_told_of_become_void():
    channels = torch.tensor([[0, 3, 3, 4, UNLABELLED]])  # three classes of stuff
    masks = torch.tensor([[[False, True, False, False, False]], [[False, True, False, True, False]]])
    assert panoptic_target(channels, masks, stuff=3).tolist() == [[0, 4, 5, 4, UNLABELLED]]
    assert panoptic_target(channels, masks[:0], stuff=3).tolist() == [[0, 3, 3, 3, UNLABELLED]]


def test_at_least_one_object_is_told():
    assert keep_boxes(1, 0.7, at_random(CPU)).tolist() == [0]
    assert len(keep_boxes(10, 0.7, at_random(CPU))) == 7
    assert not len(keep_boxes(0, 0.7, at_random(CPU)))


def test_a_lesson_tells_each_head_of_the_same_objects():
    random = np.random.RandomState(0)
    masks = torch.from_numpy(random.rand(2, 96, 80) > 0.5)
    semantic = torch.from_numpy(random.randint(0, 5, (96, 80)).astype(np.uint8))
    boxes, crowd = torch.tensor([[10.0, 10, 40, 40], [30, 50, 60, 80]]), torch.tensor([[20.0, 5, 44, 30]])
    target = Target(boxes, torch.tensor([1, 0]), masks, "", crowd, torch.tensor([1]), semantic=semantic)
    anchors, proposals, size = whole_boxes(random, 50), whole_boxes(random, 30), torch.tensor([60, 70])
    train = Train(anchors=20, rois=10, roi_iou=0.2, panoptic_boxes=0.5)
    found = lesson(anchors, proposals, size, target, (2, 3), train, first_of)
    objects = Objects(torch.cat((boxes, crowd)), torch.tensor([2, 1, 2]), torch.tensor([False, False, True]))
    regions = region_targets(proposals, objects, train, first_of)
    covering = regions.boxes[: len(regions.deltas)]
    channels = semantic_channels(semantic, things=2, stuff=3)
    quarter = panoptic_target(channels[::4, ::4], masks[:1, ::4, ::4], stuff=3)
    expected = (
        *anchor_targets(anchors, boxes, size, train, first_of),
        *regions,
        *(covering, regions.labels[: len(covering)], mask_targets(covering, boxes, masks)),
        *(channels, boxes, region_semantics(channels, boxes)),
        *(boxes[:1], torch.tensor([2]), quarter),
    )
    assert len(covering) == 2
    for head, wanted in zip((value for part in found for value in part), expected, strict=True):
        assert torch.equal(head, wanted)
    nobody = Target(boxes[:0], torch.zeros(0).long(), masks[:0], "", crowd, torch.tensor([1]), semantic=semantic)
    assert not len(lesson(anchors, proposals, size, nobody, (2, 3), train, first_of).masks.boxes)  # of a crowd alone
