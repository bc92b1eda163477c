"""The panoptic head (paper, section 3.1): no parameters, only what the semantic and the instance heads said.

- Its channels are stuff, then one for each instance that is kept, then void.
- Coordinates are pixels of the map that it is made for: the network's input, or a quarter of it in training.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from common.ops.precision import full_precision
from upsnet.boxes import nms
from upsnet.config import Inference

VOID = 255  # in maps of classes and of panoptic channels


class Found(NamedTuple):
    """Instances of one image in the network's coordinates, the best first."""

    boxes: Tensor  # [n, 4]
    scores: Tensor  # [n]
    labels: Tensor  # [n] int64, counted from 1; 0 is background


class Terms(NamedTuple):
    """What speaks for each kept instance at each pixel."""

    kept: Tensor  # [k] index of the candidate
    mask: Tensor  # [k, H, W] its mask's logits, 0 outside of its box
    semantic: Tensor  # [k, H, W] its class's semantic logits, 0 outside of its box


def candidates(boxes: Tensor, scores: Tensor, test: Inference) -> Found:
    """Who enters the panoptic head: boxes [R, 1 + things, 4] and probabilities [R, 1 + things] of all proposals."""
    region, label = (scores[:, 1:] > test.panoptic_score_threshold).nonzero(as_tuple=True)
    label = label + 1
    chosen, certainty = boxes[region, label], scores[region, label]
    kept = nms(chosen, certainty, test.nms_threshold)[: test.max_instances]
    return Found(chosen[kept], certainty[kept], label[kept])


def panoptic_terms(found: Found, masks: Tensor, semantic_logits: Tensor, stuff: int, covered: float) -> Terms:
    """Mask removal and both terms; masks [n, 28, 28], semantic_logits [stuff + things, H, W].

    As in the original, one channel is there even if nobody is: all zeros without candidates (it reads as the last
    stuff class), the best candidate's without its mask if every candidate is removed.
    """
    height, width = semantic_logits.shape[1:]
    if not len(found.boxes):
        nothing = semantic_logits.new_zeros(1, height, width)
        return Terms(found.labels.new_zeros(0), nothing, nothing)
    corners = found.boxes.trunc()
    logits = paste(masks, corners, height, width)
    keep = remove_masks(logits > 0, found.labels, covered)
    kept = keep.nonzero()[:, 0]
    if not len(kept):
        kept, logits = kept.new_zeros(1), torch.zeros_like(logits)
    inside = box_masks(found.boxes[kept], height, width)
    semantic = semantic_logits[stuff - 1 + found.labels[kept]] * inside
    return Terms(kept, logits[kept], semantic)


def remove_masks(masks: Tensor, labels: Tensor, covered: float) -> Tensor:
    """Whom to keep [n], of masks [n, H, W] from best to worst: who is not empty and not covered by its own class."""
    first = (labels[:, None] == labels).int().argmax(dim=1)  # of each one's class
    taken = torch.zeros_like(masks)  # what a class covers so far, in the row of its first
    keep = []
    for mask, row in zip(masks, first, strict=True):
        area, shared = mask.sum(), (mask & taken[row]).sum()
        keep.append((area > 0) & (shared / area <= covered))
        taken[row] = taken[row] | (mask & keep[-1])
    return torch.stack(keep)


def panoptic_logits(terms: Terms, semantic_logits: Tensor, stuff: int) -> Tensor:
    """[stuff + k + 1, H, W]; an instance that nobody claims, though its pixels look like a thing, is void."""
    void = semantic_logits[stuff:].amax(dim=0) - terms.semantic.amax(dim=0)
    return torch.cat((semantic_logits[:stuff], terms.semantic + terms.mask, void[None]))


def panoptic_map(logits: Tensor) -> Tensor:
    """[H, W] the best channel; VOID where it is void."""
    best = logits.argmax(dim=0)
    return best.masked_fill(best == len(logits) - 1, VOID)


def paste(maps: Tensor, corners: Tensor, height: int, width: int) -> Tensor:
    """maps [n, S, S] stretched bilinearly over the pixels of integer boxes [n, 4], 0 elsewhere -> [n, H, W]"""
    size = maps.shape[-1]
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    rows = _stretch(corners[:, 1], corners[:, 3], size, height).to(maps.dtype)
    columns = _stretch(corners[:, 0], corners[:, 2], size, width).to(maps.dtype)
    with full_precision(maps.device):
        return rows @ maps @ columns.mT


def _stretch(first: Tensor, last: Tensor, size: int, count: int) -> Tensor:
    """[n, count, size]: how much each of `size` values adds to each of `count` pixels; 0 outside of first..last."""
    lengths = (last - first + 1).clamp(min=1)[:, None]
    pixels = torch.arange(count, device=first.device) - first[:, None]
    places = ((pixels + 0.5) * (size / lengths) - 0.5).clamp(0, size - 1)
    weights = (1 - (places[..., None] - torch.arange(size, device=first.device)).abs()).clamp(min=0)
    return weights * ((pixels >= 0) & (pixels < lengths))[..., None]


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """[n, H, W] bool: the pixels from a box's first corner, cut to whole ones, to its last, rounded."""
    first, end = boxes[:, :2].trunc(), (boxes[:, 2:].round() + 1).trunc()
    y = torch.arange(height, device=boxes.device)
    x = torch.arange(width, device=boxes.device)
    rows = (y >= first[:, 1:]) & (y < end[:, 1:])
    columns = (x >= first[:, :1]) & (x < end[:, :1])
    return rows[:, :, None] & columns[:, None]
