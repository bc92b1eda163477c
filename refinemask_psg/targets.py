"""Ground truth -> which anchors and proposals are which object, and which of them are trained on."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from refinemask_psg.boxes import pairwise_iou

BACKGROUND, IGNORED = -1, -2


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
    matches: Tensor,
    count: int,
    most_positive: int,
    how: Literal["random", "hard", "even"],
    hardness: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Indices of positive and of background candidates, `count` together at most; sorted."""
    positive = choose((matches >= 0).nonzero().squeeze(1), most_positive, how, hardness)
    negative = choose((matches == BACKGROUND).nonzero().squeeze(1), count - len(positive), how, hardness)
    return positive, negative


def choose(candidates: Tensor, count: int, how: Literal["random", "hard", "even"], hardness: Tensor | None) -> Tensor:
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

    def sample(
        self, objects: Tensor, count: int, how: Literal["random", "hard", "even"], hardness: Tensor | None
    ) -> Sampled:
        """A quarter of the samples may be positive."""
        positive, negative = sample(self.matches, count, count // 4, how, hardness)
        both, owners = torch.cat((positive, negative)), self.matches[positive]
        is_true_box = positive < len(objects)
        return Sampled(self.boxes[both], self.labels[both], owners, objects[owners], is_true_box)
