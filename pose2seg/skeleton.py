"""Skeleton features: where a person's joints are, and which way the limbs between them run (paper, section 3.3).

Each person has maps of his own, so people in the same window leave no trace in each other's.
"""

import torch
from torch import Tensor

from pose2seg.geometry import pixel_grid

LIMBS = (
    *((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (5, 11), (6, 8), (6, 12)),
    *((7, 9), (8, 10), (11, 12), (11, 13), (12, 14), (13, 15), (14, 16)),
)
JOINTS = 17
CHANNELS = JOINTS + 2 * len(LIMBS)
LARGEST_EXPONENT = 4.6025  # a bell ends where it has fallen to 1 %
HIDDEN = 1  # visibility of a joint that is labelled but not seen


def skeleton_features(joints: Tensor, window: int, spread: float, limb_width: float, stride: int = 1) -> Tensor:
    """Joints [n, 17, 3] in window coordinates -> 17 joint maps and the x and y of 19 limbs [n, 55, w, w].

    With a stride, maps are so much smaller than the window.
    """
    size = window // stride
    return torch.cat((joint_maps(joints, size, spread, stride), limb_maps(joints, size, limb_width, stride)), dim=1)


def joint_maps(joints: Tensor, size: int, spread: float, stride: int) -> Tensor:
    """A bell at each joint, upside down if the joint is hidden. [n, 17, size, size]"""
    centres = torch.arange(size, device=joints.device, dtype=joints.dtype) * stride + (stride / 2 - 0.5)
    x, y, visibility = (part[..., None, None] for part in joints.unbind(-1))
    exponents = ((centres - x).square() + (centres[:, None] - y).square()) / (2 * spread**2)
    drawn = (exponents < LARGEST_EXPONENT) & (visibility != 0)
    bells = torch.where(drawn, torch.exp(-exponents), 0.0)
    return torch.where(visibility == HIDDEN, -bells, bells)


def limb_maps(joints: Tensor, size: int, width: float, stride: int) -> Tensor:
    """The unit vector from a limb's first joint to its second, on the pixels near the limb. [n, 38, size, size]"""
    ends = joints[:, torch.tensor(LIMBS, device=joints.device)]  # [n, 19, 2, 3]
    points = ends[..., :2] / stride
    start, vector = points[..., 0, :], points[..., 1, :] - points[..., 0, :]
    length = vector.norm(dim=-1, keepdim=True)
    direction = vector / length.clamp(min=torch.finfo(vector.dtype).tiny)  # [n, 19, 2]
    pixels = pixel_grid(size, size, joints.device).to(joints.dtype)  # [P, 2]
    offsets = pixels - start[..., None, :]  # [n, 19, P, 2]
    distances = (offsets[..., 0] * direction[..., None, 1] - offsets[..., 1] * direction[..., None, 0]).abs()
    lowest = (points.amin(dim=-2) - width).round()[..., None, :]  # halves to even, as in the original
    highest = (points.amax(dim=-2) + width).round()[..., None, :]
    inside = ((pixels >= lowest) & (pixels < highest)).all(dim=-1)
    exists = (ends[..., 2] != 0).all(dim=-1) & (length[..., 0] > 0)
    near = inside & (distances < width) & exists[..., None]  # [n, 19, P]
    maps = torch.where(near[:, :, None], direction[..., None], 0.0)  # [n, 19, 2, P]
    return maps.reshape(len(joints), 2 * len(LIMBS), size, size)
