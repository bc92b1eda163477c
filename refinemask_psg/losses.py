"""Answers + targets -> the mask losses: RefineMask's, sharpest near boundaries, and Mask R-CNN's."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.batches import Target
from refinemask_psg.boundary import uncertain_regions
from refinemask_psg.config import Model
from refinemask_psg.mask_head import MASK_SIZES, MaskAnswers, of_class
from refinemask_psg.targets import Sampled, foreground_target, mask_targets


def mask_losses(
    answers: MaskAnswers, targets: Sequence[Target], sampled: Sequence[Sampled], labels: Tensor, config: Model
) -> dict[str, Tensor]:
    """The terms of a batch; answers are for the positive samples, whose classes are `labels` [K]."""
    weight = config.mask_loss_weight * sum(config.box_stage_weights)
    from_polygons = config.mask_targets == "polygons"

    sizes = MASK_SIZES if answers.foreground is not None else [answers.stages[0].shape[2]]
    crops = [mask_targets(target, each, sizes, from_polygons) for target, each in zip(targets, sampled, strict=True)]
    wanted = [torch.cat(of_size)[:, None] for of_size in zip(*crops, strict=True)]
    if answers.foreground is None:
        return {"mask": weight * mean_loss(of_class(answers.stages[0], labels), wanted[0])}
    stages = stage_losses(answers.stages, wanted)
    scales = torch.tensor(config.mask_stage_weights, device=labels.device)
    instance = (scales * torch.stack(stages)).sum()
    foreground = foreground_target(targets, *answers.foreground.shape[2:])
    semantic = F.binary_cross_entropy_with_logits(answers.foreground.float(), foreground)
    return {"mask": weight * instance, "foreground": weight * config.mask_semantic_weight * semantic}


def stage_losses(stages: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
    """The loss of each stage: everywhere in the first two, near boundaries in the others. [K, 1, S, S]"""
    logits = [stage.float() for stage in stages]
    losses = [mean_loss(logits[index], targets[index]) for index in (0, 1)]
    with torch.no_grad():
        regions = uncertain_regions(logits, targets)
    for stage, target, region in zip(logits[2:], targets[2:], regions, strict=True):
        each = F.binary_cross_entropy_with_logits(stage, target.float(), reduction="none")
        losses.append((each * region).sum() / region.sum().clamp(min=1))
    return losses


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy, averaged; 0 of nothing."""
    total = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="sum")
    return total / max(targets.numel(), 1)
