"""What training does to photographs and their boxes before the network sees them."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.data.images import resize_antialiased
from glip.config import Augment
from glip.sizes import fit_short_side


def training_transforms(settings: Augment) -> v2.Transform:
    """One of several sizes, mirrored or not, as the original trains; objects without area are left out."""
    return v2.Compose([ToLastPixel(), RandomSize(settings), RandomMirror(settings.flip), WithoutMasks()])


class ToLastPixel(v2.Transform):  # type: ignore[misc]
    """Boxes that end at their last pixel inside of the image; objects without any go, from all that belongs to them."""

    def forward(self, *inputs: Any) -> Any:
        items = dict(inputs[0])
        for name, others in (("boxes", ("labels", "masks")), ("crowd_boxes", ())):
            boxes = items[name]
            height, width = boxes.canvas_size
            ends = boxes.as_subclass(Tensor) - boxes.new_tensor([0, 0, 1, 1])
            inside = torch.minimum(ends.clamp(min=0), ends.new_tensor([width - 1, height - 1, width - 1, height - 1]))
            kept = (inside[:, 2:] > inside[:, :2]).all(dim=1)
            items[name] = tv_tensors.wrap(inside[kept], like=boxes)
            for other in others:
                value = items[other]
                items[other] = tv_tensors.wrap(value[kept], like=value) if other == "masks" else value[kept]
        return items


class RandomSize(v2.Transform):  # type: ignore[misc]
    """Scale to a short side drawn from a list, boxes by each side's own factor."""

    def __init__(self, settings: Augment):
        super().__init__()
        self.short_sides, self.long_side = settings.short_sides, settings.long_side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image = next(item for item in flat_inputs if isinstance(item, tv_tensors.Image))
        short_side = self.short_sides[int(torch.randint(len(self.short_sides), ()))]
        size = fit_short_side(image.shape[-2], image.shape[-1], short_side, self.long_side)
        return {"size": size, "scale": (size[1] / image.shape[-1], size[0] / image.shape[-2])}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Image):
            pixels = resize_antialiased(inpt.permute(1, 2, 0).numpy(), *params["size"])
            return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            scaled = inpt.as_subclass(Tensor) * inpt.new_tensor(params["scale"] * 2)
            return tv_tensors.BoundingBoxes(scaled, format="XYXY", canvas_size=params["size"])
        return inpt


class RandomMirror(v2.Transform):  # type: ignore[misc]
    """Left to right; of a box that ends at its last pixel, x becomes width - 1 - x. Captions stay as they are."""

    def __init__(self, chance: float):
        super().__init__()
        self.chance = chance

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"mirror": bool(torch.rand(()) < self.chance)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if params["mirror"] and isinstance(inpt, tv_tensors.Image):
            return tv_tensors.Image(inpt.flip(-1))
        if params["mirror"] and isinstance(inpt, tv_tensors.BoundingBoxes):
            x1, y1, x2, y2 = inpt.as_subclass(Tensor).unbind(dim=1)
            last = inpt.canvas_size[1] - 1
            return tv_tensors.wrap(torch.stack((last - x2, y1, last - x1, y2), dim=1), like=inpt)
        return inpt


class WithoutMasks(v2.Transform):  # type: ignore[misc]
    """One pixel of each mask, since GLIP learns from boxes alone: whole ones would only be carried along."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.Mask(inpt[..., :1, :1]) if isinstance(inpt, tv_tensors.Mask) else inpt
