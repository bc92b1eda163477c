"""The region proposals that the network makes of the anchors."""

from typing import NamedTuple

import torch
from torch import Tensor

from upsnet.boxes import STRIDES, anchors_of, clip, decode, nms
from upsnet.config import Proposals


class Level(NamedTuple):
    """What the region proposal head says about one level of an image."""

    logits: Tensor  # [anchors of a cell, H, W]
    deltas: Tensor  # [4 * anchors of a cell, H, W]


class Scored(NamedTuple):
    """Boxes of one image, the best first."""

    boxes: Tensor  # [n, 4]
    scores: Tensor  # [n]


def all_anchors(levels: list[Level]) -> list[Tensor]:
    """Each level's anchors."""
    return [
        anchors_of(stride, level.logits.shape[1], level.logits.shape[2], level.logits.device)
        for stride, level in zip(STRIDES, levels, strict=True)
    ]


def by_anchor(level: Level) -> tuple[Tensor, Tensor]:
    """A level's logits [n] and deltas [n, 4] in the order of its anchors."""
    _, height, width = level.logits.shape
    deltas = level.deltas.reshape(-1, 4, height, width)  # the channels are anchor by anchor
    return level.logits.permute(1, 2, 0).reshape(-1), deltas.permute(2, 3, 0, 1).reshape(-1, 4)


@torch.no_grad()
def propose(levels: list[Level], size: Tensor, settings: Proposals) -> Scored:
    """The boxes of one image that are most likely objects; `size` is its height and width without the padding."""
    found = [
        _of_level(level, anchors, size, settings) for level, anchors in zip(levels, all_anchors(levels), strict=True)
    ]
    boxes, scores = torch.cat([each.boxes for each in found]), torch.cat([each.scores for each in found])
    scores, best = scores.topk(torch.sym_min(settings.kept, scores.shape[0]))
    return Scored(boxes[best], scores)


def _of_level(level: Level, anchors: Tensor, size: Tensor, settings: Proposals) -> Scored:
    logits, deltas = by_anchor(level)
    scores, best = logits.float().sigmoid().topk(min(settings.candidates, len(logits)))
    boxes = clip(decode(deltas[best].float(), anchors[best]), size)
    kept = nms(boxes, scores, settings.iou_threshold)[: settings.kept]
    return Scored(boxes[kept], scores[kept])
