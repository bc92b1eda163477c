"""Answers -> instances in the photograph's coordinates (paper, section 3.3)."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.batches import Prepared
from common.ops import matrix_nms
from common.ops.precision import full_precision
from common.results import Instances
from solov2.config import Inference

BLOCK = 64  # masks at once


class Candidates(NamedTuple):
    """Masks at stride 4 with their scores, highest first."""

    scores: Tensor  # [N]
    labels: Tensor  # [N] int64
    soft_masks: Tensor  # [N, H/4, W/4] probabilities
    masks: Tensor  # [N, H/4, W/4] bool


def instances_from_answers(
    category_logits: list[Tensor],
    kernels: list[Tensor],
    mask_feature: Tensor,
    prepared: Prepared,
    strides: tuple[int, ...],
    test: Inference,
    class_names: tuple[str, ...],
) -> Instances:
    """One image's answers, levels' tensors [C, S, S] and the mask feature [c, H/4, W/4], as instances."""
    found = candidates(category_logits, kernels, mask_feature, strides, test)
    decayed = matrix_nms(found.masks, found.labels, found.scores, test.kernel, test.sigma)
    scores, labels, soft_masks = select(found, decayed, test)
    masks = photograph_masks(soft_masks, prepared.resized_size, prepared.original_size, test)
    return Instances(
        scores=scores,
        labels=labels,
        boxes=boxes_around(masks),
        masks=masks,
        size=prepared.original_size,
        class_names=class_names,
    )


def points_nms(scores: Tensor) -> Tensor:
    """Zero every score [.., S, S] that is beaten by its upper, left or upper left neighbour."""
    largest = F.max_pool2d(scores, kernel_size=2, stride=1, padding=1)[..., :-1, :-1]
    return scores * (scores == largest)


def candidates(
    category_logits: list[Tensor],
    kernels: list[Tensor],
    mask_feature: Tensor,
    strides: tuple[int, ...],
    test: Inference,
) -> Candidates:
    """The masks that enter matrix NMS: confident cells, large enough masks, scored by category and maskness."""
    # order: level, row, column, category
    cell_scores = torch.cat(
        [points_nms(logits.float().sigmoid()).permute(1, 2, 0).flatten(0, 1) for logits in category_logits]
    )  # [cells, C]
    cell_kernels = torch.cat([kernel.flatten(1) for kernel in kernels], dim=1).T  # [cells, c]
    smallest = torch.cat(
        [
            torch.full((logits.shape[1] * logits.shape[2],), stride, device=logits.device)
            for logits, stride in zip(category_logits, strides, strict=True)
        ]
    )
    cells, labels = (cell_scores > test.score_threshold).nonzero(as_tuple=True)
    drawn, mask_of = cells, torch.arange(cells.shape[0], device=cells.device)
    if not torch.compiler.is_compiling():  # ONNX has no such operation
        drawn, mask_of = torch.unique_consecutive(cells, return_inverse=True)  # a cell may be of several categories
    soft_masks, areas, maskness = soft_masks_of(cell_kernels[drawn], mask_feature.flatten(1), test.mask_threshold)
    keep = (areas > smallest[drawn])[mask_of].nonzero().squeeze(1)
    scores = cell_scores[cells, labels][keep] * maskness[mask_of[keep]]
    order = scores.argsort(descending=True, stable=True)[: test.max_candidates]
    soft_masks = soft_masks[mask_of[keep][order]].view(-1, *mask_feature.shape[1:])
    return Candidates(scores[order], labels[keep][order], soft_masks, soft_masks > test.mask_threshold)


def soft_masks_of(kernels: Tensor, mask_feature: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels [K, c] on a mask feature [c, P]: soft masks [K, P], pixels above the threshold and their mean [K].

    In blocks, so that what is in between stays in the processor's cache, and in memory where every cell is confident.
    """
    blocks = 1 if torch.compiler.is_compiling() else -(-len(kernels) // BLOCK) or 1
    drawn = []
    for some in kernels.tensor_split(blocks):
        soft_masks = (some @ mask_feature).float().sigmoid()
        masks = soft_masks > threshold
        areas = masks.sum(dim=1)
        drawn.append((soft_masks, areas, (soft_masks * masks).sum(dim=1) / areas))
    soft_masks, areas, maskness = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return soft_masks, areas, maskness


def select(found: Candidates, decayed: Tensor, test: Inference) -> tuple[Tensor, Tensor, Tensor]:
    """The scores, labels and soft masks that matrix NMS leaves, highest score first."""
    keep = (decayed >= test.update_threshold).nonzero().squeeze(1)
    scores, order = decayed[keep].sort(descending=True, stable=True)
    keep = keep[order[: test.max_instances]]
    return scores[: test.max_instances], found.labels[keep], found.soft_masks[keep]


def photograph_masks(
    soft_masks: Tensor, resized: tuple[int, int], original: tuple[int, int], test: Inference
) -> Tensor:
    """Soft masks [N, h, w] at stride 4 -> masks [N, H, W] at the photograph's size, as the settings say."""
    masks = enlarge(soft_masks, resized, original, test.mask_threshold)
    return largest_parts(masks) if test.largest_part else masks


def largest_parts(masks: Tensor) -> Tensor:
    """Of each mask [N, H, W] the largest part whose pixels touch."""
    kept = masks.cpu().numpy()
    for mask in kept:
        _, parts, boxes_and_areas, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
        areas = boxes_and_areas[1:, cv2.CC_STAT_AREA]  # without the background's
        if len(areas) > 1:
            np.logical_and(mask, parts == 1 + areas.argmax(), out=mask)
    return torch.from_numpy(kept).to(masks.device)


def enlarge(soft_masks: Tensor, resized: tuple[int, int], original: tuple[int, int], threshold: float) -> Tensor:
    """Soft masks [N, h, w] at stride 4 -> masks [N, H, W] at the photograph's size.

    The original resizes twice, to the network input's size and from there, without the padding, to the
    photograph's; a single step would give other pixels at the borders. Both steps are linear and separable, so
    together they are one matrix for the rows and one for the columns. And since they average, a pixel can only
    pass the threshold near source pixels that do: of each mask only the window around those is computed.
    """
    rows = resize_matrix(soft_masks.shape[1], resized[0], original[0]).to(soft_masks.device)  # [H, h]
    columns = resize_matrix(soft_masks.shape[2], resized[1], original[1]).to(soft_masks.device)  # [W, w]
    above = soft_masks > threshold
    windows = torch.cat((windows_along(above.any(dim=2), rows), windows_along(above.any(dim=1), columns)), dim=1)
    masks = torch.zeros((len(soft_masks), *original), dtype=torch.bool, device=soft_masks.device)
    with full_precision(soft_masks.device):
        for mask, soft, (top, bottom, y0, y1, left, right, x0, x1) in zip(
            masks, soft_masks, windows.tolist(), strict=True
        ):
            window = rows[top:bottom, y0:y1] @ soft[y0:y1, x0:x1] @ columns[left:right, x0:x1].T
            mask[top:bottom, left:right] = window > threshold
    return masks


def resize_matrix(length: int, resized: int, original: int) -> Tensor:
    """What each of `original` pixels along a side is made of, [original, length]: the two bilinear steps in one."""
    identity = torch.eye(length)[None]
    enlarged = F.interpolate(identity, 4 * length, mode="linear", align_corners=False)[:, :, :resized]
    return F.interpolate(enlarged, original, mode="linear", align_corners=False)[0].T.contiguous()


def windows_along(occupied: Tensor, matrix: Tensor) -> Tensor:
    """For each row of `occupied` [N, length]: the targets it reaches and the sources these need, as ends [N, 4]."""
    # of four pixels that become eight, the second alone reaches targets 1 to 4, which need sources 0 to 2: 1, 5, 0, 3
    source_first, source_end = extent(matrix > 0)  # of each target; both only grow
    first, end = extent(occupied)
    start = torch.searchsorted(source_end, first, right=True)  # the first target that looks at or beyond `first`
    stop = torch.searchsorted(source_first, end)  # one past the last that looks before `end`
    stop = torch.maximum(start, torch.where(first < end, stop, 0))
    lowest = source_first[start.clamp(max=len(matrix) - 1)]
    highest = source_end[(stop - 1).clamp(min=0)]
    return torch.stack((start, stop, lowest, torch.maximum(lowest, highest)), dim=1)


def boxes_around(masks: Tensor) -> Tensor:
    """The tight box [N, 4] x1, y1, x2, y2 around each mask; 0 where a mask is empty."""
    pixels = masks.view(torch.uint8)  # of which the largest is found several times as fast as any of bools
    top, bottom = extent(pixels.amax(dim=2).bool())
    left, right = extent(pixels.amax(dim=1).bool())
    return torch.stack((left, top, right, bottom), dim=1).float()


def extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """The first and one past the last set entry of each row [N, L]; 0 and 0 where none is."""
    length = occupied.shape[1]
    some = occupied.any(dim=1)
    numbers = occupied.to(torch.uint8)
    first = numbers.argmax(dim=1)
    last = length - numbers.flip(1).argmax(dim=1)
    return torch.where(some, first, 0), torch.where(some, last, 0)
