"""Answers -> instances in the photograph's coordinates."""

from typing import NamedTuple

import torch
from torch import Tensor

from common.data.batches import Prepared
from common.results import Instances
from maskrcnn.boxes import clip, decode, non_maximum_suppression, sides
from maskrcnn.config import Conventions, Inference
from maskrcnn.pasting import paste


class Detections(NamedTuple):
    """The objects of one image, in network-input pixels."""

    boxes: Tensor  # [N, 4]
    scores: Tensor  # [N]
    labels: Tensor  # [N] int64


def detect(
    proposals: Tensor,
    logits: Tensor,
    deltas: Tensor,
    size: Tensor,
    delta_weights: tuple[float, ...],
    test: Inference,
    conventions: Conventions,
) -> Detections:
    """One image's proposals [n, 4] with logits [n, classes + 1] and deltas [n, K, 4] -> its objects, in its `size` [2].

    Best first; with Detectron's conventions class by class, and in a class in the proposals' order.
    """
    probabilities = logits.float().softmax(dim=1)
    if conventions.background_first:
        probabilities, deltas = probabilities[:, 1:], deltas[:, 1:]
    else:
        probabilities = probabilities[:, :-1]
    confident = probabilities > test.score_threshold
    if conventions.nms == "detectron":
        labels, rows = confident.T.nonzero(as_tuple=True)
    else:
        rows, labels = confident.nonzero(as_tuple=True)
    inclusive = conventions.inclusive_corners
    chosen = deltas[rows, labels].float()
    boxes = decode(chosen, proposals[rows], delta_weights, inclusive, conventions.limit_shrinking)
    boxes, scores = clip(boxes, size, inclusive), probabilities[rows, labels]
    large = (sides(boxes, inclusive) >= conventions.smallest_detection).all(dim=1)
    found = Detections(boxes[large], scores[large], labels[large])
    kept = non_maximum_suppression(found.boxes, found.scores, found.labels, test.nms_threshold, conventions)
    return strongest(Detections(*(values[kept] for values in found)), test.max_instances, conventions)


def strongest(found: Detections, count: int, conventions: Conventions) -> Detections:
    """The `count` best; Detectron keeps the order, and all that tie with the last one."""
    if conventions.nms != "detectron":
        return Detections(*(values[:count] for values in found))
    if len(found.scores) <= count:
        return found
    kept = found.scores >= found.scores.topk(count).values[-1]
    return Detections(*(values[kept] for values in found))


def at_original_size(boxes: Tensor, prepared: Prepared) -> Tensor:
    """Boxes from network-input pixels to the photograph's."""
    (height, width), (resized_height, resized_width) = prepared.original_size, prepared.resized_size
    ratios = width / resized_width, height / resized_height
    return boxes * boxes.new_tensor([*ratios, *ratios])


def instances(
    found: Detections,
    soft_masks: Tensor | None,
    prepared: Prepared,
    test: Inference,
    conventions: Conventions,
    class_names: tuple[str, ...],
) -> Instances:
    """The result, best first; `soft_masks` are [N, m, m], and every box ends after its last pixel."""
    order = found.scores.argsort(descending=True, stable=True)
    boxes = at_original_size(found.boxes, prepared)[order]
    if conventions.fitted:
        boxes = clip(boxes, torch.tensor(prepared.original_size, device=boxes.device), inclusive=False)
        extended = (sides(boxes, inclusive=False) > 0).all(dim=1)
        order, boxes = order[extended], boxes[extended]
    masks = None
    if soft_masks is not None:
        masks = paste(soft_masks[order], boxes, prepared.original_size, test.mask_threshold, conventions.pasting)
    return Instances(
        scores=found.scores[order],
        labels=found.labels[order],
        boxes=boxes + boxes.new_tensor([0, 0, 1, 1]) if conventions.inclusive_corners else boxes,
        masks=masks,
        size=prepared.original_size,
        class_names=class_names,
    )
