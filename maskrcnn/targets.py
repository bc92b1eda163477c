"""Ground truth -> what the anchors and the regions must answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.data.batches import Target
from common.ops import masks as rle
from common.ops.guarded_sampling import roi_align
from maskrcnn.boxes import encode, overlaps, sides
from maskrcnn.config import Conventions, Proposals, Regions

BACKGROUND, IGNORED = -1, -2  # instead of an object's index
Choice = Callable[[int, int, torch.device], Tensor]  # (total, count) -> `count` of range(total), on a device


class AnchorTargets(NamedTuple):
    """The anchors of one image that the loss looks at, as indices over all levels, ascending."""

    positives: Tensor  # [p] int64
    negatives: Tensor  # [q] int64
    deltas: Tensor  # [p, 4] from the positive anchors to their objects


class RegionTargets(NamedTuple):
    """The regions of one image that the losses look at, the foreground first."""

    indices: Tensor  # [r] int64, into the proposals with the objects' boxes behind them
    boxes: Tensor  # [r, 4]
    labels: Tensor  # [r] int64: the object's class, or BACKGROUND
    objects: Tensor  # [p] int64: the object of each foreground region
    deltas: Tensor  # [p, 4] from the foreground regions to their objects


def choose_at_random(total: int, count: int, device: torch.device) -> Tensor:
    return torch.randperm(total, device=device)[:count]


def without_empty_boxes(target: Target, conventions: Conventions) -> Target:
    """A target without the objects whose box has no width or height, which no delta could describe."""
    keep = (sides(target.boxes, conventions.inclusive_corners) > 0).all(dim=1)
    if bool(keep.all()):
        return target
    rows = keep.nonzero().squeeze(1)
    polygons = None if target.polygons is None else [target.polygons[row] for row in rows.tolist()]
    return replace(
        target, boxes=target.boxes[rows], labels=target.labels[rows], masks=target.masks[rows], polygons=polygons
    )


def match(
    iou: Tensor, foreground: float, background: float, claims: Literal["best", "own"] | None, smallest_claim: float
) -> Tensor:
    """For each of M boxes the index of its object, BACKGROUND or IGNORED, by the overlaps [objects, M].

    With `claims` every object also gets the boxes that share its highest overlap: those learn their own "best"
    object, or the "own" one that claims them. (An object that overlaps no box claims none; in the originals, all.)
    """
    if not len(iou):
        return torch.full((iou.shape[1],), BACKGROUND, device=iou.device)
    highest, nearest = iou.max(dim=0)
    matched = torch.where(highest < background, BACKGROUND, IGNORED)
    matched = torch.where(highest >= foreground, nearest, matched)
    if claims is None:
        return matched
    most = iou.max(dim=1, keepdim=True).values
    tied = (iou == most) & (most >= smallest_claim) & (most > 0)
    if claims == "best":
        return torch.where(tied.any(dim=0), nearest, matched)
    claimant = torch.where(tied, torch.arange(len(iou), device=iou.device)[:, None], -1).amax(dim=0)
    return torch.where(claimant >= 0, claimant, matched)


def sample(matched: Tensor, count: int, positive_fraction: float, choose: Choice) -> tuple[Tensor, Tensor]:
    """Indices of at most `count` boxes: of those with an object at most that fraction, the rest of the background."""
    positives, negatives = (matched >= 0).nonzero().squeeze(1), (matched == BACKGROUND).nonzero().squeeze(1)
    some = min(len(positives), int(count * positive_fraction))
    rest = min(len(negatives), count - some)
    chosen = positives[choose(len(positives), some, matched.device)].sort().values
    return chosen, negatives[choose(len(negatives), rest, matched.device)].sort().values


def match_anchors(
    anchors: Tensor, objects: Tensor, size: Tensor, settings: Proposals, conventions: Conventions
) -> Tensor:
    """The object of each anchor [M], or BACKGROUND or IGNORED, in an image of height and width `size` [2]."""
    iou = overlaps(objects, anchors, conventions.inclusive_corners)
    matched = match(
        iou, settings.foreground_iou, settings.background_iou, conventions.claims, conventions.smallest_claim
    )
    if settings.inside_only:
        end = size.flip(0) - (1 if conventions.inclusive_corners else 0)
        inside = (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2:] <= end).all(dim=1)
        matched = torch.where(inside, matched, IGNORED)
    return matched


def anchor_targets(
    anchors: Tensor, objects: Tensor, size: Tensor, settings: Proposals, conventions: Conventions, choose: Choice
) -> AnchorTargets:
    """Which of one image's anchors [M, 4] learn to find which of its objects [n, 4], or none."""
    matched = match_anchors(anchors, objects, size, settings, conventions)
    positives, negatives = sample(matched, settings.samples, settings.positive_fraction, choose)
    weights = (1.0, 1.0, 1.0, 1.0)
    deltas = encode(objects[matched[positives]], anchors[positives], weights, conventions.inclusive_corners)
    return AnchorTargets(positives, negatives, deltas)


def match_regions(boxes: Tensor, objects: Tensor, settings: Regions, conventions: Conventions) -> Tensor:
    """The object of each region [R], or BACKGROUND."""
    claims: Literal["own"] | None = "own" if conventions.boxes_claimed else None
    iou, threshold = overlaps(objects, boxes, conventions.inclusive_corners), settings.foreground_iou
    return match(iou, threshold, threshold, claims, threshold)


def region_targets(
    proposals: Tensor, target: Target, settings: Regions, conventions: Conventions, choose: Choice
) -> RegionTargets:
    """Which of one image's proposals, and of its objects' own boxes, the heads learn from."""
    boxes = torch.cat((proposals, target.boxes))
    matched = match_regions(boxes, target.boxes, settings, conventions)
    positives, negatives = sample(matched, settings.samples, settings.positive_fraction, choose)
    objects = matched[positives]
    labels = torch.cat((target.labels[objects], torch.full_like(negatives, BACKGROUND)))
    inclusive, weights = conventions.inclusive_corners, settings.delta_weights
    deltas = encode(target.boxes[objects], boxes[positives], weights, inclusive)
    chosen = torch.cat((positives, negatives))
    return RegionTargets(chosen, boxes[chosen], labels, objects, deltas)


def mask_targets(
    boxes: Tensor, objects: Tensor, target: Target, size: Tensor, resolution: int, conventions: Conventions
) -> Tensor:
    """What the mask head must draw in each foreground box [p, 4] for its object [p]. [p, resolution, resolution]"""
    drawn = [len(outlines) > 0 for outlines in target.polygons or []]
    if conventions.mask_targets != "polygons" or not any(drawn):
        return from_pixels(boxes, objects, target.masks, resolution, conventions)
    assert target.polygons is not None
    height, width = size.tolist()
    places = boxes.detach().cpu().double().numpy()
    which = objects.tolist()
    outlined = [row for row, object_ in enumerate(which) if drawn[object_]]
    masks = from_outlines(
        [target.polygons[which[row]] for row in outlined], places[outlined], height, width, resolution
    )
    if len(outlined) == len(which):
        return masks.to(boxes)
    result = from_pixels(boxes, objects, target.masks, resolution, conventions)  # of objects given as RLE
    result[outlined] = masks.to(boxes)
    return result


def from_outlines(
    outlines: list[list[NDArray[np.float32]]], boxes: NDArray[np.float64], height: int, width: int, resolution: int
) -> Tensor:
    """Outlines moved to a box's corner, scaled to the mask's resolution, and drawn as COCO's tools do."""
    x1, y1 = boxes[:, 0].clip(0, width - 1), boxes[:, 1].clip(0, height - 1)
    # x2 - x1, without the + 1 of inclusive corners, as the original measures here
    spans = np.maximum(np.stack((boxes[:, 2].clip(0, width) - x1, boxes[:, 3].clip(0, height) - y1), axis=1), 1)
    corners = np.stack((x1, y1), axis=1).astype(np.float32)
    factors = (resolution / spans).astype(np.float32)
    codes = [
        rle.from_polygons([((outline - corner) * factor).ravel() for outline in parts], resolution, resolution)
        for parts, corner, factor in zip(outlines, corners, factors, strict=True)
    ]
    return torch.from_numpy(rle.decode(codes)) if codes else torch.zeros(0, resolution, resolution, dtype=torch.bool)


def from_pixels(boxes: Tensor, objects: Tensor, masks: Tensor, resolution: int, conventions: Conventions) -> Tensor:
    """The part of each object's mask under its box, averaged over the cells of a grid."""
    used, rows = torch.unique(objects, return_inverse=True)
    ends_after = boxes + boxes.new_tensor([0, 0, 1, 1]) if conventions.inclusive_corners else boxes
    regions = torch.cat((rows[:, None].to(boxes), ends_after), dim=1)
    aligned = conventions.mask_targets != "torchvision"
    averaged: Tensor = roi_align(masks[used][:, None].to(boxes), regions, resolution, 1.0, 0, aligned)[:, 0]
    return (averaged >= 0.5).to(boxes) if aligned else averaged
