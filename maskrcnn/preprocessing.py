"""Photographs -> network input: each library scales them in its own way."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.data.batches import Prepared, normalise, round_up
from common.data.images import fit_short_side, fit_within, resize, resize_antialiased
from maskrcnn.config import Conventions, Model


def scaled_size(
    image_size: tuple[int, int], long_side: int, short_side: int, conventions: Conventions
) -> tuple[int, int]:
    """Height and width after scaling: the short side as asked for, unless the long side would become too long."""
    height, width = image_size
    if conventions.resize == "opencv":
        return fit_within(height, width, long_side, short_side)
    if conventions.resize == "detectron2":
        return fit_short_side(height, width, long_side, short_side)
    small, large = min(image_size), max(image_size)
    if conventions.resize == "torch":
        scale = min(short_side / small, long_side / large)
        return max(1, int(height * scale)), max(1, int(width * scale))
    if large / small * short_side > long_side:
        short_side = round(long_side * small / large)
    if short_side == 0:  # thinner than a pixel: an error in the original
        return (1, long_side) if height < width else (long_side, 1)
    if small == short_side:
        return image_size
    other = int(short_side * large / small)
    return (other, short_side) if width < height else (short_side, other)


def scaled(image: NDArray[np.uint8], size: tuple[int, int], conventions: Conventions) -> Tensor:
    """A photograph [H, W, 3] at another size. [3, height, width], 0 to 255: bytes, or floats with "torch" """
    if conventions.resize == "torch":
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        return F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0]
    array = resize(image, *size) if conventions.resize == "opencv" else resize_antialiased(image, *size)
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def prepare(
    image: NDArray[np.uint8], long_side: int, short_side: int, model: Model, conventions: Conventions
) -> Prepared:
    """A photograph [H, W, 3] RGB -> network input: scaled, normalised, padded with 0."""
    original = image.shape[0], image.shape[1]
    size = scaled_size(original, long_side, short_side, conventions)
    padding = [round_up(side, conventions.size_divisor) - side for side in size]
    pixels = F.pad(scaled(image, size, conventions), (0, padding[1], 0, padding[0]))
    tensor = normalised(pixels[None], torch.tensor([size]), model, conventions)[0]
    return Prepared(tensor, original, size)


def normalised(images: Tensor, sizes: Tensor, model: Model, conventions: Conventions) -> Tensor:
    """RGB values [N, 3, H, W] from 0 to 255 -> the network's order and scale; 0 outside each image's size."""
    if conventions.channels == "bgr":
        images = images.flip(1)
    return normalise(images, sizes, model.mean, model.std)
