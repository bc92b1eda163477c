"""Priors and boxes: where predictions start from, how they are encoded, how far boxes overlap, what they crop."""

from itertools import product
from math import sqrt

import torch
from torch import Tensor

from yolact.config import Model

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2  # of SSD's box encoding (arXiv 1512.02325)
FIRST_LEVEL, LEVELS = 3, 5  # P3..P7, at strides 8..128


def level_sizes(input_size: int) -> list[int]:
    """The side of the feature map of each level, P3 first; every stride of 2 rounds up."""
    return [-(-input_size // 2**level) for level in range(FIRST_LEVEL, FIRST_LEVEL + LEVELS)]


def make_priors(config: Model) -> Tensor:
    """[priors, 4] cx, cy, w, h as fractions of the image; by level, cell (row by row), scale, aspect ratio."""
    levels = []
    for size, scale in zip(level_sizes(config.input_size), config.scales, strict=True):
        shapes = []
        for factor, ratio in product(config.scale_factors, config.aspect_ratios):
            width = scale * factor * sqrt(ratio) / config.input_size
            shapes.append((width, width if config.square_priors else scale * factor / sqrt(ratio) / config.input_size))
        centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        cells = torch.stack((x, y), dim=-1).reshape(-1, 1, 2).expand(-1, len(shapes), 2)
        sizes = torch.tensor(shapes, dtype=torch.float64).expand(len(cells), -1, 2)
        levels.append(torch.cat((cells, sizes), dim=2).reshape(-1, 4))
    return torch.cat(levels).float()


def priors_per_level(config: Model) -> list[int]:
    return [size * size * priors_per_cell(config) for size in level_sizes(config.input_size)]


def priors_per_cell(config: Model) -> int:
    return len(config.scale_factors) * len(config.aspect_ratios)


def to_corners(boxes: Tensor) -> Tensor:
    """cx, cy, w, h -> x1, y1, x2, y2"""
    half = boxes[..., 2:] / 2
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), dim=-1)


def decode(deltas: Tensor, priors: Tensor, largest_stretch: float | None = None) -> Tensor:
    """Predicted deltas [.., 4] of priors [.., 4] -> boxes x1, y1, x2, y2; not clipped to the image."""
    deltas = deltas.to(torch.promote_types(deltas.dtype, priors.dtype))
    stretch = deltas[..., 2:] * SIZE_VARIANCE
    if largest_stretch is not None:
        stretch = stretch.clamp(-largest_stretch, largest_stretch)
    centres = priors[..., :2] + deltas[..., :2] * CENTRE_VARIANCE * priors[..., 2:]
    sizes = priors[..., 2:] * stretch.exp()
    first = centres - sizes / 2
    return torch.cat((first, first + sizes), dim=-1)


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    """The deltas [.., 4] that decode to boxes x1, y1, x2, y2."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2 - priors[..., :2]
    sizes = (boxes[..., 2:] - boxes[..., :2]) / priors[..., 2:]
    return torch.cat((centres / (CENTRE_VARIANCE * priors[..., 2:]), sizes.log() / SIZE_VARIANCE), dim=-1)


def intersections(first: Tensor, second: Tensor) -> Tensor:
    """The common area of each pair of [.., A, 4] and [.., B, 4] corners. [.., A, B]"""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    width, height = (high - low).clamp(min=0).unbind(dim=-1)
    return width * height


def areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def ious(first: Tensor, second: Tensor) -> Tensor:
    """[.., A, 4] and [.., B, 4] corners -> [.., A, B]"""
    common = intersections(first, second)
    return common / (areas(first)[..., :, None] + areas(second)[..., None, :] - common)


def covered(first: Tensor, second: Tensor) -> Tensor:
    """Which part of each box of [A, 4] lies in each of [B, 4]. [A, B]"""
    return intersections(first, second) / areas(first)[:, None]


def to_pixels(first: Tensor, second: Tensor, size: int, padding: int = 0, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Both ends of boxes along one axis, from fractions to pixels of a side of length `size`.

    Ends are put in order and padded; only the lower is kept from falling below 0 and only the upper from exceeding
    the side, so that a box outside ends up inverted, which is how the original marks it as empty.
    """
    first, second = first * size, second * size
    if whole:
        first, second = first.long(), second.long()
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return (low - padding).clamp(min=0), (high + padding).clamp(max=size)


def crop(masks: Tensor, boxes: Tensor, padding: int = 1) -> Tensor:
    """Zero masks [n, h, w] outside of their boxes [n, 4], corners as fractions."""
    return masks * crop_frames(boxes, masks.shape[1], masks.shape[2], padding)


def crop_frames(boxes: Tensor, height: int, width: int, padding: int = 1) -> Tensor:
    """Which pixels of [n, h, w] are in the boxes; a pixel c is if x1 <= c < x2."""
    x1, x2 = to_pixels(boxes[:, 0], boxes[:, 2], width, padding)
    y1, y2 = to_pixels(boxes[:, 1], boxes[:, 3], height, padding)
    columns = torch.arange(width, device=boxes.device, dtype=boxes.dtype)
    rows = torch.arange(height, device=boxes.device, dtype=boxes.dtype)
    inside_columns = (columns >= x1[:, None]) & (columns < x2[:, None])  # [n, w]
    inside_rows = (rows >= y1[:, None]) & (rows < y2[:, None])  # [n, h]
    return inside_rows[:, :, None] & inside_columns[:, None, :]
