"""The segments of a training image as the relation head takes them, and the original's way to get them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.batches import Target
from refinemask_psg.psg.relation_head import Entities

Size = tuple[int, int]  # height, width


def training_entities(target: Target, feature_size: Size) -> Entities:
    """Every segment with its own mask, in the order that relations count in."""
    return Entities(nearest(target.masks, feature_size), target.labels)


def original_training_entities(
    thing_masks: Tensor, thing_labels: Tensor, segment_labels: Tensor, class_map: Tensor, resized: Size
) -> Entities:
    """The original's entities: thing masks [n, H, W], padded, then the segments from the nth on by their class alone.

    - That is the annotations' order only where all things come first; elsewhere relations point to other segments.
    - The masks are already at the network input's size, `resized` and padded. The original resizes them to it once
      more, which shrinks them; and it stretches those padded less than the batch.
    - Stuff is where class_map [h, w], at the features' size, has the segment's class.
    """
    feature_size = (class_map.shape[0], class_map.shape[1])
    height, width = thing_masks.shape[1:]
    shrunken = nearest(thing_masks, resized)
    shrunken = F.pad(shrunken, (0, width - resized[1], 0, height - resized[0]))
    others = segment_labels[len(thing_masks) :]
    masks = torch.cat((nearest(shrunken, feature_size), class_map == others[:, None, None]))
    return Entities(masks, torch.cat((thing_labels, others)))


def nearest(masks: Tensor, size: Size) -> Tensor:
    """Masks [n, H, W] bool resized by taking the nearest pixel."""
    if len(masks) == 0:
        return masks.new_zeros(0, *size)
    resized = F.interpolate(masks[None].to(torch.uint8), size, mode="nearest")[0]
    return resized.to(torch.bool)


def original_class_map(semantic: Tensor, resized: Size, feature_size: Size) -> Tensor:
    """The classes of pixels [H, W] at the features' size; the original pads with class 0, a person."""
    inside = torch.zeros_like(semantic)
    height, width = resized
    inside[:height, :width] = semantic[:height, :width]
    return F.interpolate(inside[None, None], feature_size, mode="nearest")[0, 0].long()
