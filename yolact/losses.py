"""Answers + targets -> the loss terms: boxes, classes, masks, semantic segmentation, and in YOLACT++ mask IoUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.batches import Target
from common.ops.precision import full_precision
from yolact.boxes import crop
from yolact.config import Losses
from yolact.targets import BACKGROUND, PriorTargets, match

if TYPE_CHECKING:
    from yolact.network import Answers

MaskIoUNetwork = Callable[[Tensor], Tensor]  # soft masks [n, 1, h, w] -> [n, classes]
Order = Callable[[int], Tensor]  # a number of positive priors -> the order in which masks are learned


def yolact_losses(
    answers: Answers,
    targets: list[Target],
    priors: Tensor,
    mask_iou: MaskIoUNetwork | None,
    settings: Losses,
    order: Order = torch.randperm,
) -> dict[str, Tensor]:
    """The weighted terms "box", "class", "mask", "semantic" and, with a mask IoU network, "mask_iou" of a batch."""
    scale = priors.new_tensor(float(targets[0].masks.shape[-1]))
    matches = [match(t.boxes / scale, t.labels, t.crowd_boxes / scale, priors, settings) for t in targets]
    classes = torch.stack([found.classes for found in matches])  # [N, priors]
    positive = classes > BACKGROUND
    count = positive.sum().clamp(min=1)
    assert answers.semantic_logits is not None
    images = zip(
        answers.coefficients.float().unbind(), answers.prototypes.float().unbind(), targets, matches, strict=True
    )
    terms = [
        mask_terms(coefficients, prototypes, target.boxes / scale, target, found, mask_iou, settings, order)
        for coefficients, prototypes, target, found in images
    ]
    mask, iou = (torch.stack(parts).sum() for parts in zip(*terms, strict=True))
    deltas = torch.stack([found.deltas for found in matches])
    box = F.smooth_l1_loss(answers.deltas.float()[positive], deltas[positive], reduction="sum")
    weighted = {
        "box": settings.box_weight * box / count,
        "class": class_loss(answers.class_logits.float(), classes, settings.negatives_per_positive) / count,
        "mask": settings.mask_weight * mask / count,
        "semantic": settings.semantic_weight * semantic_loss(answers.semantic_logits.float(), targets),
    }
    if mask_iou is not None:
        weighted["mask_iou"] = settings.mask_iou_weight * iou / count
    return weighted


def class_loss(logits: Tensor, classes: Tensor, ratio: int) -> Tensor:
    """Cross entropy, summed over the positive priors and the hardest of the background. logits [N, P, 1 + C]"""
    chosen = (classes > BACKGROUND) | hardest_background(logits.detach(), classes, ratio)
    return F.cross_entropy(logits[chosen], classes[chosen], reduction="sum")


def hardest_background(logits: Tensor, classes: Tensor, ratio: int) -> Tensor:
    """Online hard example mining: bool [N, P], of each image `ratio` times as many as it has positive priors.

    The priors with the largest loss as background; the others take part in the ranking with a loss of 0, so that
    fewer than that may be chosen.
    """
    loss = logits.logsumexp(dim=2) - logits[..., 0]
    background = classes == BACKGROUND
    loss = torch.where(background, loss, 0.0)
    rank = loss.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    wanted = (ratio * (classes > BACKGROUND).sum(dim=1, keepdim=True)).clamp(max=classes.shape[1] - 1)
    return (rank < wanted) & background


def mask_terms(
    coefficients: Tensor,
    prototypes: Tensor,
    boxes: Tensor,
    target: Target,
    found: PriorTargets,
    mask_iou: MaskIoUNetwork | None,
    settings: Losses,
    order: Order,
) -> tuple[Tensor, Tensor]:
    """What one image's masks add to the losses of masks and of mask IoUs, at the prototypes' size (paper, section 3.2).

    coefficients [P, K], prototypes [h, w, K]
    """
    positives = (found.classes > BACKGROUND).nonzero().squeeze(1)
    nothing = 0.0 * (prototypes.sum() + coefficients.sum())  # still part of the graph
    if len(positives) == 0:
        return nothing, nothing
    height, width, _ = prototypes.shape
    truth = shrink(target.masks, height, width)  # [n, h, w]
    chosen = positives[order(len(positives))[: settings.max_masks].to(positives.device)]
    if len(positives) <= settings.max_masks:
        chosen = positives
    objects = found.objects[chosen]
    with full_precision(prototypes.device):  # a GPU's autocast refuses cross-entropy from probabilities
        soft = (coefficients[chosen] @ prototypes.flatten(0, 1).T).sigmoid().view(-1, height, width)
        soft = crop(soft, boxes[objects])
        # from probabilities, as the original: a saturated pixel costs 100, and a pixel outside its box as much
        pixels = F.binary_cross_entropy(soft.clamp(0, 1), truth[objects], reduction="none").sum(dim=(1, 2))
    sizes = (boxes[objects, 2:] - boxes[objects, :2]) * boxes.new_tensor([width, height])
    loss = (pixels / sizes.prod(dim=1)).sum() * (len(positives) / len(chosen))
    if mask_iou is None:
        return loss, nothing
    return loss, nothing + mask_iou_loss(soft, truth[objects], target.labels[objects], mask_iou, settings)


def mask_iou_loss(soft: Tensor, truth: Tensor, labels: Tensor, mask_iou: MaskIoUNetwork, settings: Losses) -> Tensor:
    """Smooth L1 between the IoUs predicted for soft masks [n, h, w] and those they have (YOLACT++, section 6.2)."""
    large = truth.sum(dim=(1, 2)) > settings.smallest_mask
    soft, truth, labels = soft[large], truth[large], labels[large]
    if len(soft) == 0:
        return soft.sum()
    with torch.no_grad():
        binary = (soft > 0.5).float()
        common = (binary * truth).sum(dim=(1, 2))
        actual = common / (binary.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) - common)
    predicted = mask_iou(soft[:, None]).gather(1, labels[:, None]).squeeze(1)
    return F.smooth_l1_loss(predicted, actual, reduction="sum")


def semantic_loss(logits: Tensor, targets: list[Target]) -> Tensor:
    """Per-pixel binary cross entropy with the union of each class's masks, which only training sees. [N, C, h, w]"""
    _, classes, height, width = logits.shape
    maps = []
    for target in targets:
        members = F.one_hot(target.labels, classes).to(logits.dtype)  # [n, C]
        counts = members.T @ shrink(target.masks, height, width).to(logits.dtype).flatten(1)
        maps.append(counts.clamp(max=1).view(classes, height, width))
    summed = F.binary_cross_entropy_with_logits(logits, torch.stack(maps), reduction="sum")
    return summed / (height * width * len(targets))


def shrink(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks [n, H, W] bool -> [n, h, w] float 0 or 1, resized bilinearly."""
    small = F.interpolate(masks[:, None].float(), (height, width), mode="bilinear", align_corners=False)
    return (small[:, 0] > 0.5).float()
