"""Anchors and boxes x1, y1, x2, y2 that end at their last pixel: a side is x2 - x1 + 1 long, as in the original."""

import math

import torch
import torchvision
from torch import Tensor

STRIDES = (4, 8, 16, 32, 64)  # of p2 .. p6
ANCHOR_SCALE = 8  # an anchor's side, in strides
RATIOS = (0.5, 1.0, 2.0)  # height over width
LARGEST_SCALING = math.log(1000 / 16)  # of a side, before the exponential
Weights = tuple[float, float, float, float]  # how strongly dx, dy, dw, dh are scaled
PLAIN: Weights = (1.0, 1.0, 1.0, 1.0)


def cell_anchors(stride: int) -> list[list[float]]:
    """The anchors around a level's first cell, their sides rounded to whole pixels before they are scaled."""
    centre = (stride - 1) / 2
    anchors = []
    for ratio in RATIOS:
        width = round(math.sqrt(stride * stride / ratio))
        height = round(width * ratio)
        half_width, half_height = (width * ANCHOR_SCALE - 1) / 2, (height * ANCHOR_SCALE - 1) / 2
        anchors.append([centre - half_width, centre - half_height, centre + half_width, centre + half_height])
    return anchors


def anchors_of(stride: int, height: int, width: int, device: torch.device) -> Tensor:
    """[height * width * 3, 4]: the anchors of a level, row by row, cell by cell."""
    y = torch.arange(height, device=device)[:, None].expand(height, width) * stride
    x = torch.arange(width, device=device).expand(height, width) * stride
    shifts = torch.stack((x, y, x, y), dim=-1)[:, :, None]  # [H, W, 1, 4]
    return (shifts + torch.tensor(cell_anchors(stride), device=device)).reshape(-1, 4)


def sides(boxes: Tensor) -> Tensor:
    """[..., 4] -> [..., 2] widths and heights."""
    return boxes[..., 2:] - boxes[..., :2] + 1


def encode(boxes: Tensor, reference: Tensor, weights: Weights = PLAIN) -> Tensor:
    """How to move and stretch `reference` [..., 4] onto `boxes`: dx, dy, dw, dh (arXiv 1311.2524, appendix C)."""
    scale = boxes.new_tensor(weights)
    moved = (boxes[..., :2] + 0.5 * sides(boxes)) - (reference[..., :2] + 0.5 * sides(reference))
    stretched = (sides(boxes) / sides(reference)).log()
    return torch.cat((moved / sides(reference), stretched), dim=-1) * scale


def decode(deltas: Tensor, reference: Tensor, weights: Weights = PLAIN) -> Tensor:
    """The boxes that deltas [..., 4] make of `reference`."""
    deltas = deltas.to(torch.promote_types(deltas.dtype, reference.dtype))
    deltas = deltas / deltas.new_tensor(weights)
    centres = deltas[..., :2] * sides(reference) + reference[..., :2] + 0.5 * sides(reference)
    half = 0.5 * deltas[..., 2:].clamp(max=LARGEST_SCALING).exp() * sides(reference)
    return torch.cat((centres - half, centres + half - 1), dim=-1)


def clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes [..., 4] cut to an image of `size` (height, width)."""
    last = (size.flip(0) - 1).repeat(2).to(boxes.dtype)  # x, y, x, y
    return torch.minimum(boxes.clamp(min=0), last)


def ious(first: Tensor, second: Tensor) -> Tensor:
    """[n, 4], [m, 4] -> [n, m]"""
    top_left = torch.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (bottom_right - top_left + 1).clamp(min=0).prod(dim=-1)
    return shared / (sides(first).prod(dim=-1)[:, None] + sides(second).prod(dim=-1)[None] - shared)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The boxes kept, best first: each suppresses those that it overlaps by more than the threshold."""
    kept: Tensor = torchvision.ops.nms(boxes.float() + boxes.new_tensor([0.0, 0, 1, 1]), scores.float(), threshold)
    return kept
