"""Ground truth -> what each grid cell must answer (paper, section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor

from common.data.batches import Target
from common.ops.precision import widest_float


class LevelTargets(NamedTuple):
    """The targets of one image on one level's grid."""

    categories: Tensor  # [S, S] int64; the number of classes means background
    cells: Tensor  # [P] int64: row * S + column of each (cell, instance) pair; a cell may stand in several
    instances: Tensor  # [P] int64: the pair's instance


def assign(
    target: Target,
    grids: tuple[int, ...],
    scale_ranges: tuple[tuple[float, float], ...],
    centre_fraction: float,
    classes: int,
) -> list[LevelTargets]:
    """Which cells of each level must predict which instance.

    An instance belongs to every level whose range holds the square root of its box's area, and there to the
    cells under the middle of its box (`centre_fraction` of it, about the mask's centre of mass), at most 3 x 3.
    """
    height, width = target.masks.shape[1:]
    sides = (target.boxes[:, 2:] - target.boxes[:, :2]).to(widest_float(target.boxes.device))  # [n, 2]: width, height
    scale = sides.prod(dim=1).clamp(min=0).sqrt()
    moment_x, moment_y, area = moments(target.masks)
    levels = []
    for grid, (smallest, largest) in zip(grids, scale_ranges, strict=True):
        members = ((scale >= smallest) & (scale <= largest) & (area > 0)).nonzero().squeeze(1)
        half = 0.5 * centre_fraction * sides[members]
        rows, row_valid = _cells(moment_y[members], area[members], half[:, 1], height, grid)
        columns, column_valid = _cells(moment_x[members], area[members], half[:, 0], width, grid)
        member, row, column = (row_valid[:, :, None] & column_valid[:, None, :]).nonzero(as_tuple=True)
        cells = rows[member, row] * grid + columns[member, column]
        instances = members[member]
        # where instances claim the same cell, the last one gives the category
        owner = torch.full((grid * grid,), -1, device=cells.device)
        owner = owner.scatter_reduce(0, cells, instances, "amax")
        labels = torch.cat((target.labels, target.labels.new_tensor([classes])))  # index -1: background
        levels.append(LevelTargets(labels[owner].view(grid, grid), cells, instances))
    return levels


def moments(masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of x, of y and of 1 over each mask's pixels, as integers: their quotients are the centre of mass."""
    height, width = masks.shape[1:]
    in_row, in_column = masks.sum(dim=2), masks.sum(dim=1)  # [n, H], [n, W] int64
    moment_x = (in_column * torch.arange(width, device=masks.device)).sum(dim=1)
    moment_y = (in_row * torch.arange(height, device=masks.device)).sum(dim=1)
    return moment_x, moment_y, in_row.sum(dim=1)


def quarter(masks: Tensor) -> Tensor:
    """Masks at stride 4 as OpenCV's linear resize gives them: of the middle 2 x 2 pixels at least two are set."""
    middle = masks[:, 1::4], masks[:, 2::4]
    count = sum(rows[:, :, start::4].to(torch.uint8) for rows in middle for start in (1, 2))
    return count >= 2  # type: ignore[return-value]


def _cells(moment: Tensor, area: Tensor, half: Tensor, size: int, grid: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the centre's cell and its two neighbours, and which of them lie under the box's middle.

    The centre's cell, floor(moment / area * grid / size), is computed in integers, since centres often lie
    exactly on a cell's border.
    """
    centre_cell = torch.div(moment * grid, area * size, rounding_mode="floor")
    centre = moment.to(half.dtype) / area
    first = ((centre - half) * grid / size).floor().clamp(min=0)
    last = ((centre + half) * grid / size).floor().clamp(max=grid - 1)
    cells = centre_cell[:, None] + torch.tensor([-1, 0, 1], device=moment.device)  # [n, 3]
    return cells, (cells >= first[:, None]) & (cells <= last[:, None])
