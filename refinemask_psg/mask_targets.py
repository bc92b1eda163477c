"""What the mask heads must answer: each object's mask within its proposal, and any object's mask on P2."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from common import rle
from common.batches import Target
from refinemask_psg.targets import Sampled


def mask_targets(target: Target, sampled: Sampled, size: int, from_polygons: bool) -> Tensor:
    """For each positive sample its object's mask within the sample's box: [p, size, size] bool."""
    height, width = target.masks.shape[1:]
    owners = sampled.objects
    boxes = sampled.boxes[: len(owners)]
    limits = boxes.new_tensor([width, height, width, height])
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    if not from_polygons or target.polygons is None:
        return crops(target.masks, boxes, owners, size)
    outlines = [target.polygons[owner] for owner in owners.tolist()]
    has_none = torch.tensor([not each for each in outlines], dtype=torch.bool, device=boxes.device)
    result = torch.zeros(len(owners), size, size, dtype=torch.bool, device=boxes.device)
    result[has_none] = crops(target.masks, boxes[has_none], owners[has_none], size)  # objects given as RLE
    drawn = [draw(each, box, size) for each, box in zip(outlines, boxes.cpu().numpy(), strict=True) if each]
    if drawn:
        result[~has_none] = torch.from_numpy(rle.decode(drawn)).to(boxes.device)
    return result


def crops(masks: Tensor, boxes: Tensor, owners: Tensor, size: int) -> Tensor:
    """Masks [n, H, W] averaged within boxes [p, 4] of the masks `owners` [p]: at least half is foreground."""
    regions = torch.cat((owners[:, None].to(boxes), boxes), dim=1)
    averages = roi_align(masks[:, None].to(boxes.dtype), regions, size, 1.0, sampling_ratio=0, aligned=True)
    result: Tensor = averages[:, 0] >= 0.5
    return result


def draw(outlines: Sequence[NDArray[np.float32]], box: NDArray[np.float32], size: int) -> rle.Rle:
    """Polygons drawn into a box that is enlarged or shrunk to size x size."""
    x, y, right, bottom = (float(value) for value in box)
    scale = np.array([size / max(right - x, 1.0), size / max(bottom - y, 1.0)])
    corners = [(np.asarray(outline, np.float64) - [x, y]) * scale for outline in outlines]
    return rle.from_polygons([each.reshape(-1) for each in corners], size, size)


def foreground_target(targets: Sequence[Target], height: int, width: int) -> Tensor:
    """Where any object is, on a map of P2's size: [N, 1, height, width] float."""
    unions = torch.stack([target.masks.any(dim=0) for target in targets])[:, None].float()
    return (F.interpolate(unions, (height, width), mode="bilinear", align_corners=False) >= 0.5).float()
