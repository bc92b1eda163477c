"""What goes into a network: images padded to one size, with their ground truth, and how to undo the padding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

UNLABELLED = 255  # in semantic maps


@dataclass
class Prepared:
    """A network input and how to get from its coordinates back to the photograph's."""

    tensor: Tensor  # [3, H, W] float, normalised and padded
    original_size: tuple[int, int]  # height, width of the photograph
    resized_size: tuple[int, int]  # height, width of the part of the tensor that is not padding


@dataclass
class Target:
    """The ground truth of one training image, in network-input pixels."""

    boxes: Tensor  # [n, 4] float: x1, y1, x2, y2
    labels: Tensor  # [n] int64
    masks: Tensor  # [n, H, W] bool
    name: str = ""  # the image's file, for messages
    crowd_boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # [c, 4] of regions that hold many objects
    crowd_labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # [c]
    keypoints: Tensor | None = None  # [n, K, 3] x, y, visibility
    polygons: list[list[NDArray[np.float32]]] | None = None  # each object's outlines [P, 2]; none of one given as RLE
    semantic: Tensor | None = None  # [H, W] uint8 class of each pixel; UNLABELLED where it has none
    relations: Tensor | None = None  # [R, 3] int64: subject and object, as indices of objects here, and predicate

    def each(self, change: Callable[[Tensor], Tensor]) -> "Target":
        """With every tensor changed; polygons stay where they are drawn, on the processor."""
        parts = vars(self).items()
        changed: dict[str, Any] = {name: change(value) for name, value in parts if isinstance(value, Tensor)}
        return replace(self, **changed)


@dataclass
class Batch:
    """Training images of one step; bytes until they are on the device, as that is a quarter of the traffic."""

    images: Tensor  # [N, 3, H, W] uint8, zero-padded at the right and the bottom
    sizes: Tensor  # [N, 2] int64: height, width before padding
    targets: list[Target]

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(change(self.images), change(self.sizes), [target.each(change) for target in self.targets])


def collate(items: Sequence[tuple[Tensor, Target]], divisor: int) -> Batch:
    """Pad uint8 images [3, h, w] and their masks to a common size, a multiple of `divisor`."""
    height = round_up(max(image.shape[1] for image, _ in items), divisor)
    width = round_up(max(image.shape[2] for image, _ in items), divisor)
    images = torch.zeros(len(items), 3, height, width, dtype=torch.uint8)
    targets = []
    for place, (image, target) in zip(images, items, strict=True):
        padding = (0, width - image.shape[2], 0, height - image.shape[1])
        place[:, : image.shape[1], : image.shape[2]] = image
        semantic = None if target.semantic is None else F.pad(target.semantic, padding, value=UNLABELLED)
        targets.append(replace(target, masks=F.pad(target.masks, padding), semantic=semantic))
    sizes = torch.tensor([image.shape[1:] for image, _ in items])
    return Batch(images, sizes, targets)


def normalise(images: Tensor, sizes: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise uint8 images [N, 3, H, W]; what lies outside each image's size becomes 0 afterwards."""
    centre = torch.tensor(mean, device=images.device)[:, None, None]
    spread = torch.tensor(std, device=images.device)[:, None, None]
    values = (images.to(torch.float32) - centre) / spread
    rows = torch.arange(images.shape[2], device=images.device) < sizes[:, :1]  # [N, H]
    columns = torch.arange(images.shape[3], device=images.device) < sizes[:, 1:]  # [N, W]
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return values.masked_fill(~inside, 0.0)


def round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
