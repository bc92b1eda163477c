"""Answers -> instances in the photograph's coordinates (paper, sections 3.2 to 4.1)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ops.precision import full_precision
from common.results import Instances
from yolact.boxes import crop, decode, priors_per_level, to_pixels
from yolact.config import Config, Inference
from yolact.nms import cross_class_nms, fast_nms, traditional_nms

LARGEST_STRETCH = abs(math.log(16 / 1000))  # of a prior's side, where boxes are clipped
THRESHOLD = 0.5  # of a mask's pixels
AT_ONCE = 2**26  # floats, where whole masks are enlarged


class Detections(NamedTuple):
    """Boxes that are left after NMS, highest score first."""

    boxes: Tensor  # [n, 4] x1, y1, x2, y2 as fractions of the image; not clipped to it
    scores: Tensor  # [n]
    labels: Tensor  # [n] int64
    coefficients: Tensor  # [n, K]


def instances_from_answers(
    class_logits: Tensor,
    deltas: Tensor,
    coefficients: Tensor,
    prototypes: Tensor,
    priors: Tensor,
    mask_iou: Callable[[Tensor], Tensor] | None,
    size: tuple[int, int],
    config: Config,
    class_names: tuple[str, ...],
) -> Instances:
    """One image's answers, [P, 1 + C], [P, 4], [P, K] and [h, w, K], as instances in a photograph of this size."""
    found = detect(class_logits, deltas, coefficients, priors, config)
    soft = assemble(prototypes.float(), found)
    mask_scores = None
    if mask_iou is not None:
        predicted = mask_iou(soft[:, None]).gather(1, found.labels[:, None]).squeeze(1)
        mask_scores = found.scores * predicted
    result = Instances(
        scores=found.scores,
        labels=found.labels,
        boxes=boxes_in_pixels(found.boxes, size, config.test.whole_pixels),
        masks=enlarge(soft, found.boxes, size),
        size=size,
        class_names=class_names,
        mask_scores=mask_scores,
    )
    if config.test.drop_empty_boxes:
        extent = result.boxes[:, 2:] - result.boxes[:, :2]
        result = result.select((extent > 0).all(dim=1))
    return result


def detect(class_logits: Tensor, deltas: Tensor, coefficients: Tensor, priors: Tensor, config: Config) -> Detections:
    """Decode the promising priors of one image and let NMS choose."""
    test = config.test
    scores = class_logits.float().softmax(dim=1)[:, 1:]  # [P, C], the background left out
    best = scores.amax(dim=1)
    if test.level_candidates:
        candidates = best_of_each_level(best, priors_per_level(config.model), test.level_candidates)
    else:
        candidates = (best > test.score_threshold).nonzero().squeeze(1)
    stretch = LARGEST_STRETCH if test.clip_boxes else None
    boxes = decode(deltas[candidates].float(), priors[candidates], stretch)
    if test.clip_boxes:
        boxes = boxes.clamp(0, 1)
    chosen, labels, kept = choose(boxes, scores[candidates].T, test, config.model.input_size)
    if test.min_score > 0:
        confident = kept > test.min_score
        chosen, labels, kept = chosen[confident], labels[confident], kept[confident]
    return Detections(boxes[chosen], kept, labels, coefficients[candidates[chosen]].float())


def choose(boxes: Tensor, scores: Tensor, test: Inference, input_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """NMS of boxes [n, 4] with scores [C, n] -> which boxes, their labels and scores, highest score first."""
    if test.nms == "traditional":
        return traditional_nms(boxes * input_size, scores, test.iou_threshold, test.score_threshold, test.max_instances)
    if test.nms == "cross_class":
        return cross_class_nms(boxes, scores, test.iou_threshold, test.top_k)
    lowest = test.score_threshold if test.threshold_after_nms else None
    return fast_nms(boxes, scores, test.iou_threshold, test.top_k, test.max_instances, lowest)


def best_of_each_level(best: Tensor, counts: list[int], limit: int) -> Tensor:
    """The numbers of the `limit` priors of each level that score best."""
    chosen, first = [], 0
    for level in torch.split(best, counts):
        chosen.append(first + level.topk(min(limit, len(level))).indices)
        first += len(level)
    return torch.cat(chosen)


def assemble(prototypes: Tensor, found: Detections) -> Tensor:
    """Soft masks [n, h, w] at the prototypes' size, cropped to their boxes (paper, equation 1)."""
    height, width, _ = prototypes.shape
    soft = (found.coefficients @ prototypes.flatten(0, 1).T).float().sigmoid_().view(-1, height, width)
    return crop(soft, found.boxes)


def enlarge(soft_masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Soft masks [n, h, w], cropped to boxes [n, 4] (corners as fractions), bilinearly -> masks [n, H, W] bool."""
    if soft_masks.device.type == "cpu":
        return enlarge_windows(soft_masks, boxes, size)
    parts = torch.split(soft_masks[:, None], max(1, AT_ONCE // (size[0] * size[1])))
    return torch.cat(
        [F.interpolate(part, size, mode="bilinear", align_corners=False)[:, 0] > THRESHOLD for part in parts]
    )


def enlarge_windows(soft_masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The same on a processor: a mask is 0 outside of its box, so only what the box reaches is computed.

    Bilinear resizing is one matrix for the rows and one for the columns. Their entries are the very weights that
    F.interpolate uses: plateaus at exactly 0.5, which are frequent, stay there and out of the mask.
    """
    rows, columns = resize_matrix(soft_masks.shape[1], size[0]), resize_matrix(soft_masks.shape[2], size[1])
    windows = torch.cat((windows_along(boxes[:, 1::2], rows), windows_along(boxes[:, ::2], columns)), dim=1)
    masks = torch.zeros((len(soft_masks), *size), dtype=torch.bool)
    with full_precision(soft_masks.device):
        for mask, soft, (y0, y1, top, bottom, x0, x1, left, right) in zip(
            masks, soft_masks, windows.tolist(), strict=True
        ):
            window = rows[top:bottom, y0:y1] @ soft[y0:y1, x0:x1] @ columns[left:right, x0:x1].T
            torch.gt(window, THRESHOLD, out=mask[top:bottom, left:right])
    return masks


def resize_matrix(length: int, target: int) -> Tensor:
    """What each of `target` pixels along a side is made of, [target, length]."""
    return F.interpolate(torch.eye(length)[None], target, mode="linear", align_corners=False)[0].T.contiguous()


def windows_along(ends: Tensor, matrix: Tensor) -> Tensor:
    """For boxes' ends [n, 2] along one axis: first and end of the cropped source, and of the target it reaches."""
    first, end = to_pixels(ends[:, 0], ends[:, 1], matrix.shape[1], padding=1)
    first, end = (each.ceil().nan_to_num(0).clamp(0, matrix.shape[1]).long() for each in (first, end))
    end = torch.maximum(first, end)  # of an inverted box: nothing
    used = matrix > 0
    numbers = torch.arange(matrix.shape[1])
    source_first = torch.where(used, numbers, matrix.shape[1]).amin(dim=1)  # of each target; both only grow
    source_end = torch.where(used, numbers + 1, 0).amax(dim=1)
    start = torch.searchsorted(source_end, first, right=True)
    stop = torch.maximum(start, torch.searchsorted(source_first, end))
    return torch.stack((first, end, start, stop), dim=1)


def boxes_in_pixels(boxes: Tensor, size: tuple[int, int], whole: bool) -> Tensor:
    """Corners as fractions -> pixels of the photograph [n, 4] float."""
    left, right = to_pixels(boxes[:, 0], boxes[:, 2], size[1])
    top, bottom = to_pixels(boxes[:, 1], boxes[:, 3], size[0])
    corners = torch.stack((left, top, right, bottom), dim=1)
    return corners.trunc() if whole else corners
