"""The feature pyramid (arXiv 1612.03144), whose top-down path may be nearest or bilinear."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """[C2, C3, C4, C5] -> [P2, P3, P4, P5, P6], at strides 4 to 64, of equal width."""

    def __init__(self, inputs: list[int], channels: int, upsampling: Literal["nearest", "bilinear"]):
        super().__init__()
        self.upsampling = upsampling
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        for conv in (*self.lateral, *self.output):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [conv(feature) for conv, feature in zip(self.lateral, features, strict=True)]
        for index in reversed(range(len(levels) - 1)):
            size = levels[index].shape[2:]
            levels[index] = levels[index] + F.interpolate(levels[index + 1], size, mode=self.upsampling)
        outputs = [conv(level) for conv, level in zip(self.output, levels, strict=True)]
        return [*outputs, F.max_pool2d(outputs[-1], kernel_size=1, stride=2)]
