"""Ground truth -> what each anchor must answer: ATSS (arXiv 1912.02424)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glip.boxes import centres_and_sizes, iou

NEAREST = 9  # anchors of each level that may answer for a box
NO_OBJECT = 255  # the last token of a full caption stands for "nothing here"
INSIDE = 0.01  # how far, in pixels, an anchor's centre must lie inside of the box


class Assignment(NamedTuple):
    """Which anchors of an image answer for which box."""

    anchors: Tensor  # [p] index over all levels, rising
    objects: Tensor  # [p] index of the box


def assign(boxes: Tensor, anchors: Sequence[Tensor]) -> Assignment:
    """Boxes [n, 4] and the anchors [A, 4] of each level: those near a box that overlap it more than most do."""
    every = torch.cat(list(anchors))
    if len(boxes) == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=every.device)
        return Assignment(nothing, nothing)
    overlaps = iou(every, boxes)  # [A, n]
    centres = centres_and_sizes(every)[0]
    candidates = nearest(centres, centres_and_sizes(boxes)[0], [len(level) for level in anchors])  # [k, n]
    found = overlaps.gather(0, candidates)
    threshold = found.mean(dim=0) + found.std(dim=0)
    reach = torch.cat((centres[:, None] - boxes[:, :2], boxes[:, 2:] - centres[:, None]), dim=-1)  # [A, n, 4]
    inside = reach.amin(dim=-1) > INSIDE
    positive = torch.zeros_like(inside).scatter(0, candidates, found >= threshold) & inside
    claims = overlaps.masked_fill(~positive, -torch.inf)
    best, objects = claims.max(dim=1)
    chosen = (best > -torch.inf).nonzero().flatten()
    return Assignment(chosen, objects[chosen])


def nearest(anchor_centres: Tensor, box_centres: Tensor, level_sizes: Sequence[int]) -> Tensor:
    """[k, n]: of each level, the anchors whose centres are nearest to each box's."""
    distances = (anchor_centres[:, None] - box_centres[None]).square().sum(dim=-1).sqrt()  # [A, n]
    found, start = [], 0
    for size in level_sizes:
        level = distances[start : start + size]
        found.append(level.topk(min(NEAREST, size), dim=0, largest=False).indices + start)
        start += size
    return torch.cat(found)


def centerness_of(boxes: Tensor, anchors: Tensor) -> Tensor:
    """How central each anchor lies in its box: 1 in the middle, 0 on an edge."""
    centres = centres_and_sizes(anchors)[0]
    near, far = centres - boxes[:, :2], boxes[:, 2:] - centres
    ratios = torch.minimum(near, far) / torch.maximum(near, far)
    return ratios.prod(dim=1).sqrt()


def token_targets(positive: Tensor, assignment: Assignment, anchors: int) -> Tensor:
    """[A, T]: 1 where an anchor's box is named by a token; an anchor without a box points at NO_OBJECT, if there."""
    targets = torch.zeros(anchors, positive.shape[1], device=positive.device)
    targets[:, NO_OBJECT:] = 1
    targets[assignment.anchors] = positive[assignment.objects].float()
    return targets
