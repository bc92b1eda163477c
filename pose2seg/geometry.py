"""Matrices [.., 3, 3] between a photograph, the network's input, its features and a person's window.

photograph -(letterbox)-> input -(a quarter)-> features -(alignment)-> window; pixel centres are at whole numbers.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.ops.precision import full_precision


def letterbox_matrix(height: int, width: int, side: int) -> Tensor:
    """Scale a photograph about its centre to fit into a square, and centre it there. [3, 3]"""
    return similarity_matrices((height, width), side, torch.zeros(1), torch.ones(1), torch.zeros(1, 2))[0]


def letterboxed(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A photograph [H, W, 3] warped by its letterbox matrix, black around it. [side, side, 3]"""
    matrix = letterbox_matrix(image.shape[0], image.shape[1], side)
    return np.asarray(cv2.warpAffine(image, matrix[:2].numpy(), (side, side)), np.uint8)


def similarity_matrices(size: tuple[int, int], side: int, degrees: Tensor, scales: Tensor, shifts: Tensor) -> Tensor:
    """The letterbox of a photograph of `size` (height, width), also turned, scaled and shifted by parts of the side.

    degrees [n], scales [n], shifts [n, 2] x, y -> [n, 3, 3]. Each factor is rounded before they are multiplied, as in
    the original.
    """
    height, width = size
    angles = torch.deg2rad(degrees.double())
    factors = scales.double() * min(side / width, side / height)
    cosine, sine = (factors * angles.cos()).float(), (factors * angles.sin()).float()
    turn = torch.eye(3, device=degrees.device).repeat(len(degrees), 1, 1)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = cosine, -sine, sine, cosine
    centre = torch.tensor([width / 2, height / 2], device=degrees.device)
    margin = torch.tensor([(side - width) / 2, (side - height) / 2], device=degrees.device)
    shifted = translation((shifts.double() * side).float() + margin)
    with full_precision(degrees.device):
        return shifted @ translation(centre) @ turn @ translation(-centre)


def translation(offset: Tensor) -> Tensor:
    """Offsets [.., 2] x, y -> [.., 3, 3]"""
    matrix = torch.eye(3, device=offset.device).expand(*offset.shape[:-1], 3, 3).clone()
    matrix[..., :2, 2] = offset
    return matrix


def scaling(factor: float) -> Tensor:
    return torch.diag(torch.tensor([factor, factor, 1.0]))


def inverse(matrices: Tensor) -> Tensor:
    """The inverses of affine matrices [.., 3, 3]."""
    a, b, x = matrices[..., 0, :].unbind(-1)
    c, d, y = matrices[..., 1, :].unbind(-1)
    determinant = a * d - b * c
    top = torch.stack((d, -b, b * y - d * x), dim=-1) / determinant[..., None]
    bottom = torch.stack((-c, a, c * x - a * y), dim=-1) / determinant[..., None]
    return torch.stack((top, bottom, matrices[..., 2, :]), dim=-2)


def moved(points: Tensor, matrices: Tensor) -> Tensor:
    """Points [.., P, 2] through matrices [.., 3, 3]."""
    x, y = points[..., 0, None], points[..., 1, None]
    return x * matrices[..., None, :2, 0] + y * matrices[..., None, :2, 1] + matrices[..., None, :2, 2]


def moved_joints(joints: Tensor, matrices: Tensor) -> Tensor:
    """Joints [.., K, 3] x, y, visibility through matrices [.., 3, 3]; those with visibility 0 become (0, 0, 0)."""
    labelled = joints[..., 2:] != 0
    points = torch.cat((moved(joints[..., :2], matrices), joints[..., 2:]), dim=-1)
    return torch.where(labelled, points, 0.0)


def pixel_grid(height: int, width: int, device: torch.device) -> Tensor:
    """The centres of all pixels, x and y. [height * width, 2]"""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    y, x = torch.meshgrid(rows.float(), columns.float(), indexing="ij")
    return torch.stack((x, y), dim=-1).flatten(0, 1)


def normalised(points: Tensor, size: Sequence[int]) -> Tensor:
    """Pixel coordinates [.., 2] x, y in a map of `size` (height, width) as grid_sample wants them, corners aligned."""
    limits = torch.tensor([size[1] - 1, size[0] - 1], device=points.device, dtype=points.dtype)
    return points * (2 / limits) - 1
