"""Training augmentation on torchvision.transforms.v2; pixels are resized as OpenCV does, as in the originals."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.batches import Target
from common.coco import Sample
from common.images import fit_within, resize


def flip_and_scale(long_side: int, short_sides: Sequence[int], flip: float) -> v2.Transform:
    """The augmentation of the two-dimensional detectors: one of several sizes, mirrored or not."""
    return v2.Compose([RandomScale(long_side, short_sides), v2.RandomHorizontalFlip(flip)])


class RandomScale(v2.Transform):  # type: ignore[misc]
    """Scale an image so that its short side is at most one drawn from a list, and its long side at most another."""

    def __init__(self, long_side: int, short_sides: Sequence[int]):
        super().__init__()
        self.long_side, self.short_sides = long_side, tuple(short_sides)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image = next(item for item in flat_inputs if isinstance(item, tv_tensors.Image))
        height, width = image.shape[-2:]
        short_side = self.short_sides[int(torch.randint(len(self.short_sides), ()))]
        return {
            "size": fit_within(height, width, self.long_side, short_side),
            "scale": min(self.long_side / max(height, width), short_side / min(height, width)),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        height, width = params["size"]
        if isinstance(inpt, tv_tensors.Image):
            pixels = resize(inpt.permute(1, 2, 0).numpy(), height, width)
            return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.Mask(nearest(inpt, height, width))
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            limits = inpt.new_tensor([width, height, width, height])
            boxes = torch.minimum(inpt.as_subclass(Tensor) * params["scale"], limits)
            return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
        return inpt


def nearest(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks [n, H, W] resized to the pixels that OpenCV's nearest neighbour takes."""
    # one over the quotient, as OpenCV computes it: the quotient's reciprocal rounds otherwise
    rows = torch.arange(height, dtype=torch.float64) * (1 / (height / masks.shape[1]))
    columns = torch.arange(width, dtype=torch.float64) * (1 / (width / masks.shape[2]))
    return masks.as_subclass(Tensor)[:, rows.long()[:, None], columns.long()]


def augmented(sample: Sample, transforms: v2.Transform, crowds: bool) -> tuple[Tensor, Target]:
    """A sample through the transforms: uint8 image [3, H, W] and its target. Draws from torch's global generator."""
    keep = slice(None) if crowds else ~sample.crowd
    image = tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1))
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(sample.boxes[keep]).reshape(-1, 4), format="XYXY", canvas_size=tuple(image.shape[1:])
    )
    masks = tv_tensors.Mask(torch.from_numpy(sample.masks[keep]))
    image, boxes, masks = transforms(image, boxes, masks)
    target = Target(
        boxes=boxes.as_subclass(Tensor),
        labels=torch.from_numpy(sample.labels[keep]),
        masks=masks.as_subclass(Tensor),
        name=str(sample.path),
    )
    return image.as_subclass(Tensor).contiguous(), target
