"""Boxes [N, 4] as x1, y1, x2, y2: areas, overlaps, deltas, clipping and NMS, in each library's conventions.

With `inclusive` corners a box ends at its last pixel, so that a width is x2 - x1 + 1.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from maskrcnn.config import Conventions

LARGEST_GROWTH = math.log(1000 / 16)  # of a side, as a logarithm: the widest anchor to the whole photograph


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
