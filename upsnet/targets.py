"""Ground truth -> what the heads must answer.

Wherever k of n are drawn at random, `choose(n, k)` says which: the parity cases record one drawing.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from common.data.batches import UNLABELLED, Target
from common.ops.precision import widest_float
from upsnet.boxes import encode, ious
from upsnet.config import Train
from upsnet.heads import MASK_SIZE

Choose = Callable[[int, int], Tensor]  # of n, k positions, without repetition
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the box head's deltas
IGNORED = -1


class Objects(NamedTuple):
    """An image's annotated boxes, crowds behind the others."""

    boxes: Tensor  # [n, 4], up to the last pixel
    labels: Tensor  # [n] from 1
    crowd: Tensor  # [n] bool


class AnchorTargets(NamedTuple):
    """For all anchors of an image, level by level."""

    labels: Tensor  # [A] 1 object, 0 none, IGNORED
    deltas: Tensor  # [A, 4] of the objects'


class RegionTargets(NamedTuple):
    """The regions that the box head learns from; those that cover objects come first."""

    boxes: Tensor  # [R, 4]
    labels: Tensor  # [R] from 1, 0 background
    deltas: Tensor  # [P, 4] of the P that cover objects, towards them

    def positive(self) -> Tensor:
        """[R] bool: those that cover objects."""
        return torch.arange(len(self.labels), device=self.labels.device) < len(self.deltas)


class MaskTargets(NamedTuple):
    """The regions that the mask head learns from."""

    boxes: Tensor  # [P, 4]
    labels: Tensor  # [P] from 1
    masks: Tensor  # [P, 28, 28] bool


class SemanticTargets(NamedTuple):
    """Semantic channels, UNLABELLED where there is none."""

    image: Tensor  # [H, W]
    boxes: Tensor  # [n, 4] the objects
    regions: Tensor  # [n, 28, 28] the channels in them


class PanopticTargets(NamedTuple):
    """The objects that the panoptic head is told of, and what it must make of them, at stride 4."""

    boxes: Tensor  # [k, 4] in the network's pixels
    labels: Tensor  # [k] from 1
    channels: Tensor  # [H/4, W/4]


class Lesson(NamedTuple):
    """What one image teaches each head."""

    anchors: AnchorTargets
    regions: RegionTargets
    masks: MaskTargets
    semantic: SemanticTargets
    panoptic: PanopticTargets


def lesson(
    anchors: Tensor,
    proposals: Tensor,
    size: Tensor,
    target: Target,
    classes: tuple[int, int],
    train: Train,
    choose: Choose,
) -> Lesson:
    """All targets of an image of `size` (height, width) without padding; `classes` are numbers of things and stuff."""
    assert target.semantic is not None
    boxes, labels, masks = target.boxes, target.labels + 1, target.masks
    crowd = torch.zeros(len(boxes) + len(target.crowd_boxes), dtype=torch.bool, device=boxes.device)
    crowd[len(boxes) :] = True
    objects = Objects(torch.cat((boxes, target.crowd_boxes)), torch.cat((labels, target.crowd_labels + 1)), crowd)
    regions = region_targets(proposals, objects, train, choose)
    covering = regions.boxes[: len(regions.deltas) if len(boxes) else 0]
    channels = semantic_channels(target.semantic, *classes)
    kept = keep_boxes(len(boxes), train.panoptic_boxes, choose)
    quarter = panoptic_target(channels[::4, ::4], masks[kept, ::4, ::4], classes[1])
    return Lesson(
        anchor_targets(anchors, boxes, size, train, choose),
        regions,
        MaskTargets(covering, regions.labels[: len(covering)], mask_targets(covering, boxes, masks)),
        SemanticTargets(channels, boxes, region_semantics(channels, boxes)),
        PanopticTargets(boxes[kept], labels[kept], quarter),
    )


def at_random(device: torch.device) -> Choose:
    return lambda count, wanted: torch.randperm(count, device=device)[:wanted]


def anchor_targets(anchors: Tensor, objects: Tensor, size: Tensor, train: Train, choose: Choose) -> AnchorTargets:
    """Which of the anchors [A, 4] inside an image of `size` (height, width) must find `objects` [n, 4].

    As in the original: a best anchor of an object may be drawn as a negative if it overlaps too little, and if there
    are not more candidates than wanted, no anchor is negative.
    """
    labels = torch.full((len(anchors),), IGNORED, device=anchors.device)
    deltas = torch.zeros_like(anchors)
    inside = ((anchors[:, :2] >= 0) & (anchors[:, 2:] < size.flip(0))).all(dim=1).nonzero()[:, 0]
    wanted = int(train.positive_anchors * train.anchors)
    if not len(objects):  # the original has no answer to an image without objects
        labels[inside[choose(len(inside), train.anchors)]] = 0
        return AnchorTargets(labels, deltas)
    overlaps = ious(anchors[inside], objects)  # [I, n]
    best, nearest = overlaps.max(dim=1)
    is_best = (overlaps == overlaps.amax(dim=0)).any(dim=1) if len(inside) else best > 0
    positive = (is_best | (best >= train.positive_iou)).nonzero()[:, 0]
    deltas[inside] = encode(objects[nearest], anchors[inside])
    own = torch.full((len(inside),), IGNORED, device=anchors.device)
    own[positive] = 1
    if len(positive) > wanted:
        own[positive[choose(len(positive), len(positive) - wanted)]] = IGNORED
    negative = (best < train.negative_iou).nonzero()[:, 0]
    missing = train.anchors - int((own == 1).sum())
    if len(negative) > missing:
        own[negative[choose(len(negative), missing)]] = 0
    labels[inside] = own
    deltas[labels != 1] = 0
    return AnchorTargets(labels, deltas)


def region_targets(proposals: Tensor, objects: Objects, train: Train, choose: Choose) -> RegionTargets:
    """Regions to learn from, among proposals [P, 4] and the objects' own boxes.

    As in the original, a proposal that a crowd overlaps best learns to be that crowd.
    """
    whole = objects.boxes[~objects.crowd]
    candidates = torch.cat((whole, proposals))
    overlaps = ious(candidates, objects.boxes)  # [C, n]
    if not len(objects.boxes):
        overlaps = overlaps.new_zeros(len(candidates), 1)
    best, nearest = overlaps.max(dim=1)
    positive = (best >= train.roi_iou).nonzero()[:, 0]
    wanted = round(train.positive_rois * train.rois)
    positive = positive[choose(len(positive), min(wanted, len(positive)))]
    negative = (best < train.roi_iou).nonzero()[:, 0]
    negative = negative[choose(len(negative), min(train.rois - len(positive), len(negative)))]
    chosen = torch.cat((positive, negative))
    labels = torch.zeros_like(chosen)
    labels[: len(positive)] = objects.labels[nearest[positive]]
    deltas = encode(objects.boxes[nearest[positive]], candidates[positive], BOX_WEIGHTS)
    return RegionTargets(candidates[chosen], labels, deltas)


def mask_targets(regions: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
    """[R, 28, 28] bool: within each region [R, 4], the mask of the object that overlaps it most.

    `masks` [n, H, W] and `objects`, their boxes, are in the same pixels as the regions.
    """
    if not len(regions):
        return masks.new_zeros(0, MASK_SIZE, MASK_SIZE)
    nearest = ious(regions, objects).argmax(dim=1)
    steps = (torch.arange(MASK_SIZE, device=regions.device) + 0.5) / MASK_SIZE  # the middles of the cells
    x = regions[:, :1] + steps * (regions[:, 2:3] - regions[:, :1]).clamp(min=1)  # [R, 28]
    y = regions[:, 1:2] + steps * (regions[:, 3:] - regions[:, 1:2]).clamp(min=1)
    columns = x.long().clamp(0, masks.shape[2] - 1)
    rows = y.long().clamp(0, masks.shape[1] - 1)
    return masks[nearest[:, None, None], rows[:, :, None], columns[:, None]]


def semantic_channels(semantic: Tensor, things: int, stuff: int) -> Tensor:
    """A map of class indices (things first) as one of semantic channels (stuff first); UNLABELLED stays."""
    channels = (semantic.long() + stuff) % (things + stuff)
    return channels.masked_fill(semantic == UNLABELLED, UNLABELLED)


def region_semantics(channels: Tensor, boxes: Tensor) -> Tensor:
    """[n, 28, 28]: the semantic map [H, W] inside each box [n, 4], as OpenCV's nearest neighbour shrinks it."""
    corners = boxes.round().long()
    steps = torch.arange(MASK_SIZE, device=boxes.device)

    def pixels(first: Tensor, end: Tensor, limit: int) -> Tensor:
        length = (end.clamp(max=limit) - first).clamp(min=1)[:, None].to(widest_float(boxes.device))
        # one over the quotient, as OpenCV computes it: where a product should be whole, it may come out one below
        step = 1 / torch.div(length.new_tensor(MASK_SIZE), length)  # a plain number would be multiplied by 1 / length
        return (first[:, None] + (steps * step).long()).clamp(0, limit - 1)

    rows = pixels(corners[:, 1], corners[:, 3], channels.shape[0])
    columns = pixels(corners[:, 0], corners[:, 2], channels.shape[1])
    return channels[rows[:, :, None], columns[:, None]]


def keep_boxes(count: int, fraction: float, choose: Choose) -> Tensor:
    """Which of an image's objects the panoptic head is told of: at least one, in their order."""
    return choose(count, min(max(int(fraction * count), 1), count)).sort().values


def panoptic_target(channels: Tensor, masks: Tensor, stuff: int) -> Tensor:
    """[H, W] the panoptic channel of each pixel, from semantic channels [H, W] and the kept objects' masks [k, H, W].

    Things whose box was not kept are void: the last channel.
    """
    target = channels.clone()
    target[(channels >= stuff) & (channels != UNLABELLED)] = stuff + len(masks)
    if len(masks):
        last = len(masks) - 1 - masks.flip(0).to(torch.uint8).argmax(dim=0)  # of several masks, the last
        target = torch.where(masks.any(dim=0), stuff + last, target)
    return target
