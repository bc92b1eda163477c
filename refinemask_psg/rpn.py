"""Region proposals (arXiv 1506.01497): which of the pyramid's anchors hold an object, and how its box differs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from refinemask_psg.boxes import RATIOS, STRIDES, Size, all_anchors, clip, decode, encode, nms_within
from refinemask_psg.config import Model
from refinemask_psg.targets import IGNORED, match, sample

STDS = (1.0, 1.0, 1.0, 1.0)
POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3
TRAINING_NMS = 0.7
Suppress = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # boxes, scores, groups, threshold -> those kept


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
        kept = best(*candidates, after_nms, threshold, drop_empty, batched_nms if detectron2 else nms_within)
        found.append(Proposals(kept.boxes, kept.scores.sigmoid() if detectron2 else kept.scores))
    return found


def best(
    boxes: Tensor, scores: Tensor, levels: Tensor, count: int, threshold: float, drop_empty: bool, nms: Suppress
) -> Proposals:
    if drop_empty:
        sound = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1).nonzero().squeeze(1)
        boxes, scores, levels = boxes[sound], scores[sound], levels[sound]
    kept = nms(boxes, scores, levels, threshold)[:count]
    return Proposals(boxes[kept], scores[kept])


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
