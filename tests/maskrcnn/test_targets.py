"""What anchors and regions must learn, against hand-made overlaps and pycocotools."""

import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from common.data.batches import Target
from maskrcnn.config import MMDETECTION, TORCHVISION, Conventions, Proposals, Regions
from maskrcnn.targets import (
    BACKGROUND,
    IGNORED,
    anchor_targets,
    choose_at_random,
    from_outlines,
    mask_targets,
    match,
    match_anchors,
    region_targets,
    sample,
    without_empty_boxes,
)

# two objects, five boxes
IOU = torch.tensor([[0.8, 0.6, 0.2, 0.5, 0.0], [0.1, 0.65, 0.25, 0.5, 0.0]])


def test_boxes_between_the_thresholds_are_ignored():
    assert match(IOU, 0.7, 0.3, None, 0.0).tolist() == [0, IGNORED, BACKGROUND, IGNORED, BACKGROUND]


def test_every_object_claims_its_best_boxes():
    # the second object's best box is 1; with "best" it learns what is best for it, which is the second too
    assert match(IOU, 0.7, 0.3, "best", 0.0).tolist() == [0, 1, BACKGROUND, IGNORED, BACKGROUND]
    near = torch.tensor([[0.8, 0.6], [0.1, 0.5]])
    assert match(near, 0.7, 0.3, "best", 0.0).tolist() == [0, 0]
    assert match(near, 0.7, 0.3, "own", 0.0).tolist() == [0, 1]
    assert match(near, 0.7, 0.3, "own", 0.55).tolist() == [0, IGNORED]
    assert match(torch.tensor([[0.5, 0.1], [0.1, 0.8]]), 0.7, 0.3, "own", 0.0).tolist() == [0, 1]


def test_ties_are_claimed_together_and_no_overlap_claims_nothing():
    assert match(torch.tensor([[0.4, 0.4, 0.1], [0.0, 0.0, 0.0]]), 0.7, 0.3, "best", 0.0).tolist() == [0, 0, BACKGROUND]


def test_without_objects_all_is_background():
    assert match(torch.zeros(0, 3), 0.7, 0.3, "best", 0.0).tolist() == [BACKGROUND] * 3


def test_a_sample_is_filled_up_with_background():
    matched = torch.tensor([0, 1, BACKGROUND, BACKGROUND, IGNORED, 0, BACKGROUND])
    positives, negatives = sample(matched, 4, 0.5, lambda total, count, device: torch.arange(total)[:count])
    assert (positives.tolist(), negatives.tolist()) == ([0, 1], [2, 3])
    positives, negatives = sample(matched, 6, 0.25, choose_at_random)
    assert (len(positives), len(negatives)) == (1, 3)
    assert set(positives.tolist()) <= {0, 1, 5}


def test_anchors_over_the_border_are_ignored_only_where_asked():
    anchors = torch.tensor([[-1.0, 0, 9, 9], [0, 0, 9, 9], [5, 5, 20, 14]])
    objects, size = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([15, 20])
    strict = match_anchors(anchors, objects, size, Proposals(), Conventions())
    assert strict.tolist() == [IGNORED, 0, IGNORED]
    lenient = match_anchors(anchors, objects, size, Proposals(inside_only=False), Conventions())
    assert lenient.tolist() == [0, 0, BACKGROUND]
    wide = torch.tensor([[4.0, 4, 23, 8]])  # twice as wide and half as high as the anchor
    taught = anchor_targets(torch.tensor([[4.0, 4, 13, 13]]), wide, size, Proposals(), Conventions(), choose_at_random)
    assert taught.deltas.tolist() == [pytest.approx([0.5, -0.25, math.log(2), -math.log(2)])]


def test_objects_own_boxes_are_regions_too():
    boxes = torch.tensor([[10.0, 10, 30, 30], [50, 50, 70, 90]])
    target = Target(boxes, torch.tensor([4, 7]), torch.zeros(2, 100, 100, dtype=torch.bool))
    moved = boxes[:1] + torch.tensor([5.0, 0, 5, 0])
    found = region_targets(moved, target, Regions(positive_fraction=1.0), TORCHVISION, choose_at_random)
    assert torch.equal(found.boxes, torch.cat((moved, boxes)))
    assert (found.objects.tolist(), found.labels.tolist()) == ([0, 0, 1], [4, 4, 7])
    assert found.deltas.tolist() == [[-0.25 * 10, 0, 0, 0], [0] * 4, [0] * 4]


def test_an_image_without_objects_teaches_background():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20]])
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 50, 50, dtype=torch.bool))
    found = region_targets(boxes, target, Regions(), Conventions(), choose_at_random)
    assert found.labels.tolist() == [BACKGROUND, BACKGROUND]
    assert len(found.objects) == len(found.deltas) == 0
    anchors = anchor_targets(boxes, target.boxes, torch.tensor([50, 50]), Proposals(), Conventions(), choose_at_random)
    assert (len(anchors.positives), len(anchors.negatives)) == (0, 2)


def outlines(seed: int) -> list[list[np.ndarray]]:
    random = np.random.RandomState(seed)
    return [[random.uniform(0, 100, (random.randint(3, 9), 2)).astype(np.float32) for _ in range(2)] for _ in range(4)]


@pytest.mark.parametrize("seed", range(3))
def test_outlines_are_drawn_as_pycocotools_does(seed):
    drawn = outlines(seed)
    boxes = np.random.RandomState(seed).uniform(0, 50, (4, 4)) + np.array([0, 0, 45, 45])
    masks = from_outlines(drawn, boxes, 100, 100, 28)
    for mask, parts, (x1, y1, x2, y2) in zip(masks, drawn, boxes, strict=True):
        scale = np.array([28 / (x2 - x1), 28 / (y2 - y1)])
        moved = [((part - [x1, y1]) * scale).ravel().tolist() for part in parts]
        expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(moved, 28, 28)))
        # the coordinates are rounded to float32, as the original's: a corner may fall on the other side
        assert (mask.numpy() != expected.astype(bool)).sum() <= 2


@pytest.mark.parametrize("conventions", [Conventions(), MMDETECTION, TORCHVISION])
def test_the_mask_under_an_objects_own_box_is_the_object(conventions):
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 10:38, 20:34] = True  # the left half of the box
    box = torch.tensor([[20.0, 10, 48, 38]])
    outline = np.array([[20, 10], [34, 10], [34, 38], [20, 38]], np.float32)
    for polygons in ([[outline]], [[]], None):
        target = Target(box, torch.tensor([0]), masks, polygons=polygons)
        drawn = mask_targets(box, torch.tensor([0]), target, torch.tensor([64, 64]), 28, conventions)
        assert drawn.shape == (1, 28, 28)
        assert drawn[0, 2:-2, :12].min() > 0.9
        assert drawn[0, :, 16:].max() < 0.1


@pytest.mark.parametrize("inclusive", [True, False])
def test_where_a_cell_is_a_pixel_the_target_is_the_mask(inclusive):
    masks = torch.from_numpy(np.random.RandomState(0).rand(3, 20, 20) > 0.5)
    end = 9.0 if inclusive else 10.0
    boxes = torch.tensor([[4.0, 4, end, end], [7, 2, end + 3, end - 2]])
    target = Target(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), masks)
    conventions = Conventions(inclusive_corners=inclusive, mask_targets="mmdetection", aligned=True)
    drawn = mask_targets(boxes, torch.tensor([2, 0]), target, torch.tensor([20, 20]), 6, conventions)
    assert torch.equal(drawn, torch.stack((masks[2, 4:10, 4:10], masks[0, 2:8, 7:13])).float())


def test_an_object_given_as_rle_stands_beside_one_given_as_outlines():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, 10:38, 20:34] = True
    outline = np.array([[20, 10], [34, 10], [34, 38], [20, 38]], np.float32)
    boxes = torch.tensor([[20.0, 10, 48, 38]]).repeat(2, 1)
    target = Target(boxes, torch.tensor([0, 0]), masks, polygons=[[], [outline]])
    drawn = mask_targets(boxes, torch.tensor([1, 0]), target, torch.tensor([64, 64]), 28, TORCHVISION_WITH_OUTLINES)
    assert (drawn[0] != drawn[1]).float().mean() < 0.05
    assert drawn.mean() == pytest.approx(0.5, abs=0.05)


TORCHVISION_WITH_OUTLINES = Conventions(inclusive_corners=False, mask_targets="polygons")


def test_objects_without_width_are_left_out():
    boxes = torch.tensor([[5.0, 5, 5, 9], [1, 1, 4, 4]])
    target = Target(boxes, torch.tensor([3, 4]), torch.zeros(2, 9, 9, dtype=torch.bool), polygons=[[], []])
    left = without_empty_boxes(target, TORCHVISION)
    assert left.labels.tolist() == [4]
    assert len(left.polygons) == len(left.masks) == 1
    assert without_empty_boxes(target, Conventions()) is target  # a pixel wide, to its last pixel
