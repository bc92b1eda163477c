"""Boundaries of masks, and how RefineMask trusts a finer stage only near them (arXiv 2104.08569, section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

SHARE = 0.1  # a pixel is on the boundary if more than this share of its neighbourhood is on the other side
FUSION_WIDTH, LOSS_WIDTH = 1, 2


def boundary(masks: Tensor, width: int) -> Tensor:
    """The pixels within `width` of the other side, of masks [N, 1, S, S] bool; outside is background."""
    foreground = F.avg_pool2d(masks.float(), 2 * width + 1, stride=1, padding=width)
    return torch.where(masks, 1 - foreground, foreground) > SHARE


def enlarge(values: Tensor, size: int) -> Tensor:
    """Bilinear, corners on corners: [N, 1, S, S] -> [N, 1, size, size]"""
    return F.interpolate(values, (size, size), mode="bilinear", align_corners=True)


def foreground(logits: Tensor) -> Tensor:
    return logits.sigmoid() >= 0.5


def fuse(stages: list[Tensor]) -> Tensor:
    """The logits of all stages [N, 1, S, S], coarse to fine, as one; the first stage is for training only."""
    fused = stages[1]
    for finer in stages[2:]:
        size = finer.shape[2]
        inner = enlarge((~boundary(foreground(fused), FUSION_WIDTH)).float(), size) >= 0.5
        fused = torch.where(inner, enlarge(fused, size), finer)
    return fused


def uncertain_regions(stages: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
    """Where the stages from the third on are trained: around what is and what should be the boundary one stage before.

    stages: logits [N, 1, S, S], targets: [N, 1, S, S] bool.
    """
    running, regions = foreground(stages[1]), []
    for index in range(2, len(stages)):
        size = stages[index].shape[2]
        either = boundary(running, LOSS_WIDTH) | boundary(targets[index - 1], LOSS_WIDTH)
        regions.append(enlarge(either.float(), size) >= 0.5)
        near = enlarge(boundary(running, FUSION_WIDTH).float(), size) >= 0.5
        # the stage before enters as it is, not fused with the one before it as it is when predicting
        running = foreground(torch.where(near, stages[index], enlarge(stages[index - 1], size)))
    return regions
