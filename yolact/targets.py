"""Ground truth -> what each prior must answer (paper, section 3.3; SSD's matching, arXiv 1512.02325)."""

from typing import NamedTuple

import torch
from torch import Tensor

from yolact.boxes import covered, encode, ious, to_corners
from yolact.config import Losses

NEUTRAL, BACKGROUND = -1, 0  # classes count from 1 here


class PriorTargets(NamedTuple):
    """What the priors of one image must answer."""

    classes: Tensor  # [priors] int64: 1 + the label, BACKGROUND, or NEUTRAL where nothing is learned
    objects: Tensor  # [priors] int64: which object each prior is nearest to
    deltas: Tensor  # [priors, 4] of that object's box; finite for positive priors


def match(boxes: Tensor, labels: Tensor, crowd_boxes: Tensor, priors: Tensor, settings: Losses) -> PriorTargets:
    """Boxes [n, 4] and crowd boxes [c, 4] are corners as fractions of the image; priors [P, 4] cx, cy, w, h."""
    corners = to_corners(priors)
    if len(boxes) == 0:
        classes = torch.full((len(priors),), BACKGROUND, device=priors.device)
        objects, deltas = torch.zeros_like(classes), torch.zeros_like(priors)
    else:
        overlaps = ious(boxes, corners)  # [n, P]
        best, objects = overlaps.max(dim=0)
        owners = own_priors(overlaps)
        objects[owners] = torch.arange(len(boxes), device=priors.device)
        best[owners] = 2.0
        classes = labels[objects] + 1
        classes[best < settings.positive_iou] = NEUTRAL
        classes[best < settings.negative_iou] = BACKGROUND
        deltas = encode(boxes[objects], priors)
    if len(crowd_boxes):
        in_crowd = covered(corners, crowd_boxes).amax(dim=1) > settings.crowd_overlap
        classes[in_crowd & (classes <= BACKGROUND)] = NEUTRAL
    return PriorTargets(classes, objects, deltas)


def own_priors(overlaps: Tensor) -> Tensor:
    """For each object the prior that is its own, whatever their overlap. [n, P] -> [n]

    The best remaining pair is made again and again, so that no prior is given away twice. Instead of one pair at a
    time, all pairs are made at once whose object has no better prior left, and whose prior no better object: none of
    the others can come before them. The first of equals is taken.
    """
    remaining = overlaps.clone()
    own = torch.full((len(overlaps),), -1, device=overlaps.device)
    numbers = torch.arange(len(overlaps), device=overlaps.device)
    while bool((own < 0).any()):
        wanted = remaining.argmax(dim=1)  # [n]
        rival = remaining[:, wanted].argmax(dim=0)  # who overlaps the wanted prior most
        made = (own < 0) & (rival == numbers)
        own[made] = wanted[made]
        remaining[made] = -1.0
        remaining[:, wanted[made]] = -1.0
    return own
