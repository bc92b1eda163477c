"""The loss terms by hand-computed numbers and at their edges."""

import math

import torch

from common.batches import Target
from solov2.config import Model
from solov2.losses import dice_loss, solov2_losses

CONFIG = Model(grids=(2,), scale_ranges=((1.0, 100.0),))


def answers(logit: float) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    logits = torch.full((1, 3, 2, 2), logit, requires_grad=True)
    kernels = torch.zeros(1, 4, 2, 2, requires_grad=True)
    return [logits], [kernels], torch.zeros(1, 4, 8, 8, requires_grad=True)


def square_target() -> Target:
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[0, 4:12, 4:12] = True  # centre of mass 7.5: the first cell alone
    return Target(torch.tensor([[4.0, 4, 12, 12]]), torch.tensor([1]), masks)


def test_dice_of_half_probabilities():
    # p = 0.5 on 4 pixels, t = 1 on 2: 1 - 2 * 1 / (4 * 0.25 + 2 + 0.002)
    loss = dice_loss(torch.full((1, 4), 0.5), torch.tensor([[1.0, 1, 0, 0]]))
    torch.testing.assert_close(loss, torch.tensor([1 - 2 / 3.002]))


def test_dice_of_two_empty_masks_is_one():
    assert dice_loss(torch.zeros(1, 9), torch.zeros(1, 9)).item() == 1.0


def test_both_terms_of_one_object_by_hand():
    terms = solov2_losses(*answers(0.0), [square_target()], CONFIG)
    # masks are 0.5 on 64 pixels; the target has 2 x 2 of 8 x 8
    dice = 1 - 2 * (0.5 * 4) / (64 * 0.25 + 4 + 0.002)
    assert math.isclose(terms["mask"].item(), 3 * dice, rel_tol=1e-6)
    # 12 logits at p = 0.5, one positive; divided by 1 positive + 1
    focal = (0.25 * 0.25 + 11 * 0.75 * 0.25) * math.log(2) / 2
    assert math.isclose(terms["category"].item(), focal, rel_tol=1e-6)


def test_a_batch_without_objects_has_a_zero_mask_term_that_backward_passes():
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 32, 32, dtype=torch.bool))
    logits, kernels, feature = answers(-4.0)
    terms = solov2_losses(logits, kernels, feature, [nothing], CONFIG)
    assert terms["mask"].item() == 0
    sum(terms.values()).backward()
    assert torch.isfinite(logits[0].grad).all()
    assert kernels[0].grad is not None
    assert (feature.grad == 0).all()


def test_losses_stay_finite_for_extreme_answers():
    logits, kernels, feature = answers(1e4)
    terms = solov2_losses(logits, [kernels[0] + 1e4], feature + 1e2, [square_target()], CONFIG)
    assert all(torch.isfinite(term) for term in terms.values())
