"""The losses of small answers, written out."""

import math

import pytest
import torch

from common.data.batches import UNLABELLED
from upsnet.losses import (
    box_loss,
    cells_loss,
    class_loss,
    mask_loss,
    proposal_losses,
    semantic_loss,
    told_panoptic_logits,
)
from upsnet.targets import IGNORED, AnchorTargets


def test_anchors_are_divided_by_their_planned_number_and_boxes_by_the_sampled_one():
    targets = AnchorTargets(torch.tensor([1, 0, IGNORED, 0]), torch.zeros(4, 4))
    deltas = torch.tensor([[0.1, 0.0, 2.0, 0.0], [9.0] * 4, [9.0] * 4, [9.0] * 4])
    objectness, boxes = proposal_losses(torch.zeros(4), deltas, targets, anchors=8)
    assert objectness.item() == pytest.approx(3 * math.log(2) / 8)
    assert boxes.item() == pytest.approx((4.5 * 0.1**2 + 2.0 - 1 / 18) / 3)
    _, boxes = proposal_losses(torch.zeros(1), deltas[:1], AnchorTargets(*(each[:1] for each in targets)), anchors=8)
    assert boxes.item() == pytest.approx(4.5 * 0.1**2 + 2.0 - 1 / 18)
    nothing = AnchorTargets(torch.full((4,), IGNORED), torch.zeros(4, 4))
    assert [each.item() for each in proposal_losses(torch.zeros(4), deltas, nothing, anchors=8)] == [0, 0]


def test_only_the_deltas_of_the_regions_class_count():
    deltas = torch.full((2, 12), 5.0)
    deltas[0, 8:] = torch.tensor([0.5, 0.0, 0.0, 3.0])  # those of class 2
    loss = box_loss(deltas, torch.tensor([2, 0]), torch.tensor([0]), torch.zeros(1, 4))
    assert loss.item() == pytest.approx((0.125 + 2.5) / 2)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_classes_cost_the_mean_over_regions_and_masks_that_over_the_pixels_of_their_class(kind):
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 4.0]], dtype=kind)
    expected = -math.log(math.exp(2) / (1 + math.exp(2) + math.e)) - math.log(1 / (2 + math.exp(4)))
    assert class_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(expected / 2, rel=1e-6)
    masks = torch.full((2, 3, 2, 2), 9.0, dtype=kind)
    masks[0, 2], masks[1, 1] = 1.5, -0.5
    targets = torch.tensor([[[True, True], [True, False]], [[False, False], [False, False]]])
    expected = 3 * math.log(1 + math.exp(-1.5)) + math.log(1 + math.exp(1.5)) + 4 * math.log(1 + math.exp(-0.5))
    assert mask_loss(masks, torch.tensor([2, 1]), targets).item() == pytest.approx(expected / 8, rel=1e-6)


def test_unlabelled_pixels_lower_the_mean_of_cells_but_not_of_an_image():
    channels = torch.tensor([[[0, UNLABELLED]]])
    logits = torch.zeros(1, 2, 1, 2)
    assert semantic_loss(logits, channels).item() == pytest.approx(math.log(2))
    assert cells_loss(logits, channels).item() == pytest.approx(math.log(2) / 2)


def test_nothing_to_learn_from_is_a_loss_of_zero_with_a_gradient():
    logits = torch.zeros(0, 3, 28, 28, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    total = mask_loss(logits, none, torch.zeros(0, 28, 28)) + class_loss(logits[:, :, 0, 0], none)
    total = total + semantic_loss(torch.zeros(1, 2, 3, 3), torch.full((1, 3, 3), UNLABELLED))
    total.backward()
    assert total.item() == 0


def test_the_told_panoptic_head_adds_both_terms_inside_the_box():
    semantic = torch.arange(4.0)[:, None, None].expand(4, 6, 6).clone()  # two stuff, two things
    logits = told_panoptic_logits(
        semantic, torch.tensor([[1.0, 1.0, 3.0, 3.0]]), torch.tensor([2]), torch.full((1, 28, 28), 0.5), stuff=2
    )
    assert logits.shape == (4, 6, 6)
    assert logits[2, 2, 2].item() == pytest.approx(3.5)
    assert logits[2, 5, 5].item() == 0
    assert logits[3, 2, 2].item() == 0  # void: 3 - 3
    assert logits[3, 5, 5].item() == 3


def test_without_boxes_void_is_the_best_thing():
    semantic = torch.tensor([[[3.0]], [[2.0]], [[0.5]]])
    none = torch.zeros(0, dtype=torch.int64)
    logits = told_panoptic_logits(semantic, torch.zeros(0, 4), none, torch.zeros(0, 28, 28), stuff=1)
    assert logits[:, 0, 0].tolist() == [3.0, 2.0]
