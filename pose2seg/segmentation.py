"""The segmentation module: a person's aligned features and skeleton -> background and person (paper, section 3.4)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from pose2seg.backbone import NORMS
from pose2seg.config import Model

EXPANSION = 4  # a residual block puts out so many times its inner width


class SegmentationModule(nn.Module):
    """Windows [n, C, w, w] -> logits of background and person [n, 2, w, w]; inside at half that size."""

    def __init__(self, config: Model, inputs: int):
        super().__init__()
        norm, inner = NORMS[config.norm], config.segmentation_channels
        outer, kernel = EXPANSION * inner, config.stem_kernel
        self.conv1 = nn.Conv2d(inputs, inner, kernel, stride=2, padding=kernel // 2)
        self.bn1 = norm(inner)
        self.layer1 = nn.Sequential(
            *(
                ResidualBlock(inner if at == 0 else outer, inner, at == 0, norm)
                for at in range(config.segmentation_blocks)
            )
        )
        self.decoder1 = nn.Sequential(ResidualBlock(outer, config.decoder_channels, True, norm))
        self.pred_small = nn.Conv2d(EXPANSION * config.decoder_channels, 2, 1)

    def forward(self, windows: Tensor) -> Tensor:
        features = self.residuals(windows)
        features = F.interpolate(features, windows.shape[-2:], mode="bilinear", align_corners=True)
        logits: Tensor = self.pred_small(self.decoder1(features))
        return logits

    def residuals(self, windows: Tensor) -> Tensor:
        """[n, C, w, w] -> [n, 4 * inner, w / 2, w / 2]"""
        features: Tensor = self.layer1(F.relu(self.bn1(self.conv1(windows))))
        return features


class ResidualBlock(nn.Module):
    """A bottleneck whose convolutions have biases, though norms follow them: the published weights have them."""

    def __init__(self, inputs: int, inner: int, project: bool, norm: Callable[[int], nn.Module]):
        super().__init__()
        outer = EXPANSION * inner
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1), norm(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, padding=1), norm(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outer, 1), norm(outer)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outer, 1), norm(outer)) if project else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        inside = F.relu(self.bn1(self.conv1(features)))
        inside = F.relu(self.bn2(self.conv2(inside)))
        return F.relu(self.bn3(self.conv3(inside)) + self.downsample(features))
