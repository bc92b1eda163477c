"""Answers + targets -> the five loss terms (paper, section 3; Faster R-CNN, equation 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.boxes import in_anchor_order
from maskrcnn.targets import AnchorTargets


def proposal_losses(
    logits: list[Tensor], deltas: list[Tensor], targets: list[AnchorTargets], smooth_l1_beta: float
) -> dict[str, Tensor]:
    """Levels' answers [N, A, h, w] and [N, 4 A, h, w]; both terms are means over the batch's sampled anchors."""
    flat_logits = torch.cat([in_anchor_order(level, 1) for level in logits], dim=1).squeeze(2).float()  # [N, M]
    flat_deltas = torch.cat([in_anchor_order(level, 4) for level in deltas], dim=1).float()  # [N, M, 4]
    found = torch.cat([row[target.positives] for row, target in zip(flat_logits, targets, strict=True)])
    none = torch.cat([row[target.negatives] for row, target in zip(flat_logits, targets, strict=True)])
    corrections = torch.cat([row[target.positives] for row, target in zip(flat_deltas, targets, strict=True)])
    wanted = torch.cat([target.deltas for target in targets])
    sampled = max(len(found) + len(none), 1)
    labels = torch.cat((torch.ones_like(found), torch.zeros_like(none)))
    objectness = F.binary_cross_entropy_with_logits(torch.cat((found, none)), labels, reduction="sum")
    boxes = F.smooth_l1_loss(corrections, wanted, beta=smooth_l1_beta, reduction="sum")
    return {"objectness": objectness / sampled, "proposal_boxes": boxes / sampled}


def box_losses(
    logits: Tensor, categories: Tensor, deltas: Tensor, wanted: Tensor, smooth_l1_beta: float
) -> dict[str, Tensor]:
    """Logits [R, classes + 1] of all sampled regions, deltas [p, 4] of the foreground; both terms are means over R."""
    sampled = max(len(categories), 1)
    category = F.cross_entropy(logits.float(), categories, reduction="sum")
    boxes = F.smooth_l1_loss(deltas.float(), wanted, beta=smooth_l1_beta, reduction="sum")
    return {"category": category / sampled, "boxes": boxes / sampled}


def mask_loss(logits: Tensor, channels: Tensor, wanted: Tensor) -> Tensor:
    """The mean over all pixels of the foreground regions [p, K, m, m], each in its class's channel [p]."""
    chosen = logits.float()[torch.arange(len(channels), device=channels.device), channels]
    return F.binary_cross_entropy_with_logits(chosen, wanted, reduction="sum") / max(wanted.numel(), 1)
