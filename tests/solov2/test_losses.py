"""The loss terms by hand-computed numbers and at their edges."""

import math

import cv2
import numpy as np
import pytest
import torch

from common.data.batches import Target
from solov2.config import Model
from solov2.losses import dice_loss, solov2_losses
from solov2.targets import assign

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


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_batch_of_several_levels_pair_by_pair(kind):
    """Two images, two levels, three classes, in float32 and from half-precision answers."""
    torch.manual_seed(0)
    config = Model(grids=(3, 2), scale_ranges=((1.0, 12.0), (10.0, 100.0)), mask_loss_weight=2.5)
    logits = [torch.randn(2, 3, grid, grid).to(kind) for grid in config.grids]
    kernels = [torch.randn(2, 4, grid, grid).to(kind) for grid in config.grids]
    feature = torch.randn(2, 4, 8, 8).to(kind)
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 2:13, 3:14], masks[1, 10:30, 8:28] = True, True
    both = Target(torch.tensor([[3.0, 2, 14, 13], [8, 10, 28, 30]]), torch.tensor([0, 2]), masks)
    targets = [both, square_target()]
    terms = solov2_losses(logits, kernels, feature, targets, config)

    dice, focal, positives = [], torch.zeros(()), 0
    for image, target in enumerate(targets):
        levels = assign(target, config.grids, config.scale_ranges, config.centre_fraction, 3)
        for logit, kernel, level in zip(logits, kernels, levels, strict=True):
            probabilities = logit[image].float().sigmoid().flatten(1)  # [3, cells]
            for cell, category in enumerate(level.categories.flatten().tolist()):
                for number, probability in enumerate(probabilities[:, cell]):
                    hit, share = (probability, 0.25) if number == category else (1 - probability, 0.75)
                    focal = focal - share * (1 - hit) ** 2 * hit.log()
                positives += category < 3
            for cell, number in zip(level.cells.tolist(), level.instances.tolist(), strict=True):
                soft = (kernel[image].flatten(1)[:, cell] @ feature[image].flatten(1)).float().sigmoid()
                shrunk = cv2.resize(target.masks[number].numpy().astype(np.uint8), (8, 8)).reshape(-1)
                truth = torch.from_numpy(shrunk).float()
                dice.append(1 - 2 * (soft @ truth) / (soft @ soft + truth @ truth + 0.002))
    tolerance = 1e-5 if kind == torch.float32 else 2e-3
    torch.testing.assert_close(terms["mask"], 2.5 * torch.stack(dice).mean(), rtol=tolerance, atol=0)
    torch.testing.assert_close(terms["category"], focal / (positives + 1), rtol=1e-5, atol=0)


def test_positives_are_counted_over_all_processes(monkeypatch):
    """Of two processes that hold the same, each divides by half of all positives and half of the one that is added."""
    alone = solov2_losses(*answers(0.0), [square_target()], CONFIG)
    monkeypatch.setattr("solov2.losses.process_count", lambda: 2)
    shared = solov2_losses(*answers(0.0), [square_target()], CONFIG)
    assert math.isclose(shared["category"].item(), alone["category"].item() * 2 / 1.5, rel_tol=1e-6)
    assert shared["mask"].item() == alone["mask"].item()
