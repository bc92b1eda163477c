"""Features of regions of interest, taken from the pyramid level that fits their size."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ops.guarded_sampling import roi_align


def with_image_index(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes [n, 4] of each image -> regions [K, 5]: the image's index, x1, y1, x2, y2."""
    return torch.cat([F.pad(each, (1, 0), value=row) for row, each in enumerate(boxes)])


def pool(pyramid: Sequence[Tensor], regions: Tensor, size: int, finest_scale: int) -> Tensor:
    """[P2, P3, P4, P5, ...] and regions [K, 5] -> [K, C, size, size]

    Regions below twice the finest scale come from P2, below four times from P3, and so on (arXiv 1612.03144, eq. 1).
    """
    scale = ((regions[:, 3] - regions[:, 1]) * (regions[:, 4] - regions[:, 2])).sqrt()
    levels = (scale / finest_scale + 1e-6).log2().floor().clamp(0, 3)
    if torch.compiler.is_exporting():  # shapes must not depend on values: every region from every level, then one
        each_level = [pool_from(pyramid[level], regions, size, stride=4 * 2**level) for level in range(4)]
        return torch.stack(
            [each * (levels == level)[:, None, None, None] for level, each in enumerate(each_level)]
        ).sum(0)
    features = pyramid[0].new_zeros(regions.shape[0], pyramid[0].shape[1], size, size)
    for level in range(4):
        members = (levels == level).nonzero().squeeze(1)
        pooled = pool_from(pyramid[level], regions[members], size, stride=4 * 2**level)
        features = features.index_copy(0, members, pooled.to(features.dtype))
    return features


def pool_from(features: Tensor, regions: Tensor, size: int, stride: int) -> Tensor:
    """RoIAlign (arXiv 1703.06870) from one map, with as many samples in each bin as it has pixels."""
    exact = torch.promote_types(features.dtype, regions.dtype)  # coordinates do not fit into half precision
    pooled: Tensor = roi_align(features.to(exact), regions.to(exact), size, 1 / stride, sampling_ratio=0, aligned=True)
    return pooled
