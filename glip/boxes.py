"""Anchors and boxes as the original counts them: a box holds its last pixel, so that its width is x2 - x1 + 1."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # what the deltas of the centre and of the size are multiplied by
LARGEST_GROWTH = math.log(1000 / 16)


def anchors_of(sizes: Sequence[tuple[int, int]], scale: float, device: torch.device) -> list[Tensor]:
    """For each level of (height, width) places, row after row, its square anchors [H W, 4]."""
    found = []
    for (height, width), stride in zip(sizes, STRIDES, strict=True):
        first, last = anchor_ends(stride, scale)
        y, x = (stride * torch.arange(length, device=device, dtype=torch.float32) for length in (height, width))
        x1, y1 = (x + first).expand(height, width), (y[:, None] + first).expand(height, width)
        side = last - first
        found.append(torch.stack((x1, y1, x1 + side, y1 + side), dim=-1).reshape(-1, 4))
    return found


def anchor_ends(stride: int, scale: float) -> tuple[float, float]:
    """First and last pixel of the anchor around the place (0, 0), in x and in y: -28 and 35 for stride 8, scale 8.

    Its side is scale x stride, its centre that of the place's own stride x stride pixels.
    """
    centre, side = (stride - 1) / 2, scale * stride
    return centre - (side - 1) / 2, centre + (side - 1) / 2


def centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """[N, 4] -> centres [N, 2] and sizes [N, 2]; sizes count both ends."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2] + 1


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The deltas [N, 4] that turn anchors into boxes."""
    anchor_centres, anchor_sizes = centres_and_sizes(anchors)
    centres, sizes = centres_and_sizes(boxes)
    deltas = torch.cat(((centres - anchor_centres) / anchor_sizes, (sizes / anchor_sizes).log()), dim=-1)
    return deltas * deltas.new_tensor(WEIGHTS)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [N, 4] from deltas."""
    deltas = deltas.to(torch.promote_types(deltas.dtype, anchors.dtype))
    anchor_centres, anchor_sizes = centres_and_sizes(anchors)
    moves, growths = (deltas / deltas.new_tensor(WEIGHTS)).chunk(2, dim=-1)
    centres = moves * anchor_sizes + anchor_centres
    reach = (growths.clamp(max=LARGEST_GROWTH).exp() * anchor_sizes - 1) / 2
    return torch.cat((centres - reach, centres + reach), dim=-1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes whose corners lie in the image's pixels."""
    limits = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    return torch.minimum(boxes.clamp(min=0), limits)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """[N, M] of boxes [N, 4] and [M, 4]."""
    corner = torch.maximum(first[:, None, :2], second[None, :, :2])
    sides = (torch.minimum(first[:, None, 2:], second[None, :, 2:]) - corner + 1).clamp(min=0)
    overlap = sides.prod(dim=-1)
    areas = centres_and_sizes(first)[1].prod(dim=-1)[:, None] + centres_and_sizes(second)[1].prod(dim=-1)
    return overlap / (areas - overlap)
