"""Training augmentation on torchvision.transforms.v2; pixels are resized as OpenCV does, as in the originals."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.data.batches import Target
from common.data.coco import Sample
from common.data.images import fit_within, resize

Points = NDArray[np.float32]  # [P, 2] x, y


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
            masks = inpt if inpt.ndim == 3 else inpt[None]
            return tv_tensors.Mask(nearest(masks, height, width).reshape(*inpt.shape[:-2], height, width))
        if isinstance(inpt, tv_tensors.KeyPoints):
            points = inpt.as_subclass(Tensor) * params["scale"]
            return tv_tensors.KeyPoints(points, canvas_size=(height, width))
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            limits = inpt.new_tensor([width, height, width, height])
            boxes = torch.minimum(inpt.as_subclass(Tensor) * params["scale"], limits)
            return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
        return inpt


def nearest(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks [n, H, W] of bytes or bools resized to the pixels that OpenCV's nearest neighbour takes."""
    resized = torch.empty((len(masks), height, width), dtype=masks.dtype)
    for mask, place in zip(masks.numpy().view(np.uint8), resized.numpy().view(np.uint8), strict=True):
        cv2.resize(mask, (width, height), dst=place, interpolation=cv2.INTER_NEAREST)
    return resized


def augmented(
    sample: Sample, transforms: v2.Transform, polygons: Sequence[Sequence[Points]] | None = None
) -> tuple[Tensor, Target]:
    """A sample through the transforms: uint8 image [3, H, W] and its target. Draws from torch's global generator.

    The transforms get one dictionary, so that those that drop objects can drop a row everywhere: image, boxes,
    labels, masks, crowd_boxes, crowd_labels and, where the sample has them, keypoints (with visibility), semantic,
    and the polygons' points. With polygons or relations no object may be dropped.
    """
    whole, canvas = ~sample.crowd, (sample.image.shape[0], sample.image.shape[1])
    items: dict[str, Any] = {
        "image": tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1)),
        "boxes": _boxes(sample.boxes[whole], canvas),
        "labels": torch.from_numpy(sample.labels[whole]),
        "masks": tv_tensors.Mask(torch.from_numpy(sample.masks[whole])),
        "crowd_boxes": _boxes(sample.boxes[sample.crowd], canvas),
        "crowd_labels": torch.from_numpy(sample.labels[sample.crowd]),
    }
    if sample.keypoints is not None:
        keypoints = torch.from_numpy(sample.keypoints[whole])
        items["keypoints"] = tv_tensors.KeyPoints(keypoints[..., :2], canvas_size=canvas)
        items["visibility"] = keypoints[..., 2:]
    if sample.semantic is not None:
        items["semantic"] = tv_tensors.Mask(torch.from_numpy(sample.semantic))
    outlines = [polygons[at] for at in np.flatnonzero(whole).tolist()] if polygons is not None else []
    if polygons is not None:
        # as boxes without extent: torchvision mirrors key points on pixels' centres, but boxes, like outlines, on edges
        items["points"] = _boxes(np.tile(_joined(outlines), 2), canvas)
    items = transforms(items)
    target = Target(
        boxes=_plain(items["boxes"]),
        labels=items["labels"],
        masks=_plain(items["masks"]),
        name=str(sample.path),
        crowd_boxes=_plain(items["crowd_boxes"]),
        crowd_labels=items["crowd_labels"],
    )
    if "keypoints" in items:
        target.keypoints = torch.cat((_plain(items["keypoints"]), items["visibility"]), dim=-1)
    if "semantic" in items:
        target.semantic = _plain(items["semantic"])
    if sample.relations is not None:
        target.relations = torch.from_numpy(sample.relations)
    if polygons is not None:
        target.polygons = _parted(_plain(items["points"])[:, :2].numpy(), outlines)
    return _plain(items["image"]).contiguous(), target


def _joined(outlines: Sequence[Sequence[Points]]) -> Points:
    return np.concatenate([*(outline for own in outlines for outline in own), np.zeros((0, 2), np.float32)])


def _parted(points: Points, like: Sequence[Sequence[Points]]) -> list[list[Points]]:
    """The points of `_joined` outlines as outlines again."""
    ends = np.cumsum([len(outline) for own in like for outline in own])
    parts = iter(np.split(points, ends))
    return [[next(parts) for _ in own] for own in like]


def _plain(item: Tensor) -> Tensor:
    plain: Tensor = item.as_subclass(Tensor)
    return plain


def _boxes(boxes: NDArray[np.float32], canvas: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(torch.from_numpy(boxes).reshape(-1, 4), format="XYXY", canvas_size=canvas)
