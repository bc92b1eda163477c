"""The heads: what the network says about a whole image, and about regions of it."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.ops.guarded_sampling import roi_align
from upsnet.backbone import DeformableConv2d, group_norm
from upsnet.boxes import RATIOS, sides
from upsnet.config import Model

MASK_SIZE = 28
SMALLEST_LEVEL, CANONICAL_LEVEL, CANONICAL_SIDE = 0, 2, 224  # of the levels p2 .. p5, counted from 0


class ProposalHead(nn.Module):
    """[P2..P6] -> for each level, logits [N, 3, H, W] and deltas [N, 12, H, W] of its anchors."""

    def __init__(self, config: Model):
        super().__init__()
        self.conv = nn.Conv2d(config.fpn_channels, config.fpn_channels, 3, padding=1)
        self.objectness = nn.Conv2d(config.fpn_channels, len(RATIOS), 1)
        self.deltas = nn.Conv2d(config.fpn_channels, 4 * len(RATIOS), 1)
        for layer in (self.conv, self.objectness, self.deltas):
            _normal(layer, 0.01)

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [F.relu(self.conv(level)) for level in pyramid]
        return [self.objectness(level) for level in hidden], [self.deltas(level) for level in hidden]


class BoxHead(nn.Module):
    """Regions' features [R, C, 7, 7] -> class logits [R, 1 + things], background first, and deltas for each class."""

    size = 7

    def __init__(self, config: Model):
        super().__init__()
        self.fc1 = nn.Linear(config.fpn_channels * self.size**2, config.box_channels)
        self.fc2 = nn.Linear(config.box_channels, config.box_channels)
        self.classes = nn.Linear(config.box_channels, 1 + config.things)
        self.deltas = nn.Linear(config.box_channels, 4 * (1 + config.things))
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        _normal(self.classes, 0.01)
        _normal(self.deltas, 0.001)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(regions)
        return self.classes(hidden), self.deltas(hidden)

    def hidden(self, regions: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(regions.flatten(1)))))


class MaskHead(nn.Module):
    """Regions' features [R, C, 14, 14] -> a mask's logits for each class [R, 1 + things, 28, 28]; 0 is unused."""

    size = 14

    def __init__(self, config: Model):
        super().__init__()
        width = config.mask_channels
        self.convs = nn.ModuleList(
            nn.Conv2d(config.fpn_channels if i == 0 else width, width, 3, padding=1) for i in range(4)
        )
        self.norms = nn.ModuleList(_norm(config, width) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.masks = nn.Conv2d(width, 1 + config.things, 1)
        for layer in (*self.convs, self.upsample, self.masks):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            regions = F.relu(norm(conv(regions)))
        masks: Tensor = self.masks(F.relu(self.upsample(regions)))
        return masks


class SemanticHead(nn.Module):
    """[P2..P5] -> a feature at stride 4, of which `classes` makes logits: stuff first, then things."""

    def __init__(self, config: Model, classes: int):
        super().__init__()
        last = config.semantic_channels
        # all layers but the last two keep the pyramid's width
        widths = [config.fpn_channels] * (config.semantic_layers - 1) + [last, last]
        self.layers = nn.ModuleList(
            DeformableConv2d(inputs, outputs, bias=True)
            if config.semantic_deformable
            else nn.Conv2d(inputs, outputs, 3, padding=1)
            for inputs, outputs in pairwise(widths)
        )
        self.norms = nn.ModuleList(_norm(config, width) for width in widths[1:])
        self.classes = nn.Conv2d(4 * last, classes, 1)
        _normal(self.classes, 0.01)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        return torch.cat([enlarge(self.level(level), 2**index) for index, level in enumerate(pyramid[:4])], dim=1)

    def level(self, features: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            features = F.relu(norm(layer(features)))
        return features


def enlarge(features: Tensor, factor: int) -> Tensor:
    """[N, C, H, W] -> [N, C, factor H, factor W]"""
    if factor == 1:
        return features
    return F.interpolate(features, scale_factor=float(factor), mode="bilinear", align_corners=False)


def region_features(pyramid: list[Tensor], boxes: list[Tensor], size: int) -> Tensor:
    """The pyramid under each image's boxes [n, 4] -> [all boxes, C, size, size], each from the level that suits it."""
    regions = with_image(boxes)
    levels = level_of(regions[:, 1:])
    found = pyramid[0].new_zeros(regions.shape[0], pyramid[0].shape[1], size, size)
    for index, features in enumerate(pyramid[:4]):
        chosen = (levels == index).nonzero()[:, 0]
        pooled = align(features, regions[chosen], size, 2 ** -(index + 2))
        found = found.index_copy(0, chosen, pooled.to(found.dtype))
    return found


def with_image(boxes: list[Tensor]) -> Tensor:
    """Each image's boxes [n, 4] -> [R, 5], the image's number before each box."""
    image = torch.cat([box.new_full((box.shape[0], 1), index) for index, box in enumerate(boxes)])
    return torch.cat((image, torch.cat(boxes)), dim=1)


def align(features: Tensor, regions: Tensor, size: int, scale: float) -> Tensor:
    """RoIAlign as in its first version: two samples a side for each cell, no half-pixel shift."""
    pooled: Tensor = roi_align(features, regions.to(features.dtype), size, scale, sampling_ratio=2, aligned=False)
    return pooled


def level_of(boxes: Tensor) -> Tensor:
    """Which of p2 .. p5 (0 .. 3) a box is looked at in (arXiv 1612.03144, equation 1)."""
    side = sides(boxes).prod(dim=-1).sqrt()
    level = (CANONICAL_LEVEL + (side / CANONICAL_SIDE + 1e-6).log2()).floor()
    return level.nan_to_num().clamp(SMALLEST_LEVEL, SMALLEST_LEVEL + 3).long()


def _norm(config: Model, channels: int) -> nn.Module:
    return group_norm(channels) if config.head_norm == "group" else nn.Identity()


def _normal(layer: nn.Conv2d | nn.Linear, deviation: float) -> None:
    nn.init.normal_(layer.weight, std=deviation)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
