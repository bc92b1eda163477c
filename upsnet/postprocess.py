"""Answers -> results in the photograph's coordinates: instances, the semantic map, and the unified panoptic map."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.batches import Prepared
from common.results import Instances, Panoptic, PictureSource, Segment
from upsnet.boxes import nms
from upsnet.config import Inference
from upsnet.panoptic_merge import VOID, Found, paste

MASK_THRESHOLD = 0.5
MASKS_AT_ONCE = 16  # pasted as floats before they become bits
CLASSES = VOID + 1  # more than any data set has
MAJORITY = 0.5  # an instance whose pixels are mostly one stuff class, by at least this part, becomes that stuff


@dataclass
class Everything:
    """Everything that the network says about one photograph."""

    panoptic: Panoptic
    instances: Instances
    semantic: Tensor  # [H, W] uint8, index into class_names
    image: PictureSource = None


class Maps(NamedTuple):
    """One image's argmaxes, at whichever resolution."""

    semantic: Tensor  # [H, W] int64: stuff first, then things
    channels: Tensor  # [H, W] int64: stuff, instances, VOID


class Unified(NamedTuple):
    """The final panoptic map."""

    classes: Tensor  # [H, W] int64: stuff first, then things; VOID
    numbers: Tensor  # [H, W] int64: 0 for stuff, from 1 for instances


def detect(boxes: Tensor, scores: Tensor, test: Inference) -> Found:
    """The instances among all proposals' boxes [R, 1 + things, 4] and probabilities [R, 1 + things], best first."""
    region, label = (scores[:, 1:] > test.score_threshold).nonzero(as_tuple=True)
    label = label + 1
    chosen, certainty = boxes[region, label], scores[region, label]
    by_class = [_nms_of(label == each, chosen, certainty, test.nms_threshold) for each in torch.unique(label)]
    kept = torch.cat([label.new_zeros(0), *by_class])
    if len(kept) > test.max_instances:  # of equal scores at the limit, all stay
        kept = kept[certainty[kept] >= certainty[kept].topk(test.max_instances).values[-1]]
    kept = kept[certainty[kept].argsort(descending=True, stable=True)]
    return Found(chosen[kept], certainty[kept], label[kept])


def _nms_of(which: Tensor, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The positions of those `which` [n] bool that survive among themselves."""
    positions = which.nonzero()[:, 0]
    return positions[nms(boxes[positions], scores[positions], threshold)]


def scale_of(size: tuple[int, int], test: Inference) -> float:
    """The factor by which `preprocess` enlarges a photograph: to the settings' short side, or else their long side."""
    scale = test.short_side / min(size)
    return test.long_side / max(size) if round(scale * max(size)) > test.long_side else scale


def instances_of(found: Found, masks: Tensor, prepared: Prepared, test: Inference, names: tuple[str, ...]) -> Instances:
    """Detections and their class's mask logits [n, 28, 28] as a result."""
    boxes = found.boxes / scale_of(prepared.original_size, test)
    bits = [
        paste_masks(masks[at : at + MASKS_AT_ONCE], boxes[at : at + MASKS_AT_ONCE], *prepared.original_size)
        for at in range(0, len(boxes), MASKS_AT_ONCE)
    ]
    empty = torch.zeros(0, *prepared.original_size, dtype=torch.bool, device=boxes.device)
    boxes = boxes + boxes.new_tensor([0, 0, 1, 1])  # as everywhere outside, to the end of the last pixel
    masks = torch.cat([empty, *bits])
    return Instances(found.scores, found.labels - 1, boxes, masks, prepared.original_size, names)


def paste_masks(logits: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks [n, S, S] at their places in the photograph [n, H, W] bool; a ring of zeros lets them fade out."""
    ring = F.pad(logits.sigmoid(), (1, 1, 1, 1))
    enlarged = ring.shape[-1] / logits.shape[-1]
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * enlarged
    corners = torch.cat((centres - half, centres + half), dim=1).trunc()
    return paste(ring, corners, height, width) > MASK_THRESHOLD


def to_photograph(maps: Maps, prepared: Prepared, test: Inference) -> Maps:
    """Both maps at the photograph's size: the pixels that OpenCV's nearest neighbour takes."""
    # the original keeps the scale in single precision, but divides in double; either decides which pixel a row takes
    back = 1 / float(np.float32(scale_of(prepared.original_size, test)))
    step = 1 / back  # as OpenCV inverts the factor it is given
    rows, columns = (
        (torch.arange(length, dtype=torch.float64) * step).long().clamp(max=limit - 1).to(maps.semantic.device)
        for length, limit in zip(prepared.original_size, prepared.resized_size, strict=True)
    )
    return Maps(maps.semantic[rows[:, None], columns], maps.channels[rows[:, None], columns])


def unify(maps: Maps, labels: Tensor, stuff: int, smallest_stuff: int) -> Unified:
    """The final merge: `labels` [k] are the kept instances' classes from 1, 0 that of a channel without an instance.

    Where most pixels of an instance have another class in the semantic map, and that is stuff, they become it.
    """
    own = stuff - 1 + labels  # [k]
    instance = maps.channels - stuff
    is_instance = (instance >= 0) & (maps.channels != VOID)
    pairs = instance[is_instance] * CLASSES + maps.semantic[is_instance]
    counts = torch.bincount(pairs, minlength=len(own) * CLASSES).reshape(-1, CLASSES)  # [k, CLASSES]
    # of equally frequent classes the first
    majority = (counts * CLASSES - torch.arange(CLASSES, device=counts.device)).argmax(dim=1)
    share = counts.amax(dim=1) / counts.sum(dim=1).clamp(min=1)
    overruled = (majority != own) & (majority < stuff) & (share >= MAJORITY)
    present = counts.sum(dim=1) > 0
    number = present.cumsum(0)  # a dropped instance has its number too
    index = instance.clamp(0, len(own) - 1)
    result = maps.channels.where(~is_instance, torch.where(overruled, majority, own)[index])
    numbers = torch.where(is_instance, torch.where(overruled, 0, number)[index], 0)
    return Unified(_without_small_stuff(result, stuff, smallest_stuff), numbers)


def _without_small_stuff(classes: Tensor, stuff: int, smallest: int) -> Tensor:
    areas = torch.bincount(classes.flatten(), minlength=CLASSES)
    small = areas < smallest
    small[stuff:] = False
    return classes.masked_fill(small[classes], VOID)


def panoptic_of(
    unified: Unified, scores: Tensor, channels: Tensor, stuff: int, prepared: Prepared, names: tuple[str, ...]
) -> Panoptic:
    """A segment for each class and number; `scores` [k] are the instances', `channels` the map they come from."""
    present = torch.unique(channels[(channels >= stuff) & (channels != VOID)]) - stuff
    numbered = torch.cat((scores.new_ones(1), scores[present])).tolist()  # by number; stuff is certain
    keys = unified.classes * (len(numbered) + 1) + unified.numbers
    void = unified.classes == VOID
    values, segments = torch.unique(keys.masked_fill(void, -1), return_inverse=True)
    infos = []
    things = len(names) - stuff
    for at, key in enumerate(values.tolist()):
        if key >= 0:
            label, number = divmod(key, len(numbered) + 1)
            is_thing = label >= stuff
            name = label - stuff if is_thing else things + label
            infos.append(Segment(at + 1, name, is_thing, numbered[number] if is_thing else 1.0))
    segments = (segments + 1).masked_fill(void, 0).to(torch.int32)
    return Panoptic(segments, infos, names, prepared.original_size)
