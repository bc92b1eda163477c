"""What training does to photographs and their boxes before the network sees them."""

from typing import Any

from torchvision import tv_tensors
from torchvision.transforms import v2

from common.data.augment import RandomScale
from upsnet.config import Augment


def training_transforms(settings: Augment) -> v2.Transform:
    """Mirrored or not, then one of several sizes, as the original trains."""
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(settings.flip),
            ToLastPixel(),
            RandomScale(settings.long_side, settings.short_sides),
        ]
    )


class ToLastPixel(v2.Transform):  # type: ignore[misc]
    """Boxes that end at their last pixel instead of after it: the original measures so, before it scales."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.BoundingBoxes):
            return inpt
        return tv_tensors.wrap(inpt - inpt.new_tensor([0, 0, 1, 1]), like=inpt)
