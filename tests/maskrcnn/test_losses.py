"""The five terms, anchor by anchor and region by region."""

import math
from itertools import product

import pytest
import torch

from maskrcnn.losses import box_losses, mask_loss, proposal_losses
from maskrcnn.targets import AnchorTargets

BETA = 0.25


def smooth_l1(differences: torch.Tensor) -> float:
    sizes = differences.abs().flatten().tolist()
    return sum(size**2 / (2 * BETA) if size < BETA else size - BETA / 2 for size in sizes)


def costs(logit: float, wanted: float) -> float:
    """Cross entropy of one sigmoid."""
    probability = 1 / (1 + math.exp(-logit))
    return -wanted * math.log(probability) - (1 - wanted) * math.log(1 - probability)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_proposals_cost_the_mean_over_the_batchs_sampled_anchors(kind):
    torch.manual_seed(0)
    shapes = ((3, 2), (1, 2))  # of levels, with two anchors at each place
    logits = [torch.randn(2, 2, *shape).to(kind) for shape in shapes]
    deltas = [torch.randn(2, 8, *shape).to(kind) for shape in shapes]
    none, wanted = torch.tensor([], dtype=torch.int64), 0.5 * torch.randn(3, 4)
    targets = [
        AnchorTargets(torch.tensor([1, 6, 15]), torch.tensor([0, 10, 12]), wanted),
        AnchorTargets(none, torch.tensor([7]), torch.zeros(0, 4)),
    ]
    terms = proposal_losses(logits, deltas, targets, BETA)
    places = [
        (level, shape, row, column)
        for level, (height, width) in enumerate(shapes)
        for row, column, shape in product(range(height), range(width), range(2))
    ]
    objectness = boxes = 0.0
    for image, target in enumerate(targets):
        for label, anchors in ((0, target.negatives), (1, target.positives)):
            for level, *place in (places[number] for number in anchors.tolist()):
                objectness += costs(logits[level][image, *place].item(), label)
        for number, delta in zip(target.positives.tolist(), target.deltas, strict=True):
            level, shape, row, column = places[number]
            boxes += smooth_l1(deltas[level][image, 4 * shape : 4 * shape + 4, row, column].float() - delta)
    assert terms["objectness"].item() == pytest.approx(objectness / 7, rel=1e-5)
    assert terms["proposal_boxes"].item() == pytest.approx(boxes / 7, rel=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_boxes_cost_the_mean_over_all_regions_and_masks_that_over_their_pixels(kind):
    torch.manual_seed(1)
    logits, deltas, masks = (torch.randn(shape).to(kind) for shape in ((5, 4), (2, 4), (2, 3, 2, 2)))
    wanted, drawn = torch.randn(2, 4), torch.rand(2, 2, 2)
    terms = box_losses(logits, torch.tensor([2, 0, 3, 3, 3]), deltas, wanted, BETA)
    chosen = logits.double().softmax(dim=1)[range(5), [2, 0, 3, 3, 3]]
    assert terms["category"].item() == pytest.approx(-chosen.log().sum().item() / 5, rel=1e-5)
    assert terms["boxes"].item() == pytest.approx(smooth_l1(deltas.float() - wanted) / 5, rel=1e-5)
    pairs = zip(masks[[0, 1], [2, 0]].flatten().tolist(), drawn.flatten().tolist(), strict=True)
    loss = mask_loss(masks, torch.tensor([2, 0]), drawn)
    assert loss.item() == pytest.approx(sum(costs(*pair) for pair in pairs) / 8, rel=1e-5)


def test_nothing_to_learn_from_costs_nothing_and_stays_part_of_the_graph():
    none = torch.tensor([], dtype=torch.int64)
    logits, deltas = torch.zeros(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 4, 2, 2, requires_grad=True)
    nothing = [AnchorTargets(none, none, torch.zeros(0, 4))]
    empty = torch.zeros(0, 4, requires_grad=True)
    terms = proposal_losses([logits], [deltas], nothing, BETA) | box_losses(empty, none, empty, torch.zeros(0, 4), BETA)
    terms["mask"] = mask_loss(torch.zeros(0, 3, 2, 2, requires_grad=True), none, torch.zeros(0, 2, 2))
    assert [term.item() for term in terms.values()] == [0] * 5
    sum(terms.values()).backward()
