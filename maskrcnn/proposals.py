"""The region proposal network's answers -> the regions that the heads look at (Faster R-CNN, arXiv 1506.01497)."""

from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.boxes import clip, decode, in_anchor_order, non_maximum_suppression, sides
from maskrcnn.config import Conventions, Proposals


class Proposed(NamedTuple):
    """The proposals of one image."""

    boxes: Tensor  # [n, 4] in network-input pixels
    scores: Tensor  # [n] as they are ranked by


@torch.no_grad()
def propose(
    logits: list[Tensor],
    deltas: list[Tensor],
    anchors: list[Tensor],
    sizes: Tensor,
    settings: Proposals,
    conventions: Conventions,
    training: bool,
) -> list[Proposed]:
    """For each image its proposals, levels' answers [N, A, h, w] and [N, 4 A, h, w], image sizes [N, 2].

    Sorted by score, but for a cap over the whole batch, which leaves the levels one after the other.
    """
    before_nms, after_nms, most = settings.before_nms, settings.after_nms, settings.kept
    if training:
        before_nms, after_nms = settings.training_before_nms, settings.training_after_nms
        most = settings.training_kept
    levels = [
        best_of_level(*level, sizes, before_nms, conventions) for level in zip(logits, deltas, anchors, strict=True)
    ]
    boxes, scores = torch.cat([level.boxes for level in levels], dim=1), torch.cat([s for _, s in levels], dim=1)
    groups = torch.cat([torch.full(s.shape[1:], number, device=boxes.device) for number, (_, s) in enumerate(levels)])
    together = training and settings.kept_of_batch and len(levels) > 1
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        large = (sides(image_boxes, conventions.inclusive_corners) >= settings.smallest).all(dim=1)
        image = Proposed(image_boxes[large], image_scores[large])
        kept = without_duplicates(image, groups[large], after_nms, settings.nms_threshold, conventions)
        found.append(Proposed(image.boxes[kept], image.scores[kept]))
    return best_of_batch(found, most) if together else [best(each, most) for each in found]


def best_of_level(
    logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Tensor, count: int, conventions: Conventions
) -> Proposed:
    """The `count` best anchors of one level, corrected by their deltas and clipped. [N, k, 4], [N, k]"""
    scores = in_anchor_order(logits.float(), 1).squeeze(2)
    scores = scores if conventions.ranked_by == "logits" else scores.sigmoid()
    scores, index = scores.topk(min(count, scores.shape[1]), dim=1)
    chosen = in_anchor_order(deltas.float(), 4).gather(1, index[:, :, None].expand(-1, -1, 4))
    inclusive = conventions.inclusive_corners
    boxes = decode(chosen, anchors[index], (1.0, 1.0, 1.0, 1.0), inclusive, conventions.limit_shrinking)
    return Proposed(clip(boxes, sizes[:, None], inclusive), scores)


def without_duplicates(
    image: Proposed, levels: Tensor, after_nms: int, threshold: float, conventions: Conventions
) -> Tensor:
    """The indices that NMS leaves, of each level at most `after_nms`; levels don't suppress each other."""
    kept = non_maximum_suppression(image.boxes, image.scores, levels, threshold, conventions)
    if conventions.nms != "detectron":
        return kept
    # each level's are sorted by score already: what counts is the place among the level's own
    place = torch.arange(len(kept), device=kept.device)
    first = torch.searchsorted(levels[kept].contiguous(), levels[kept])
    return kept[place - first < after_nms]


def best(image: Proposed, count: int) -> Proposed:
    scores, order = image.scores.sort(descending=True, stable=True)
    return Proposed(image.boxes[order[:count]], scores[:count])


def best_of_batch(images: list[Proposed], count: int) -> list[Proposed]:
    """The `count` best proposals of all images together, in the order in which they were."""
    scores = torch.cat([image.scores for image in images])
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.topk(min(count, len(scores))).indices] = True
    parts = torch.split(chosen, [len(image.scores) for image in images])
    return [Proposed(image.boxes[part], image.scores[part]) for image, part in zip(images, parts, strict=True)]
