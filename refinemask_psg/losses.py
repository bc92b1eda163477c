"""Answers + targets -> the losses of proposals, boxes and masks; RefineMask's are sharpest near boundaries."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from common.data.batches import Target
from refinemask_psg.boundary import uncertain_regions
from refinemask_psg.box_head import StageAnswers
from refinemask_psg.boxes import RATIOS, STRIDES, all_anchors, decode, encode
from refinemask_psg.config import Model
from refinemask_psg.mask_head import MASK_SIZES, MaskAnswers, of_class
from refinemask_psg.rpn import STDS, flat
from refinemask_psg.targets import IGNORED, Sampled, foreground_target, mask_targets, match, sample

POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3


def rpn_losses(
    objectness: list[Tensor],
    deltas: list[Tensor],
    objects: list[Tensor],
    padded_sizes: list[tuple[int, int]],
    config: Model,
) -> tuple[Tensor, Tensor]:
    """The losses of objectness and of boxes. objects: each image's true boxes [n, 4].

    padded_sizes: each image's own, as it was before the batch's images got one size; anchors beyond take no part.
    """
    anchors = torch.cat(all_anchors(objectness, config.anchor_scale))
    logits, moves = torch.cat(flat(objectness, 1), dim=1)[..., 0], torch.cat(flat(deltas, 4), dim=1)
    class_loss, box_loss, count = logits.new_zeros(()), logits.new_zeros(()), 0
    for image, (boxes, size) in enumerate(zip(objects, padded_sizes, strict=True)):
        matches = match(anchors, boxes, POSITIVE_IOU, NEGATIVE_IOU, smallest=NEGATIVE_IOU, low_quality=True)
        matches = torch.where(within(objectness, size), matches, IGNORED)
        positive, negative = sample(matches, config.rpn_samples, config.rpn_samples // 2, config.rpn_sampling)
        count += max(len(positive), 1) + max(len(negative), 1)
        class_loss = class_loss + F.softplus(-logits[image, positive]).sum() + F.softplus(logits[image, negative]).sum()
        wanted = encode(anchors[positive], boxes[matches[positive]], STDS)
        box_loss = box_loss + (moves[image, positive] - wanted).abs().sum()
    return class_loss / count, box_loss / count


def within(levels: list[Tensor], padded_size: tuple[int, int]) -> Tensor:
    """Which anchors have their centre inside the padded image. [anchors] bool"""
    inside = []
    for level, stride in zip(levels, STRIDES, strict=True):
        rows = torch.arange(level.shape[2], device=level.device) * stride < padded_size[0]
        columns = torch.arange(level.shape[3], device=level.device) * stride < padded_size[1]
        inside.append((rows[:, None] & columns).flatten().repeat_interleave(len(RATIOS)))
    return torch.cat(inside)


def box_losses(stage: StageAnswers, sampled: list[Sampled], index: int, config: Model) -> tuple[Tensor, Tensor]:
    """The losses of the classes and of the boxes of one stage, averaged over all samples of the batch."""
    count = max(len(stage.logits), 1)
    labels = torch.cat([each.labels for each in sampled])
    class_loss = F.cross_entropy(stage.logits.float(), labels, reduction="sum") / count
    background = stage.logits.shape[1] - 1
    positive = (labels < background).nonzero().squeeze(1)
    boxes, true_boxes = stage.regions[positive, 1:], torch.cat([each.true_boxes for each in sampled])
    column = torch.zeros_like(positive) if stage.deltas.shape[1] == 1 else labels[positive]
    deltas, stds = stage.deltas[positive, column].float(), config.box_stds[index]
    if config.box_loss == "giou":
        box_loss = generalized_box_iou_loss(decode(boxes, deltas, stds), true_boxes, reduction="sum")
    else:
        distance = F.smooth_l1_loss if config.box_loss == "smooth_l1" else F.l1_loss
        box_loss = distance(deltas, encode(boxes, true_boxes, stds), reduction="sum")
    weight = config.box_stage_weights[index]
    return weight * config.box_class_weight * class_loss, weight * config.box_loss_weight * box_loss / count


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
