"""What training does to photographs and their objects before the network sees them: SSD's augmentation.

Expanding, cutting and mirroring are worked out first, on boxes and a frame; pixels move once, into a square. All
randomness comes from torch's global generator.
"""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from yolact.config import Augment, Config

Pixels = NDArray[np.float32]  # [H, W, 3] RGB, 0..255 and beyond
Frame = tuple[int, int, int, int]  # x1, y1, x2, y2 in the photograph's pixels; may reach beyond them
TRIES = 50
SMALLEST_SIDE = 4 / 550  # pixels: the original means fractions, but compares pixels


class SSDAugmentation(v2.Transform):  # type: ignore[misc]
    """Change the colours, cut a frame out of the photograph or around it, mirror it, and stretch it to the input."""

    def __init__(self, config: Config):
        super().__init__()
        self.settings, self.size = config.augment, config.model.input_size
        self.fill = np.asarray(config.model.mean, np.float32) if any(config.model.mean) else np.zeros(3, np.float32)

    def forward(self, items: dict[str, Any]) -> dict[str, Any]:
        """A sample's image, boxes, labels, masks and crowd_boxes; objects outside of the frame are left out."""
        image = items["image"].permute(1, 2, 0).numpy().astype(np.float32)
        boxes, crowds = items["boxes"].as_subclass(Tensor), items["crowd_boxes"].as_subclass(Tensor)
        if self.settings.photometric:
            image = distort(image)
        frame = choose_frame((image.shape[0], image.shape[1]), boxes, self.settings)
        mirrored = chance(self.settings.flip)
        boxes, kept = self.place(boxes, frame, mirrored)
        crowds, in_frame = self.place(crowds, frame, mirrored)
        masks = [self.cut(mask, frame, mirrored) for mask in items["masks"][kept].numpy().view(np.uint8)]
        pixels = self.cut(image, frame, mirrored).round().clip(0, 255).astype(np.uint8)
        stacked = np.stack(masks) if masks else np.zeros((0, self.size, self.size), np.uint8)
        return items | {
            "image": tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
            "boxes": self.as_boxes(boxes[kept]),
            "labels": items["labels"][kept],
            "masks": tv_tensors.Mask(torch.from_numpy(stacked).bool()),
            "crowd_boxes": self.as_boxes(crowds[in_frame]),
        }

    def place(self, boxes: Tensor, frame: Frame, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Boxes [n, 4] in the network's input, and which of them are in the frame: with their centre, and not flat."""
        x1, y1, x2, y2 = frame
        low, high = boxes.new_tensor([x1, y1]), boxes.new_tensor([x2, y2])
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((low < centres) & (centres < high)).all(dim=1)
        corners = torch.cat((torch.maximum(boxes[:, :2], low) - low, torch.minimum(boxes[:, 2:], high) - low), dim=1)
        if mirrored:
            corners[:, [0, 2]] = (x2 - x1) - corners[:, [2, 0]]
        corners = corners * (self.size / torch.cat((high - low, high - low)))
        wide_enough = (corners[:, 2:] - corners[:, :2] > SMALLEST_SIDE).all(dim=1)
        return corners, inside & wide_enough

    def cut(self, pixels: NDArray[Any], frame: Frame, mirrored: bool) -> NDArray[Any]:
        """The frame's pixels in the network's size; beyond a photograph is its mean colour, beyond a mask nothing."""
        x1, y1, x2, y2 = frame
        height, width = pixels.shape[:2]
        canvas = np.zeros((y2 - y1, x2 - x1, *pixels.shape[2:]), pixels.dtype)
        if pixels.ndim == 3:
            canvas[:] = self.fill
        seen = pixels[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)]
        top, left = max(-y1, 0), max(-x1, 0)
        canvas[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        if mirrored:
            canvas = np.ascontiguousarray(canvas[:, ::-1])
        return cv2.resize(canvas, (self.size, self.size), interpolation=cv2.INTER_LINEAR)

    def as_boxes(self, boxes: Tensor) -> tv_tensors.BoundingBoxes:
        return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(self.size, self.size))


def distort(image: Pixels) -> Pixels:
    """Brightness, contrast (before or after the next two), saturation and hue, each half of the time."""
    if chance(0.5):
        image = image + uniform(-32, 32)
    contrast, first = uniform(0.5, 1.5) if chance(0.5) else 1.0, chance(0.5)
    if first:
        image = image * contrast
    hsv: Pixels = np.asarray(cv2.cvtColor(np.asarray(image, np.float32), cv2.COLOR_RGB2HSV), np.float32)
    if chance(0.5):
        hsv[..., 1] = hsv[..., 1] * uniform(0.5, 1.5)
    if chance(0.5):
        hsv[..., 0] = (hsv[..., 0] + uniform(-18, 18)) % 360
    image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
    return image if first else image * contrast


def choose_frame(size: tuple[int, int], boxes: Tensor, settings: Augment) -> Frame:
    """The part of the photograph, or of a larger canvas that it lies on, that becomes the network's input."""
    height, width = size
    left, top = 0, 0
    if settings.expand > 1 and chance(0.5):
        ratio = uniform(1, settings.expand)
        left, top = int(uniform(0, width * (ratio - 1))), int(uniform(0, height * (ratio - 1)))
        height, width = int(height * ratio), int(width * ratio)
    for _ in range(TRIES):
        if len(boxes) == 0 or not chance(settings.crop):
            break
        for _ in range(TRIES):
            frame = draw_frame(height, width, settings.smallest_crop)
            if frame is None:
                continue
            placed = frame[0] - left, frame[1] - top, frame[2] - left, frame[3] - top
            if holds_a_centre(placed, boxes):
                return placed
    return -left, -top, width - left, height - top


def draw_frame(height: int, width: int, smallest: float) -> Frame | None:
    """A part of a canvas, or None if it came out too narrow.

    SSD would also compare its overlap with the boxes; in the original that test never refuses a frame, and the
    published weights were trained so.
    """
    wide, high = uniform(smallest * width, width), uniform(smallest * height, height)
    if not 0.5 <= high / wide <= 2:
        return None
    left, top = uniform(0, width - wide), uniform(0, height - high)
    return int(left), int(top), int(left + wide), int(top + high)


def holds_a_centre(frame: Frame, boxes: Tensor) -> bool:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centres > boxes.new_tensor(frame[:2])) & (centres < boxes.new_tensor(frame[2:]))
    return bool(inside.all(dim=1).any())


def uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def chance(probability: float) -> bool:
    return float(torch.rand(())) < probability
