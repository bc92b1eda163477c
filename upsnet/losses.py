"""The losses (paper, section 3.2), unweighted: means over the regions, cells or pixels of all images together."""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.batches import UNLABELLED
from upsnet.panoptic_merge import Terms, box_masks, panoptic_logits, paste
from upsnet.targets import AnchorTargets

PROPOSAL_SIGMA = 3.0  # where the smooth L1 loss of anchors turns from a parabola into a line: 1 / sigma^2


def proposal_losses(logits: Tensor, deltas: Tensor, targets: AnchorTargets, anchors: int) -> tuple[Tensor, Tensor]:
    """One image's objectness and box losses: logits [A], deltas [A, 4]; `anchors` were to be sampled."""
    sampled, positive = targets.labels >= 0, targets.labels == 1
    objectness = F.binary_cross_entropy_with_logits(
        logits[sampled].float(), targets.labels[sampled].float(), reduction="sum"
    )
    boxes = F.smooth_l1_loss(
        deltas[positive].float(), targets.deltas[positive], reduction="sum", beta=1 / PROPOSAL_SIGMA**2
    )
    return objectness / anchors, boxes / sampled.sum().clamp(min=1)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Of regions' logits [R, 1 + things]."""
    return F.cross_entropy(logits.float(), labels, reduction="sum") / max(len(labels), 1)


def box_loss(deltas: Tensor, labels: Tensor, positive: Tensor, targets: Tensor) -> Tensor:
    """Of regions' deltas [R, 4 (1 + things)]: those of the label's class, where `positive` [P] regions have targets."""
    own = deltas.reshape(len(deltas), -1, 4)[positive, labels[positive]]
    return F.smooth_l1_loss(own.float(), targets, reduction="sum") / max(len(labels), 1)


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Of regions' mask logits [P, 1 + things, 28, 28], in the channel of their labels [P]."""
    own = logits[torch.arange(len(logits), device=logits.device), labels]
    total = F.binary_cross_entropy_with_logits(own.float(), targets.float(), reduction="sum")
    return total / max(own.numel(), 1)


def semantic_loss(logits: Tensor, channels: Tensor) -> Tensor:
    """Cross-entropy of logits [N, C, H, W], a mean over the labelled pixels."""
    total = F.cross_entropy(logits.float(), channels, ignore_index=UNLABELLED, reduction="sum")
    return total / (channels != UNLABELLED).sum().clamp(min=1)


def cells_loss(logits: Tensor, channels: Tensor) -> Tensor:
    """Cross-entropy of logits [n, C, h, w], a mean over all cells in which unlabelled ones count as 0."""
    total = F.cross_entropy(logits.float(), channels, ignore_index=UNLABELLED, reduction="sum")
    return total / max(channels.numel(), 1)


def told_panoptic_logits(semantic_logits: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor, stuff: int) -> Tensor:
    """The panoptic head in training: [stuff + k + 1, H, W] for semantic logits [C, H, W].

    It is told the objects' boxes [k, 4] (in the logits' pixels) and labels [k] from 1; masks are [k, 28, 28] logits.
    """
    if not len(boxes):
        return torch.cat((semantic_logits[:stuff], semantic_logits[stuff:].amax(dim=0, keepdim=True)))
    height, width = semantic_logits.shape[1:]
    semantic = semantic_logits[stuff - 1 + labels] * box_masks(boxes, height, width)
    terms = Terms(labels, paste(masks, boxes.trunc(), height, width), semantic)
    return panoptic_logits(terms, semantic_logits, stuff)
