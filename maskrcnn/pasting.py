"""Masks of the head's resolution -> masks at the photograph's size, in bounded memory.

Bilinear sampling is one matrix for the rows and one for the columns. Of each mask only the window that its box can
reach is computed: on a GPU at once, on a processor a strip of rows at a time, as a strip of floats fits its cache.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.ops.precision import full_precision

STRIP = 2**16  # floats: 256 kB


class Axis(NamedTuple):
    """Along one axis, for each of N masks: the window of pixels, and where each pixel samples the mask."""

    first: Tensor  # [N] int64
    end: Tensor  # [N] int64
    places: Tensor  # [N, length] in mask pixels


def paste(
    soft_masks: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    threshold: float,
    convention: Literal["detectron", "mmdetection"],
) -> Tensor:
    """Probabilities [N, m, m] of boxes [N, 4] in an image of `size` -> masks [N, height, width]."""
    height, width = size
    if convention == "detectron":
        soft_masks, boxes = with_border(soft_masks, boxes)
        across = whole_pixel_axis(boxes[:, 0], boxes[:, 2], width, soft_masks.shape[2])
        down = whole_pixel_axis(boxes[:, 1], boxes[:, 3], height, soft_masks.shape[1])
    else:
        across = exact_axis(boxes[:, 0], boxes[:, 2], width, soft_masks.shape[2])
        down = exact_axis(boxes[:, 1], boxes[:, 3], height, soft_masks.shape[1])
    pasted = blank((len(boxes), height, width), boxes.device)
    windows = torch.stack((down.first, down.end, across.first, across.end), dim=1).tolist()
    compare = torch.gt if convention == "detectron" else torch.ge
    for index, (top, bottom, left, right) in enumerate(windows):
        if top >= bottom or left >= right:
            continue
        rows = bilinear_weights(down.places[index, top:bottom], soft_masks.shape[1])
        columns = bilinear_weights(across.places[index, left:right], soft_masks.shape[2])
        strip = max(1, STRIP // (right - left)) if boxes.device.type == "cpu" else bottom - top
        with full_precision(boxes.device):
            stretched = soft_masks[index].float() @ columns.T  # [m, w]
            for start in range(0, bottom - top, strip):
                values = rows[start : start + strip] @ stretched
                place = top + start
                pasted[index, place : place + len(values), left:right] = compare(values, threshold)
    return pasted


def blank(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """All False. On the processor NumPy's, which takes zeroed pages from the system only where something is written."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, np.bool_))
    return torch.zeros(shape, dtype=torch.bool, device=device)


def with_border(soft_masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """A pixel of zeros around each mask, and boxes grown to match, cut down to whole pixels (Detectron)."""
    resolution = soft_masks.shape[-1]
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((resolution + 2) / resolution)
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    grown = torch.cat((centre - half, centre + half), dim=1).to(torch.int32)  # towards zero
    return torch.nn.functional.pad(soft_masks, (1, 1, 1, 1)), grown


def whole_pixel_axis(first: Tensor, last: Tensor, length: int, resolution: int) -> Axis:
    """A mask resized to the pixels from `first` to `last`, edges repeated."""
    first, span = first.long(), (last.long() - first.long() + 1).clamp(min=1)
    pixels = torch.arange(length, device=first.device) - first[:, None]  # [N, length]
    places = (pixels + 0.5) * (resolution / span[:, None]) - 0.5
    places = places.clamp(0, resolution - 1)
    return Axis(first.clamp(0, length), (first + span).clamp(0, length), places)


def exact_axis(first: Tensor, last: Tensor, length: int, resolution: int) -> Axis:
    """A mask laid over the line from `first` to `last`, fading to 0 over half of its pixels outside (MMDetection)."""
    side = (last - first).float()
    pixels = torch.arange(length, device=first.device) + 0.5
    places = (pixels - first[:, None]) / side[:, None] * resolution - 0.5
    places = torch.where(side[:, None] > 0, places, (resolution - 1) / 2)  # 0 / 0: the mask's middle, everywhere
    reach = (places > -1) & (places < resolution)
    start = reach.to(torch.uint8).argmax(dim=1)
    return Axis(start, start + reach.sum(dim=1), places)


def bilinear_weights(places: Tensor, resolution: int) -> Tensor:
    """What each place takes of each mask pixel. [length, resolution]"""
    return (1 - (places[:, None] - torch.arange(resolution, device=places.device)).abs()).clamp(min=0)
