"""Region proposals (arXiv 1506.01497): which of the pyramid's anchors hold an object, and how its box differs."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from refinemask_psg.boxes import RATIOS, Size, all_anchors, clip, decode, nms_within
from refinemask_psg.config import Model

STDS = (1.0, 1.0, 1.0, 1.0)
TRAINING_NMS = 0.7


class Proposals(NamedTuple):
    """One image's proposals, best first, in network-input pixels."""

    boxes: Tensor  # [n, 4]
    scores: Tensor  # [n]


class RegionProposals(nn.Module):
    """[P2..P6] -> for each level objectness logits [N, 3, h, w] and deltas [N, 12, h, w]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, len(RATIOS), 1)
        self.deltas = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        for conv in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [F.relu(self.conv(level)) for level in pyramid]
        return [self.objectness(level) for level in hidden], [self.deltas(level) for level in hidden]


def flat(levels: list[Tensor], values: int) -> list[Tensor]:
    """For each level [N, 3 * values, h, w] -> [N, h * w * 3, values], in the order of the anchors."""
    return [level.permute(0, 2, 3, 1).reshape(len(level), -1, values).float() for level in levels]


@torch.no_grad()
def propose(
    objectness: list[Tensor],
    deltas: list[Tensor],
    sizes: Sequence[Size],
    model: Model,
    before_nms: int,
    after_nms: int,
    threshold: float,
    drop_empty: bool,
) -> list[Proposals]:
    """Each image's best proposals, clipped to its size (height, width)."""
    anchors, logits, moves = all_anchors(objectness, model.anchor_scale), flat(objectness, 1), flat(deltas, 4)
    detectron2, found = model.conventions == "detectron2", []
    for image, size in enumerate(sizes):
        boxes, scores, levels = [], [], []
        for level, level_logits in enumerate(logits):
            level_scores = level_logits[image, :, 0] if detectron2 else level_logits[image, :, 0].sigmoid()
            level_scores, order = level_scores.sort(descending=True, stable=True)
            order = order[:before_nms]
            boxes.append(clip(decode(anchors[level][order], moves[level][image, order], STDS, not detectron2), size))
            scores.append(level_scores[:before_nms])
            levels.append(torch.full_like(order, level))
        candidates = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        if drop_empty:
            extents = candidates[0][:, 2:] - candidates[0][:, :2]
            sound = (extents > 0).all(dim=1).nonzero().squeeze(1)
            candidates = candidates[0][sound], candidates[1][sound], candidates[2][sound]
        kept = (batched_nms if detectron2 else nms_within)(*candidates, threshold)[:after_nms]
        best, certainty = candidates[0][kept], candidates[1][kept]
        found.append(Proposals(best, certainty.sigmoid() if detectron2 else certainty))
    return found
