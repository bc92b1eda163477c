"""The network's map -> a grey picture of the photograph's size, and what is salient, cut out."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def stretch(values: Tensor) -> Tensor:
    """From 0 to 1; a constant map becomes 0, where the original divides by zero."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)


def as_picture(values: Tensor, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """A map of 0 to 1 at another size (height, width), in bytes; as Pillow does it, which the original uses."""
    picture = Image.fromarray((values.cpu().numpy() * 255).astype(np.uint8))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def cut_out(image: NDArray[np.uint8], matte: NDArray[np.uint8]) -> Image.Image:
    """The photograph [H, W, 3], as opaque as each of its pixels is salient."""
    return Image.fromarray(np.dstack((image, matte)))
