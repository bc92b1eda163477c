"""Answers -> detections, and masks pasted into the photograph."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

from common.data.batches import Prepared
from refinemask_psg.boundary import fuse
from refinemask_psg.box_head import StageAnswers
from refinemask_psg.boxes import Size, clip, decode, nms_within
from refinemask_psg.config import Config, Inference
from refinemask_psg.mask_head import MaskAnswers, of_class


class Detections(NamedTuple):
    """One image's detections, best score first."""

    boxes: Tensor  # [n, 4] in the photograph's pixels
    input_boxes: Tensor  # [n, 4] in the network input's
    scores: Tensor  # [n]
    labels: Tensor  # [n] int64


def detections(stages: list[StageAnswers], size: Size, scale: Tensor, config: Config) -> Detections:
    """The last stage's boxes with the averaged scores of all stages, after NMS within each class.

    `size` is that of the network's input, `scale` [4] how much larger it is than the photograph.
    """
    test, detectron2 = config.test, config.model.conventions == "detectron2"
    logits = torch.stack([stage.logits.float() for stage in stages])
    probabilities = (logits.softmax(dim=2).mean(dim=0) if detectron2 else logits.mean(dim=0).softmax(dim=1))[:, :-1]
    boxes = decode(stages[-1].regions[:, 1:], stages[-1].deltas, config.model.box_stds[-1], not detectron2)
    boxes, scale = clip(boxes, size), scale.to(boxes)  # [K, classes or 1, 4]
    if test.nms_in == "photograph":
        boxes = boxes / scale
    region, labels = (probabilities > test.score_threshold).nonzero(as_tuple=True)
    chosen = boxes[region, labels if boxes.shape[1] > 1 else 0]
    scores = probabilities[region, labels]
    nms = batched_nms if detectron2 else nms_within
    kept = nms(chosen, scores, labels, test.nms)[: test.max_instances]
    if detectron2:
        kept = kept[((chosen[kept, 2:] - chosen[kept, :2]) > 0).all(dim=1)]
    chosen, scores, labels = chosen[kept], scores[kept], labels[kept]
    if test.nms_in == "photograph":
        return Detections(chosen, chosen * scale, scores, labels)
    return Detections(chosen / scale, chosen, scores, labels)


def scale_of(prepared: Prepared) -> Tensor:
    """How much wider, higher, wider, higher the network input is than the photograph."""
    (height, width), (original_height, original_width) = prepared.resized_size, prepared.original_size
    return torch.tensor([width / original_width, height / original_height]).repeat(2)


def probabilities(answers: list[MaskAnswers], labels: Tensor) -> Tensor:
    """The masks of the detections within their boxes [n, S, S]; several heads' are averaged."""
    soft = [
        of_class(each.stages[0], labels) if each.foreground is None else fuse([s.float() for s in each.stages])
        for each in answers
    ]
    return torch.stack([logits.float().sigmoid() for logits in soft]).mean(dim=0)[:, 0]


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int], test: Inference) -> Tensor:
    """Soft masks [n, S, S] put into their boxes [n, 4] of a photograph: [n, height, width] bool.

    Only the pixels that a mask reaches are computed, one box after the other, so memory stays that of one of them.
    """
    height, width = size
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    fading = 0.5 * (boxes[:, 2:] - boxes[:, :2]) / masks.shape[-1]  # half a mask's pixel around its box
    corners = torch.cat(((boxes[:, :2] - fading).floor() - 1, (boxes[:, 2:] + fading).ceil() + 1), dim=1)
    windows = clip(corners, size).long().tolist()
    x, y = (torch.arange(length, device=masks.device) + 0.5 for length in (width, height))
    columns, rows = relative(x, boxes[:, 0], boxes[:, 2]), relative(y, boxes[:, 1], boxes[:, 3])  # [n, W], [n, H]
    for index, (left, top, right, bottom) in enumerate(windows):
        if right <= left or bottom <= top:
            continue
        shape = (bottom - top, right - left)
        grid = torch.stack(
            (columns[index, left:right].expand(shape), rows[index, top:bottom, None].expand(shape)), dim=-1
        )
        window = F.grid_sample(masks[index][None, None], grid[None], align_corners=False)
        pasted[index, top:bottom, left:right] = window[0, 0] >= test.mask_threshold
    return pasted


def relative(positions: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Positions [L] between -1 at `start` [n] and 1 at `end` [n]: [n, L]; a box without extent counts as its middle."""
    places = (positions - start[:, None]) / (end - start)[:, None] * 2 - 1
    return torch.nan_to_num(places, nan=0.0, posinf=0.0, neginf=0.0)
