"""What training does to photographs and their objects before the network sees them."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.data.augment import nearest
from maskrcnn.config import Augment, Conventions
from maskrcnn.preprocessing import scaled, scaled_size


def training_transforms(settings: Augment, conventions: Conventions) -> v2.Transform:
    """One of several sizes, mirrored or not, as the original trains.

    Inclusive boxes are scaled as such, but mirrored with their ends after the last pixel: x becomes W - 1 - x.
    """
    scale, flip = Scale(settings, conventions), v2.RandomHorizontalFlip(settings.flip)
    if not conventions.inclusive_corners:
        return v2.Compose([v2.ClampBoundingBoxes(), scale, flip])
    return v2.Compose([v2.ClampBoundingBoxes(), MoveEnds(-1), scale, MoveEnds(1), flip, MoveEnds(-1)])


class MoveEnds(v2.Transform):  # type: ignore[misc]
    """Move the ends of boxes from after their last pixel to it (-1), or back (+1); none gets a negative side."""

    def __init__(self, pixels: int):
        super().__init__()
        self.pixels = pixels

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.BoundingBoxes):
            return inpt
        boxes = inpt.as_subclass(Tensor)
        ends = torch.maximum(boxes[:, 2:] + self.pixels, boxes[:, :2])
        return tv_tensors.wrap(torch.cat((boxes[:, :2], ends), dim=1), like=inpt)


class Scale(v2.Transform):  # type: ignore[misc]
    """Scale an image to a short side drawn from a list, as prediction would; the objects by each side's ratio."""

    def __init__(self, settings: Augment, conventions: Conventions):
        super().__init__()
        self.settings, self.conventions = settings, conventions

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image = next(item for item in flat_inputs if isinstance(item, tv_tensors.Image))
        height, width = image.shape[-2:]
        choices = self.settings.short_sides
        short_side = choices[int(torch.randint(len(choices), ()))]
        size = scaled_size((height, width), self.settings.long_side, short_side, self.conventions)
        return {"size": size, "ratios": (size[1] / width, size[0] / height)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        size, ratios = params["size"], params["ratios"]
        if isinstance(inpt, tv_tensors.Image):
            pixels = scaled(inpt.permute(1, 2, 0).numpy(), size, self.conventions)
            return tv_tensors.Image(pixels if pixels.dtype == torch.uint8 else pixels.round().to(torch.uint8))
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.Mask(nearest(inpt, *size))
        if isinstance(inpt, tv_tensors.KeyPoints):
            return tv_tensors.KeyPoints(inpt.as_subclass(Tensor) * inpt.new_tensor(ratios), canvas_size=size)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            boxes = inpt.as_subclass(Tensor) * inpt.new_tensor([*ratios, *ratios])
            return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
        return inpt
