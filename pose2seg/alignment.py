"""How a person is brought upright into a window: matched to the pose templates, then sampled (paper, section 3.2).

- Matching is a closed form, for all people and templates at once; what it rests on are a few sums over joints.
- Windows are sampled from an image's own features, so these are never copied for each person.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pose2seg.geometry import inverse, moved, normalised, pixel_grid, scaling

NEEDED_JOINTS = 3  # fewer leave the similarity open, or fit any
SMALLEST_SINGULAR_VALUE = 2.0**-21  # as a part of the largest; below it joints coincide but for rounding


class Alignment(NamedTuple):
    """The window of each person."""

    matrices: Tensor  # [n, 3, 3] feature coordinates -> window
    templates: Tensor  # [n] int64, the template used; -1: none, the window holds the whole image
    scores: Tensor  # [n] of that template; 0 if there is none
    template_scores: Tensor  # [n, m] of every template
    template_matrices: Tensor  # [n, m, 3, 3]; where the score is 0 the whole image's


def align(joints: Tensor, templates: Tensor, feature_size: int, window: int) -> Alignment:
    """Choose each person's window: joints [n, K, 3] in feature coordinates, templates [m, K, 3] in the unit square.

    The best template wins unless it would shrink the person more than the whole image would be.
    """
    whole_image = scaling(window / feature_size).to(joints)
    unit, scores = similarities(joints[:, None], templates[None])
    matrices = torch.where((scores > 0)[..., None, None], scaling(window).to(joints) @ unit, whole_image)
    scales = matrices[..., 0, :2].norm(dim=-1)
    allowed = torch.where(scales > window / feature_size, scores, 0.0)  # [n, m]
    best = allowed.argmax(dim=1)  # the first of equals
    people = torch.arange(len(joints), device=joints.device)
    score = allowed[people, best]
    matrix = torch.where((score > 0)[:, None, None], matrices[people, best], whole_image)
    return Alignment(matrix, torch.where(score > 0, best, -1), score, scores, matrices)


def similarities(
    source: Tensor, target: Tensor, target_area: float = 1.0, covered: bool = True
) -> tuple[Tensor, Tensor]:
    """The similarity, without reflection, from source to target joints [.., K, 3], and how well it fits.

    Least squares over the joints that both have; matrices [.., 3, 3] and scores [..] between 0 and 1. With `covered`
    the score is 0 if the target lacks a joint of the source. Without enough joints it is 0 and the matrix the identity.
    """
    in_source, in_target = source[..., 2] > 0, target[..., 2] > 0
    common, either = in_source & in_target, in_source | in_target
    matrices = least_squares(source[..., :2], target[..., :2], common)
    distances = (moved(source[..., :2], matrices) - target[..., :2]).square().sum(dim=-1)
    likeness = torch.where(common, torch.exp(-distances / (2 * target_area)), 0.0)
    count = common.sum(dim=-1)
    scores = likeness.sum(dim=-1) / either.sum(dim=-1).clamp(min=1)
    enough = count >= NEEDED_JOINTS
    if covered:
        enough = enough & ~(in_source & ~in_target).any(dim=-1)
    identity = torch.eye(3, device=source.device, dtype=source.dtype)
    return torch.where(enough[..., None, None], matrices, identity), torch.where(enough, scores, 0.0)


def least_squares(source: Tensor, target: Tensor, common: Tensor) -> Tensor:
    """x' = a x + b y + c, y' = -b x + a y + d that best takes the common points [.., K, 2] to each other. [.., 3, 3]

    Around the points' means, a and b are quotients of sums. Where all points coincide they are open, and the smallest
    a, b, c, d are taken, as a singular value decomposition would.
    """
    weights = common[..., None].to(source.dtype)
    count = weights.sum(dim=-2).clamp(min=1)  # [.., 1]
    p, q = (source * weights).sum(dim=-2) / count, (target * weights).sum(dim=-2) / count  # the means, [.., 2]
    around_p, around_q = (source - p[..., None, :]) * weights, (target - q[..., None, :]) * weights
    spread = around_p.square().sum(dim=(-2, -1))[..., None]  # [.., 1]
    # the smallest singular value of the equations is sqrt(count * spread / squares), the largest sqrt(squares)
    squares = (source * weights).square().sum(dim=(-2, -1))[..., None] + count
    coincident = count * spread <= (SMALLEST_SINGULAR_VALUE * squares).square()
    fitted = products(around_p, around_q).sum(dim=-2) / spread
    smallest = products(p, q) / (p.square().sum(dim=-1, keepdim=True) + 1)
    a, b = torch.where(coincident, smallest, fitted).unbind(-1)
    c = q[..., 0] - a * p[..., 0] - b * p[..., 1]
    d = q[..., 1] + b * p[..., 0] - a * p[..., 1]
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack((a, b, c, -b, a, d, zero, zero, one), dim=-1).reshape(*a.shape, 3, 3)


def products(u: Tensor, v: Tensor) -> Tensor:
    """The inner and the outer product of vectors [.., 2]: how u is stretched and turned to v. [.., 2]"""
    inner = u[..., 0] * v[..., 0] + u[..., 1] * v[..., 1]
    outer = u[..., 1] * v[..., 0] - u[..., 0] * v[..., 1]
    return torch.stack((inner, outer), dim=-1)


def affine_align(features: Tensor, matrices: Sequence[Tensor], window: int) -> Tensor:
    """The windows of all people: features [N, C, F, F], for each image matrices [n, 3, 3] -> [people, C, w, w]."""
    return torch.cat([windows_of(own, each, window) for own, each in zip(features, matrices, strict=True)])


def windows_of(features: Tensor, matrices: Tensor, window: int) -> Tensor:
    """One image's features [C, F, F] seen through each person's window [n, C, w, w]; 0 outside of the image.

    The original divides coordinates by F where grid_sample takes F - 1 pixels for the whole, so that a window is
    enlarged by F / (F - 1) and then shrunk by as much; its weights were trained so.
    """
    size = features.shape[-1]
    stretch = size / (size - 1)
    pixels = pixel_grid(window, window, features.device) * stretch
    points = moved(pixels, inverse(matrices)) / stretch  # [n, w * w, 2]
    return sample(features, points).reshape(len(points), len(features), window, window)


def sample(features: Tensor, points: Tensor) -> Tensor:
    """Features [C, H, W] at points [n, P, 2] x, y, bilinear, 0 outside. [n, C, P]"""
    grid = normalised(points, features.shape[-2:]).to(features.dtype)
    sampled = F.grid_sample(features[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=True)
    return sampled[0].transpose(0, 1)
