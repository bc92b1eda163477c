"""Matrix NMS (SOLOv2, section 3.4): every score decays by its overlap with better masks of its class, all at once."""

import platform
from typing import Literal

import torch
from torch import Tensor

from common.ops.precision import full_precision

Kernel = Literal["gaussian", "linear"]

_EXACT_IN_HALF = 2048  # pixels: half precision counts without a gap up to here
_EXACT_IN_FLOAT = 1 << 20
_TOGETHER = 64  # masks: smaller classes are multiplied with their neighbours, for one call costs as much as that


def matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, kernel: Kernel = "gaussian", sigma: float = 2.0
) -> Tensor:
    """masks [N, H, W] bool, labels [N], scores [N] -> decayed scores [N], in the same order.

    The masks must come sorted from best to worst: their order alone says which is better, as in the original.
    The linear kernel divides 0 by 0 for a copy of a mask that is a copy itself; that gives 0.
    """
    count = len(masks)
    if masks.ndim != 3 or labels.shape != (count,) or scores.shape != (count,):
        shapes = [tuple(tensor.shape) for tensor in (masks, labels, scores)]
        raise ValueError(f"masks, labels and scores have shapes {shapes}; expected [N, H, W], [N] and [N]")
    if count == 0:
        return scores.clone()
    pixels = masks.bool().flatten(1)  # [N, H * W]
    # Elsewhere, asking which classes there are would wait for the device.
    on_cpu = pixels.device.type == "cpu"
    intersections = _intersections_by_class(pixels, labels) if on_cpu else _intersections(pixels)
    return matrix_nms_from_intersections(intersections, intersections.diagonal(), labels, scores, kernel, sigma)


def matrix_nms_from_intersections(
    intersections: Tensor,
    areas: Tensor,
    labels: Tensor,
    scores: Tensor,
    kernel: Kernel = "gaussian",
    sigma: float = 2.0,
) -> Tensor:
    """The decay itself, in operations that every exporter knows; N must not be 0.

    intersections [N, N] and areas [N] in pixels, of any type; labels [N], scores [N] from best to worst -> [N].
    Intersections of different classes are not looked at.
    """
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"kernel is {kernel!r}; expected 'gaussian' or 'linear'")
    intersections, areas = intersections.float(), areas.float()
    union = areas[:, None] + areas[None, :] - intersections
    order = torch.arange(scores.shape[0], device=scores.device)
    better = (order[:, None] < order[None, :]) & (labels[:, None] == labels[None, :])  # [i, j]: i decays j
    overlap = torch.where(better, intersections / union.clamp(min=1), 0.0)
    # What was itself covered by something better has the less to say.
    covered = overlap.amax(0)[:, None]  # [N, 1]
    if kernel == "gaussian":
        # The smallest ratio of two Gaussians is the Gaussian of the largest difference.
        decay = torch.exp(-sigma * (overlap * overlap - covered * covered).amax(0))
    else:
        # The floor is far below every 1 - overlap but 0: 0 / 0 gives 0, and x / 0 a ratio that decays nothing.
        decay = ((1 - overlap) / (1 - covered).clamp(min=1e-9)).amin(0)
    # The first mask lowers nothing by a ratio above 1, so neither does the smallest of all ratios.
    return (scores * decay).to(scores.dtype)


def _intersections_by_class(pixels: Tensor, labels: Tensor) -> Tensor:
    """[N, P] bool -> [N, N], exact within a class; some that lie between classes are left out (0)."""
    groups = [0]
    for size in torch.unique(labels, return_counts=True)[1].tolist():
        if groups[-1] >= _TOGETHER:
            groups.append(0)
        groups[-1] += size
    if len(groups) == 1:
        return _intersections(pixels)
    intersections = torch.zeros((len(pixels), len(pixels)))
    for group in torch.split(labels.argsort(), groups):
        intersections[group[:, None], group] = _intersections(pixels[group])
    return intersections


def _intersections(pixels: Tensor) -> Tensor:
    """[N, P] bool -> [N, N] float32, exact below 2^24."""
    on_cpu = pixels.device.type == "cpu"
    by_bytes = on_cpu and platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.enabled
    if by_bytes and pixels.shape[1] > 1:  # torch 2.8 multiplies a single column wrongly
        # The masks' own bytes are multiplied, with integer sums: nothing is copied.
        ones = pixels.view(torch.int8)
        return torch._int_mm(ones, ones.T).float()
    number, at_once = (torch.float32, _EXACT_IN_FLOAT) if on_cpu else (torch.float16, _EXACT_IN_HALF)
    intersections = torch.zeros((len(pixels), len(pixels)), device=pixels.device)
    for some in torch.split(pixels, at_once, dim=1):
        numbers = some.to(number)
        with full_precision(pixels.device):
            intersections += numbers @ numbers.T
    return intersections
