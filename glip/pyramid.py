"""The feature pyramid (arXiv 1612.03144): strides 8 to 128, with DropBlock (arXiv 1810.12890) on its way."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROP_SIDE = 3  # of the squares that DropBlock blanks


class Pyramid(nn.Module):
    """Swin's [C3, C4, C5] -> [P3 .. P7]."""

    def __init__(self, inputs: Sequence[int], channels: int, drop_block: float):
        super().__init__()
        self.drop_block = drop_block
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight, a=1)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        last = len(features) - 1
        merged = self.lateral[last](features[last])
        levels = [self.output[last](merged)]
        for level in range(last - 1, -1, -1):
            lateral = self.lateral[level](features[level])
            merged = lateral + F.interpolate(merged, lateral.shape[-2:], mode="nearest")
            kept = drop_squares(merged, self.drop_block) if self.training and self.drop_block else merged
            levels.insert(0, self.output[level](kept))
        p6 = self.p6(levels[-1])
        return [*levels, p6, self.p7(F.relu(p6))]


def drop_squares(features: Tensor, share: float) -> Tensor:
    """[N, C, H, W] with squares blanked in all channels, the rest scaled up to keep the sum."""
    count, _, height, width = features.shape
    seeds = torch.rand(count, 1, height, width, device=features.device) < share / DROP_SIDE**2
    dropped = F.max_pool2d(seeds.to(features.dtype), DROP_SIDE, stride=1, padding=DROP_SIDE // 2)
    kept = 1 - dropped
    return features * kept * (kept.numel() / kept.sum())
