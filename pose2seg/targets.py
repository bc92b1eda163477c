"""Ground truth -> what each chosen person's window must show, and how training moves these windows about."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pose2seg.config import Augment
from pose2seg.geometry import inverse, moved, normalised, pixel_grid, similarity_matrices


def choose_people(counts: list[int], most: int) -> list[Tensor]:
    """Which of each image's people are trained on: all, or `most` of a batch's, drawn from torch's generator."""
    total = sum(counts)
    chosen = torch.randperm(total)[:most].sort().values if total > most else torch.arange(total)
    first = 0
    indices = []
    for count in counts:
        indices.append(chosen[(chosen >= first) & (chosen < first + count)] - first)
        first += count
    return indices


def random_matrices(people: int, window: int, settings: Augment) -> Tensor:
    """For each person a rotation, scale and shift of the window about its centre. [people, 3, 3]"""
    degrees = (2 * torch.rand(people) - 1) * settings.rotation
    smallest, largest = settings.scale
    scales = smallest + (largest - smallest) * torch.rand(people)
    shifts = (2 * torch.rand(people, 2) - 1) * settings.shift
    return similarity_matrices((window, window), window, degrees, scales, shifts)


def window_targets(masks: Tensor, matrices: Tensor, window: int) -> Tensor:
    """Masks [n, H, W] seen through the matrices [n, 3, 3] from the photograph to the window. [n, w, w] int64

    Straight from the photograph, as in the original: a mask resized in between would have other borders.
    """
    points = moved(pixel_grid(window, window, masks.device), inverse(matrices))
    grid = normalised(points, masks.shape[-2:])[:, None]  # [n, 1, w * w, 2]
    shares = F.grid_sample(masks[:, None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return (shares.view(-1, window, window) > 0.5).long()
