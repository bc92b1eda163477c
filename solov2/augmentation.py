"""What training does to photographs and their boxes before the network sees them."""

from typing import Any

from torchvision import tv_tensors
from torchvision.transforms import v2

from common.data.augment import RandomScale
from solov2.config import Augment


def training_transforms(settings: Augment) -> v2.Transform:
    """One of several sizes, mirrored or not, as the original trains."""
    scale = RandomScale(settings.long_side, settings.short_sides)
    return v2.Compose([ToLastPixel(), scale, v2.RandomHorizontalFlip(settings.flip)])


class ToLastPixel(v2.Transform):  # type: ignore[misc]
    """Boxes that end at their last pixel instead of after it: the original measures objects so, one pixel less.

    Targets only look at a box's width and height, so where exactly it lies after mirroring doesn't matter.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.BoundingBoxes):
            return inpt
        return tv_tensors.wrap(inpt - inpt.new_tensor([0, 0, 1, 1]), like=inpt)
