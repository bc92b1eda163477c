"""Boxes [N, 4] as x1, y1, x2, y2: anchors, areas, overlaps, deltas, clipping and NMS, in each library's conventions.

With `inclusive` corners a box ends at its last pixel, so that a width is x2 - x1 + 1.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from maskrcnn.config import Convention, Conventions, Proposals

LARGEST_GROWTH = math.log(1000 / 16)  # of a side, as a logarithm: the widest anchor to the whole photograph


def anchors_of_levels(
    features: list[Tensor], input_size: tuple[int, int], settings: Proposals, convention: Convention
) -> list[Tensor]:
    """For each level's features [N, C, h, w] its anchors [h * w * A, 4], in the order row, column, shape."""
    single = len(settings.anchor_strides) == 1
    anchors = []
    for level, (values, stride) in enumerate(zip(features, settings.anchor_strides, strict=True)):
        sizes = settings.anchor_sizes if single else settings.anchor_sizes[level : level + 1]
        shapes = cell_anchors(sizes, settings.aspect_ratios, stride, convention).to(values.device)
        height, width = values.shape[2:]
        steps = (stride, stride)
        if convention == "torchvision":  # with odd sides, 61 instead of 64, for example
            steps = input_size[0] // height, input_size[1] // width
        y = torch.arange(height, device=values.device) * steps[0]
        x = torch.arange(width, device=values.device) * steps[1]
        shifts = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=2).repeat(1, 1, 2)
        anchors.append((shifts[:, :, None] + shapes).view(-1, 4))
    return anchors


def in_anchor_order(answers: Tensor, numbers: int) -> Tensor:
    """One level's answers, so many numbers for each anchor, beside its anchors. [N, A k, h, w] -> [N, h * w * A, k]"""
    images, channels, height, width = answers.shape
    answers = answers.reshape(images, channels // numbers, numbers, height, width)
    return answers.permute(0, 3, 4, 1, 2).reshape(images, -1, numbers)


def cell_anchors(sizes: tuple[int, ...], ratios: tuple[float, ...], stride: int, convention: Convention) -> Tensor:
    """The anchors of the first pixel [A, 4], ratio by ratio and in each from size to size; float64 until the end."""
    size, ratio = torch.tensor(sizes, dtype=torch.float64), torch.tensor(ratios, dtype=torch.float64)[:, None]
    if convention == "detectron":  # a window of stride x stride pixels, reshaped, rounded, and only then enlarged
        width = torch.sqrt(stride**2 / ratio).round()
        height = (width * ratio).round()
        width, height = width * size / stride, height * size / stride
        centre, inclusive = 0.5 * (stride - 1), 1
    else:
        width, height = size / ratio.sqrt(), size * ratio.sqrt()
        centre, inclusive = 0.0, 0
    half = torch.stack((width, height), dim=2).view(-1, 2) / 2 - 0.5 * inclusive
    anchors = torch.cat((centre - half, centre + half), dim=1)
    return (anchors.round() if convention == "torchvision" else anchors).float()


def sides(boxes: Tensor, inclusive: bool) -> Tensor:
    """Width and height. [..., 4] -> [..., 2]"""
    return boxes[..., 2:] - boxes[..., :2] + (1 if inclusive else 0)


def overlaps(a: Tensor, b: Tensor, inclusive: bool) -> Tensor:
    """The IoU of each box of a with each of b. [N, 4], [M, 4] -> [N, M]"""
    corners = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    shared = sides(torch.cat(corners, dim=2), inclusive).clamp(min=0).prod(dim=2)
    areas_a, areas_b = sides(a, inclusive).prod(dim=1), sides(b, inclusive).prod(dim=1)
    return shared / (areas_a[:, None] + areas_b - shared)


def encode(boxes: Tensor, references: Tensor, weights: Sequence[float], inclusive: bool) -> Tensor:
    """The deltas dx, dy, dw, dh that turn references into boxes (R-CNN, arXiv 1311.2524, appendix C)."""
    size, reference_size = sides(boxes, inclusive), sides(references, inclusive)
    centre = boxes[:, :2] + 0.5 * size
    reference_centre = references[:, :2] + 0.5 * reference_size
    shift = (centre - reference_centre) / reference_size
    scale = torch.log(size / reference_size)
    return torch.cat((shift, scale), dim=1) * shift.new_tensor(weights)


def decode(deltas: Tensor, references: Tensor, weights: Sequence[float], inclusive: bool, both_ways: bool) -> Tensor:
    """Apply deltas [..., 4] to references that broadcast with them; `both_ways` limits shrinking too."""
    deltas = deltas.to(torch.promote_types(deltas.dtype, references.dtype))
    deltas = deltas / deltas.new_tensor(weights)
    reference_size = sides(references, inclusive)
    centre = deltas[..., :2] * reference_size + (references[..., :2] + 0.5 * reference_size)
    growth = deltas[..., 2:].clamp(min=-LARGEST_GROWTH if both_ways else None, max=LARGEST_GROWTH)
    half = 0.5 * (torch.exp(growth) * reference_size)
    return torch.cat((centre - half, centre + half - (1 if inclusive else 0)), dim=-1)


def clip(boxes: Tensor, sizes: Tensor, inclusive: bool) -> Tensor:
    """Boxes [..., 4] within images of height and width `sizes` [..., 2]."""
    last = sizes.flip(-1).to(boxes) - (1 if inclusive else 0)
    return torch.minimum(boxes.clamp(min=0), torch.cat((last, last), dim=-1))


def non_maximum_suppression(
    boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, conventions: Conventions
) -> Tensor:
    """What is left when the worse of two overlapping boxes of a group is dropped, as indices [K].

    "detectron" gives them in ascending order, the others from the best score to the worst.
    """
    if conventions.nms == "torchvision":
        kept: Tensor = batched_nms(boxes, scores, groups, threshold)
        return kept
    ends_after = boxes + boxes.new_tensor([0, 0, 1, 1]) if conventions.inclusive_corners else boxes
    if conventions.nms == "mmdetection":
        beyond = torch.cat((ends_after.flatten(), boxes.new_zeros(1))).max() + 1
        return nms(ends_after + (groups.to(boxes) * beyond)[:, None], scores, threshold)  # type: ignore[no-any-return]
    keep = torch.zeros_like(scores, dtype=torch.bool)
    # an overlap of exactly the threshold suppresses as well
    below = float(np.nextafter(np.float32(threshold), np.float32(0)))
    for group in torch.unique(groups):
        members = (groups == group).nonzero().squeeze(1)
        keep[members[nms(ends_after[members], scores[members], below)]] = True
    return keep.nonzero().squeeze(1)
