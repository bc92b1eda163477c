"""What training does to photographs before the network sees them."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.data.augment import RandomScale
from refinemask_psg.config import Augment

SMALLEST_SIDE = 1.0  # of an object's box after cropping; less is dropped


def training_transforms(settings: Augment) -> v2.Transform:
    """One of several sizes, cropped or not, mirrored or not, as the originals train."""
    scale = RandomScale(settings.long_side, settings.short_sides)
    steps: list[v2.Transform] = []
    if settings.crop:
        before = RandomScale(settings.long_side, settings.crop_short_sides)
        cropped = v2.Compose([before, RandomCrop(*settings.crop_sides), scale])
        steps.append(v2.RandomChoice([scale, cropped], p=[1 - settings.crop, settings.crop]))
    else:
        steps.append(scale)
    steps.append(v2.RandomHorizontalFlip(settings.flip))
    if settings.colours:
        steps.append(v2.RandomPhotometricDistort())
    return v2.Compose(steps)


class RandomCrop(v2.Transform):  # type: ignore[misc]
    """A random part of the image, each side between two lengths; objects that are outside go.

    The transforms' dictionary has one row for each object in boxes, labels and masks.
    """

    def __init__(self, smallest: int, largest: int):
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def forward(self, *inputs: Any) -> Any:
        (items,) = inputs
        height, width = items["image"].shape[-2:]
        crop_height, crop_width = (
            int(torch.randint(min(self.smallest, side), min(self.largest, side) + 1, ())) for side in (height, width)
        )
        top = int(torch.randint(height - crop_height + 1, ()))
        left = int(torch.randint(width - crop_width + 1, ()))
        cropped = {
            name: v2.functional.crop(item, top, left, crop_height, crop_width)
            if isinstance(item, tv_tensors.TVTensor)
            else item
            for name, item in items.items()
        }
        return without_lost_objects(cropped)


def without_lost_objects(items: dict[str, Any]) -> dict[str, Any]:
    """Rows only of the objects, and of the crowd regions, that something is left of."""
    keep = has_extent(items["boxes"])
    crowds = has_extent(items["crowd_boxes"])
    rows: dict[str, Any] = {name: items[name][keep] for name in ("labels", "visibility") if name in items}
    rows |= {
        name: tv_tensors.wrap(items[name][keep], like=items[name])
        for name in ("boxes", "masks", "keypoints")
        if name in items
    }
    rows["crowd_boxes"] = tv_tensors.wrap(items["crowd_boxes"][crowds], like=items["crowd_boxes"])
    return items | rows | {"crowd_labels": items["crowd_labels"][crowds]}


def has_extent(boxes: Tensor) -> Tensor:
    sides = boxes.as_subclass(Tensor)[:, 2:] - boxes.as_subclass(Tensor)[:, :2]
    return (sides >= SMALLEST_SIDE).all(dim=1)
