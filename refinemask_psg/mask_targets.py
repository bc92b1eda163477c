"""What the mask heads must answer: each object's mask within its proposal, and any object's mask on P2."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.data.batches import Target
from common.ops import masks as rle
from common.ops.guarded_sampling import roi_align
from refinemask_psg.targets import Sampled

Outlines = Sequence[NDArray[np.float32]]  # of one object


def mask_targets(target: Target, sampled: Sampled, sizes: Sequence[int], from_polygons: bool) -> list[Tensor]:
    """For each positive sample its object's mask within the sample's box, at each size: [p, size, size] bool."""
    height, width = target.masks.shape[1:]
    owners = sampled.objects
    boxes = sampled.boxes[: len(owners)]
    limits = boxes.new_tensor([width, height, width, height])
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    if not from_polygons or target.polygons is None:
        return [crops(target.masks, boxes, owners, size) for size in sizes]
    outlines = [target.polygons[owner] for owner in owners.tolist()]
    places = boxes.cpu().numpy()
    return [crops_with_outlines(target.masks, boxes, owners, outlines, places, size) for size in sizes]


def crops_with_outlines(
    masks: Tensor, boxes: Tensor, owners: Tensor, outlines: Sequence[Outlines], places: NDArray[np.float32], size: int
) -> Tensor:
    """As `crops`, but drawn into the boxes, which `places` also are, wherever there are outlines."""
    result = torch.zeros(len(owners), size, size, dtype=torch.bool, device=boxes.device)
    given_as_rle = [index for index, each in enumerate(outlines) if not each]
    if given_as_rle:
        result[given_as_rle] = crops(masks, boxes[given_as_rle], owners[given_as_rle], size)
    if len(given_as_rle) < len(outlines):
        drawn = [draw(each, place, size) for each, place in zip(outlines, places, strict=True) if each]
        outlined = [index for index, each in enumerate(outlines) if each]
        result[outlined] = torch.from_numpy(rle.decode(drawn)).to(boxes.device)
    return result


def crops(masks: Tensor, boxes: Tensor, owners: Tensor, size: int) -> Tensor:
    """Masks [n, H, W] averaged within boxes [p, 4] of the masks `owners` [p]: at least half is foreground."""
    regions = torch.cat((owners[:, None].to(boxes), boxes), dim=1)
    averages = roi_align(masks[:, None].to(boxes.dtype), regions, size, 1.0, sampling_ratio=0, aligned=True)
    result: Tensor = averages[:, 0] >= 0.5
    return result


def draw(outlines: Outlines, box: NDArray[np.float32], size: int) -> rle.Rle:
    """Polygons drawn into a box that is enlarged or shrunk to size x size."""
    x, y, right, bottom = (float(value) for value in box)
    scale = np.array([size / max(right - x, 1.0), size / max(bottom - y, 1.0)])
    corners = [(np.asarray(outline, np.float64) - [x, y]) * scale for outline in outlines]
    return rle.from_polygons([each.reshape(-1) for each in corners], size, size)


def foreground_target(targets: Sequence[Target], height: int, width: int) -> Tensor:
    """Where any object is, on a map of P2's size: [N, 1, height, width] float."""
    unions = torch.stack([target.masks.any(dim=0) for target in targets])[:, None].float()
    return (F.interpolate(unions, (height, width), mode="bilinear", align_corners=False) >= 0.5).float()
