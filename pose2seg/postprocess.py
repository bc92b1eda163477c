"""Answers -> masks in the photograph's coordinates."""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ops.precision import widest_float
from common.results import Instances
from pose2seg.geometry import normalised

PIXELS_AT_ONCE = 2**22  # of photographs, over all people that are warped together; bounds the memory
UNIT = 1024  # OpenCV's warpAffine counts a row's and a column's share in 1024ths of a pixel ...
UNITS_IN_STEP = 32  # ... and their sum in 32nds
THRESHOLD = 0.5


def masks_of_people(probabilities: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows [n, w, w] -> masks [n, H, W] bool, by the matrices [n, 3, 3] from the photograph to the window."""
    masks = torch.zeros((len(probabilities), *size), dtype=torch.bool, device=probabilities.device)
    together = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
    for first in range(0, len(probabilities), together):
        some = slice(first, first + together)
        masks[some] = inverse_warp(probabilities[some], matrices[some], size) > THRESHOLD
    return masks


def inverse_warp(windows: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows [n, w, w] as the photograph's pixels see them [n, H, W]: bilinear, 0 outside, to OpenCV's precision."""
    x, y = window_coordinates(matrices, size)
    grid = normalised(torch.stack((x, y), dim=-1), windows.shape[-2:])
    seen = F.grid_sample(windows[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return seen[:, 0]


def window_coordinates(matrices: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where each of the photograph's pixels lies in the window: x and y, [n, H, W] each.

    As OpenCV finds it: each column's and each row's share rounded to whole units, and their sum to steps.
    """
    # a row's and a column's shares are few numbers, so they can be computed in the finest arithmetic there is
    exact = matrices.to(widest_float(matrices.device)) * UNIT
    rows = torch.arange(size[0], device=matrices.device, dtype=exact.dtype)
    columns = torch.arange(size[1], device=matrices.device, dtype=exact.dtype)
    of_columns = whole(exact[:, :2, :1] * columns)  # [n, 2, W]
    of_rows = whole(exact[:, :2, 1:2] * rows + exact[:, :2, 2:])  # [n, 2, H]
    shares = of_rows[..., :, None] + of_columns[..., None, :]  # [n, 2, H, W]
    steps = torch.div(shares + UNITS_IN_STEP // 2, UNITS_IN_STEP, rounding_mode="floor")
    x, y = (steps.to(matrices.dtype) * (UNITS_IN_STEP / UNIT)).unbind(1)
    return x, y


def whole(shares: Tensor) -> Tensor:
    """Rounded to integers; far beyond any window they are cut off, so that sums don't overflow."""
    return shares.round().clamp(-(2**30) + UNIT, 2**30 - UNIT).to(torch.int32)


def instances_of_people(masks: Tensor, joints: Tensor, scores: Tensor, class_names: tuple[str, ...]) -> Instances:
    """People, in the order they were given: masks [n, H, W], joints [n, 17, 3] in the photograph, scores [n]."""
    labels = torch.zeros(len(masks), dtype=torch.int64, device=masks.device)
    size = masks.shape[1], masks.shape[2]
    return Instances(scores, labels, boxes_around(masks), masks, size, class_names, keypoints=joints)


def boxes_around(masks: Tensor) -> Tensor:
    """The tight box [n, 4] x1, y1, x2, y2 around each mask; 0 where a mask is empty."""
    pixels = masks.view(torch.uint8)  # of which the largest is found several times as fast as any of bools
    top, bottom = extent(pixels.amax(dim=2).bool())
    left, right = extent(pixels.amax(dim=1).bool())
    return torch.stack((left, top, right, bottom), dim=1).float()


def extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """The first and one past the last set entry of each row [n, L]; 0 and 0 where none is."""
    some, numbers = occupied.any(dim=1), occupied.to(torch.uint8)
    first = numbers.argmax(dim=1)
    last = occupied.shape[1] - numbers.flip(1).argmax(dim=1)
    return torch.where(some, first, 0), torch.where(some, last, 0)
