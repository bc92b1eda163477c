"""Soft masks at the prototypes' size -> masks at the photograph's, and no more work than that takes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ops.precision import full_precision
from yolact.boxes import to_pixels

THRESHOLD = 0.5
AT_ONCE = 2**26  # floats, where whole masks are enlarged


def enlarge(soft_masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Soft masks [n, h, w], cropped to boxes [n, 4] (corners as fractions), bilinearly -> masks [n, H, W] bool."""
    if soft_masks.device.type == "cpu":
        return enlarge_windows(soft_masks, boxes, size)
    parts = torch.split(soft_masks[:, None], max(1, AT_ONCE // (size[0] * size[1])))
    return torch.cat(
        [F.interpolate(part, size, mode="bilinear", align_corners=False)[:, 0] > THRESHOLD for part in parts]
    )


def enlarge_windows(soft_masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The same on a processor: a mask is 0 outside of its box, so only what the box reaches is computed.

    Bilinear resizing is one matrix for the rows and one for the columns. Their entries are the very weights that
    F.interpolate uses: plateaus at exactly 0.5, which are frequent, stay there and out of the mask.
    """
    rows, columns = resize_matrix(soft_masks.shape[1], size[0]), resize_matrix(soft_masks.shape[2], size[1])
    windows = torch.cat((windows_along(boxes[:, 1::2], rows), windows_along(boxes[:, ::2], columns)), dim=1)
    masks = torch.zeros((len(soft_masks), *size), dtype=torch.bool)
    with full_precision(soft_masks.device):
        for mask, soft, (y0, y1, top, bottom, x0, x1, left, right) in zip(
            masks, soft_masks, windows.tolist(), strict=True
        ):
            window = rows[top:bottom, y0:y1] @ soft[y0:y1, x0:x1] @ columns[left:right, x0:x1].T
            torch.gt(window, THRESHOLD, out=mask[top:bottom, left:right])
    return masks


def resize_matrix(length: int, target: int) -> Tensor:
    """What each of `target` pixels along a side is made of, [target, length]."""
    return F.interpolate(torch.eye(length)[None], target, mode="linear", align_corners=False)[0].T.contiguous()


def windows_along(ends: Tensor, matrix: Tensor) -> Tensor:
    """For boxes' ends [n, 2] along one axis: first and end of the cropped source, and of the target it reaches."""
    first, end = to_pixels(ends[:, 0], ends[:, 1], matrix.shape[1], padding=1)
    first, end = (each.ceil().nan_to_num(0).clamp(0, matrix.shape[1]).long() for each in (first, end))
    end = torch.maximum(first, end)  # of an inverted box: nothing
    used = matrix > 0
    numbers = torch.arange(matrix.shape[1])
    source_first = torch.where(used, numbers, matrix.shape[1]).amin(dim=1)  # of each target; both only grow
    source_end = torch.where(used, numbers + 1, 0).amax(dim=1)
    start = torch.searchsorted(source_end, first, right=True)
    stop = torch.maximum(start, torch.searchsorted(source_first, end))
    return torch.stack((first, end, start, stop), dim=1)
