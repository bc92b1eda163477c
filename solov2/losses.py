"""Answers + targets -> the loss terms: focal loss of the categories, dice loss of the masks (paper, equation 5)."""

import torch
from torch import Tensor

from common.data.batches import Target
from common.ops import sigmoid_focal_loss
from common.run.distributed import mean_over_processes, process_count
from solov2.config import Model
from solov2.targets import assign, quarter


def solov2_losses(
    category_logits: list[Tensor],
    kernels: list[Tensor],
    mask_feature: Tensor,
    targets: list[Target],
    config: Model,
) -> dict[str, Tensor]:
    """The weighted terms "mask" and "category" of a batch; levels are [N, C, S, S], the mask feature [N, c, H, W]."""
    classes = category_logits[0].shape[1]
    categories, dice = [], []
    for image, target in enumerate(targets):
        levels = assign(target, config.grids, config.scale_ranges, config.centre_fraction, classes)
        categories.append(torch.cat([level.categories.flatten() for level in levels]))
        pair_kernels = [
            k[image].flatten(1).index_select(1, level.cells) for k, level in zip(kernels, levels, strict=True)
        ]
        masks = quarter(target.masks)[torch.cat([level.instances for level in levels])]  # [P, H/4, W/4]
        logits = torch.cat(pair_kernels, dim=1).T @ mask_feature[image].flatten(1)  # [P, H/4 * W/4]
        dice.append(dice_loss(logits.float().sigmoid(), masks.flatten(1).float()))
    flat_logits = torch.cat([logits.flatten(2) for logits in category_logits], dim=2)  # [N, classes, cells]
    flat_logits = flat_logits.transpose(1, 2).reshape(-1, classes)
    return {
        "mask": config.mask_loss_weight * _mean(torch.cat(dice), mask_feature, kernels),
        "category": _category_loss(flat_logits.float(), torch.cat(categories)),
    }


def dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """1 - 2 sum(pt) / (sum(p^2) + sum(t^2)), for each row of [P, pixels]."""
    overlap = (probabilities * masks).sum(dim=1)
    # twice 0.001, as in the original: two empty masks count as different, not as equal
    size = (probabilities * probabilities).sum(dim=1) + 0.001 + (masks * masks).sum(dim=1) + 0.001
    return 1 - 2 * overlap / size


def _mean(dice: Tensor, mask_feature: Tensor, kernels: list[Tensor]) -> Tensor:
    """The mean over the pairs of all processes; where this one has none 0 of all answers: DDP wants their gradients."""
    pairs = mean_over_processes(torch.tensor(float(len(dice)), device=dice.device))
    if len(dice) == 0:
        return 0.0 * (mask_feature.float().mean() + torch.stack([kernel.float().mean() for kernel in kernels]).sum())
    return dice.sum() / pairs


def _category_loss(logits: Tensor, categories: Tensor) -> Tensor:
    positives = (categories < logits.shape[1]).sum().float()
    normaliser = mean_over_processes(positives + 1 / process_count())  # all positives of the batch, + 1
    return sigmoid_focal_loss(logits, categories, gamma=2.0, alpha=0.25, reduction="sum") / normaliser
