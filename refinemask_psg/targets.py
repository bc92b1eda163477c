"""Ground truth -> which anchors and proposals are which object, which are trained on, and what their masks are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.data.batches import Target
from common.ops import masks as rle
from common.ops.guarded_sampling import roi_align
from refinemask_psg.boxes import pairwise_iou

BACKGROUND, IGNORED = -1, -2
How = Literal["random", "hard", "even"]  # candidates are drawn, if there are more than wanted
Outlines = Sequence[NDArray[np.float32]]  # of one object


def match(
    boxes: Tensor, objects: Tensor, positive: float, negative: float, smallest: float, low_quality: bool
) -> Tensor:
    """For each box [n, 4] the object [m, 4] it stands for, BACKGROUND, or IGNORED if its overlap is in between.

    With low_quality an object also claims all boxes that overlap it best, if by `smallest` at least.
    """
    if len(objects) == 0:
        return torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    overlaps = pairwise_iou(objects, boxes)  # [m, n]
    largest, owner = overlaps.max(dim=0)
    matches = torch.where(largest < negative, BACKGROUND, IGNORED)
    matches = torch.where(largest >= positive, owner, matches)
    if low_quality and len(boxes):
        best = overlaps.amax(dim=1, keepdim=True)
        claims = (overlaps == best) & (best >= smallest)
        number = torch.arange(len(objects), device=boxes.device)[:, None]
        claimant = torch.where(claims, number, BACKGROUND).amax(dim=0)  # of several, the last one
        matches = torch.where(claimant >= 0, claimant, matches)
    return matches


def sample(
    matches: Tensor, count: int, most_positive: int, how: How, hardness: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of positive and of background candidates, `count` together at most; sorted."""
    positive = choose((matches >= 0).nonzero().squeeze(1), most_positive, how, hardness)
    negative = choose((matches == BACKGROUND).nonzero().squeeze(1), count - len(positive), how, hardness)
    return positive, negative


def choose(candidates: Tensor, count: int, how: How, hardness: Tensor | None) -> Tensor:
    total = len(candidates)
    if total <= count:
        return candidates
    if how == "even":
        return candidates[torch.arange(count, device=candidates.device) * total // count]
    if how == "hard" and hardness is not None:
        return candidates[hardness[candidates].topk(count).indices.sort().values]
    return candidates[torch.randperm(total, device=candidates.device)[:count].sort().values]


@dataclass
class Sampled:
    """The proposals of one image that a stage of the box heads is trained on; the positive ones first."""

    boxes: Tensor  # [s, 4]
    labels: Tensor  # [s] int64; the number of classes means background
    objects: Tensor  # [p] int64: which object each positive is
    true_boxes: Tensor  # [p, 4] those objects' boxes
    is_true_box: Tensor  # [p] bool: the proposal is an object's own box


@dataclass
class Candidates:
    """The objects' own boxes and an image's proposals, and which object each is."""

    boxes: Tensor  # [c, 4]
    matches: Tensor  # [c]
    labels: Tensor  # [c] int64; the number of classes means background

    @classmethod
    def of(
        cls, proposals: Tensor, objects: Tensor, labels: Tensor, classes: int, iou: float, low_quality: bool
    ) -> "Candidates":
        """Objects [m, 4] with their labels [m] are candidates too, so that there are positives from the start."""
        own = torch.arange(len(objects), device=objects.device)
        matches = torch.cat((own, match(proposals, objects, iou, iou, smallest=iou, low_quality=low_quality)))
        padded = torch.cat((labels, labels.new_tensor([classes])))  # index -1: background
        return cls(torch.cat((objects, proposals)), matches, padded[matches])

    def sample(self, objects: Tensor, count: int, how: How, hardness: Tensor | None) -> Sampled:
        """A quarter of the samples may be positive."""
        positive, negative = sample(self.matches, count, count // 4, how, hardness)
        both, owners = torch.cat((positive, negative)), self.matches[positive]
        is_true_box = positive < len(objects)
        return Sampled(self.boxes[both], self.labels[both], owners, objects[owners], is_true_box)


# --- masks


def mask_targets(target: Target, sampled: Sampled, sizes: Sequence[int], from_polygons: bool) -> list[Tensor]:
    """For each positive sample its object's mask within the sample's box, at each size: [p, size, size] bool."""
    height, width = target.masks.shape[1:]
    owners = sampled.objects
    boxes = sampled.boxes[: len(owners)]
    limits = boxes.new_tensor([width, height, width, height])
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    if not from_polygons or target.polygons is None:
        return [crops(target.masks, boxes, owners, size) for size in sizes]
    outlines = [target.polygons[owner] for owner in owners.tolist()]
    places = boxes.cpu().numpy()
    return [crops_with_outlines(target.masks, boxes, owners, outlines, places, size) for size in sizes]


def crops_with_outlines(
    masks: Tensor, boxes: Tensor, owners: Tensor, outlines: Sequence[Outlines], places: NDArray[np.float32], size: int
) -> Tensor:
    """As `crops`, but drawn into the boxes, which `places` also are, wherever there are outlines."""
    result = torch.zeros(len(owners), size, size, dtype=torch.bool, device=boxes.device)
    given_as_rle = [index for index, each in enumerate(outlines) if not each]
    if given_as_rle:
        result[given_as_rle] = crops(masks, boxes[given_as_rle], owners[given_as_rle], size)
    if len(given_as_rle) < len(outlines):
        drawn = [draw(each, place, size) for each, place in zip(outlines, places, strict=True) if each]
        outlined = [index for index, each in enumerate(outlines) if each]
        result[outlined] = torch.from_numpy(rle.decode(drawn)).to(boxes.device)
    return result


def crops(masks: Tensor, boxes: Tensor, owners: Tensor, size: int) -> Tensor:
    """Masks [n, H, W] averaged within boxes [p, 4] of the masks `owners` [p]: at least half is foreground."""
    regions = torch.cat((owners[:, None].to(boxes), boxes), dim=1)
    averages = roi_align(masks[:, None].to(boxes.dtype), regions, size, 1.0, sampling_ratio=0, aligned=True)
    result: Tensor = averages[:, 0] >= 0.5
    return result


def draw(outlines: Outlines, box: NDArray[np.float32], size: int) -> rle.Rle:
    """Polygons drawn into a box that is enlarged or shrunk to size x size."""
    x, y, right, bottom = (float(value) for value in box)
    scale = np.array([size / max(right - x, 1.0), size / max(bottom - y, 1.0)])
    corners = [(np.asarray(outline, np.float64) - [x, y]) * scale for outline in outlines]
    return rle.from_polygons([each.reshape(-1) for each in corners], size, size)


def foreground_target(targets: Sequence[Target], height: int, width: int) -> Tensor:
    """Where any object is, on a map of P2's size: [N, 1, height, width] float."""
    unions = torch.stack([target.masks.any(dim=0) for target in targets])[:, None].float()
    return (F.interpolate(unions, (height, width), mode="bilinear", align_corners=False) >= 0.5).float()
