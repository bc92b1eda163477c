"""Anchors, and boxes x1, y1, x2, y2: their overlaps, their deltas, their suppression."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

STRIDES = (4, 8, 16, 32, 64)  # of P2 to P6
RATIOS = (0.5, 1.0, 2.0)  # an anchor's height over its width
LARGEST_LOG_SCALE = abs(math.log(16 / 1000))  # a box becomes at most 62.5 times as large or as small
Size = tuple[int, int] | Tensor  # height, width; a tensor [2] where a graph is exported for several


def level_anchors(height: int, width: int, stride: int, scale: int, device: torch.device) -> Tensor:
    """The anchors of a level, in the order row, column, ratio: [h * w * 3, 4]; their area is (scale * stride)^2."""
    ratios = torch.tensor(RATIOS, device=device).sqrt()
    sides = torch.stack((scale * stride / ratios, scale * stride * ratios), dim=1)  # [3, 2] width, height
    x, y = torch.arange(width, device=device) * stride, torch.arange(height, device=device) * stride
    centres = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)[:, :, None]
    return torch.cat((centres - sides / 2, centres + sides / 2), dim=-1).view(-1, 4)


def all_anchors(levels: list[Tensor], scale: int) -> list[Tensor]:
    """The anchors of each level of a pyramid."""
    sizes = [level.shape[2:] for level in levels]
    return [
        level_anchors(height, width, stride, scale, levels[0].device)
        for (height, width), stride in zip(sizes, STRIDES, strict=True)
    ]


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """[n, 4], [m, 4] -> [n, m]; 0 where both are empty."""
    top_left = torch.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    union = area(first)[:, None] + area(second) - intersection
    return intersection / union.clamp(min=1e-6)


def encode(boxes: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """The deltas that turn boxes into their targets: both [n, 4] (arXiv 1311.2524, appendix C)."""
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    centre, target_centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5, (targets[:, :2] + targets[:, 2:]) * 0.5
    deltas = torch.cat(((target_centre - centre) / size, (target_size / size).log()), dim=1)
    return deltas / deltas.new_tensor(stds)


def decode(boxes: Tensor, deltas: Tensor, stds: Sequence[float], limit_shrinking: bool = True) -> Tensor:
    """Boxes [n, 4] moved by deltas [n, ..., 4] -> [n, ..., 4]"""
    deltas = deltas.float() * deltas.new_tensor(stds, dtype=torch.float32)
    boxes = boxes.reshape(-1, *[1] * (deltas.ndim - 2), 4)
    size, centre = boxes[..., 2:] - boxes[..., :2], (boxes[..., :2] + boxes[..., 2:]) * 0.5
    moved = centre + size * deltas[..., :2]
    least = -LARGEST_LOG_SCALE if limit_shrinking else None
    half = 0.5 * size * deltas[..., 2:].clamp(least, LARGEST_LOG_SCALE).exp()
    return torch.cat((moved - half, moved + half), dim=-1)


def clip(boxes: Tensor, size: Size) -> Tensor:
    """Boxes [..., 4] within an image of this size; its last pixel ends at the width."""
    limits = torch.as_tensor(size, device=boxes.device).flip(0).repeat(2)
    return torch.minimum(boxes.clamp(min=0), limits.to(boxes))


def nms_within(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """NMS among the boxes of each group: the indices of those kept, best score first."""
    beyond = torch.cat((boxes.flatten(), boxes.new_zeros(1))).max() + 1
    offsets = groups.to(boxes) * beyond  # boxes of different groups don't meet
    kept: Tensor = nms(boxes + offsets[:, None], scores, threshold)
    return kept
