"""The mask heads: RefineMask's, which adds detail in stages (arXiv 2104.08569, section 3.2), and Mask R-CNN's."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from refinemask_psg.rois import pool, pool_from

REGION_SIZE = 14
STAGE_SIZES = (14, 28, 56)
MASK_SIZES = (14, 28, 56, 112)
DILATIONS = (1, 3, 5)
SMALLEST_WIDTH = 24
LOGITS = ("logits", "final", "foreground")


class MaskAnswers(NamedTuple):
    """What a mask head says about some regions."""

    stages: list[Tensor]  # RefineMask: logits of each region's class at 14, 28, 56, 112 [K, 1, S, S]; else of all at 28
    foreground: Tensor | None  # RefineMask: logits of any object against background on P2 [N, 1, h, w]


class RefineMaskHead(nn.Module):
    """Regions and P2 -> masks at four sizes, each made of the one before and of P2's finer features."""

    def __init__(self, inputs: int, channels: int, classes: int, finest_scale: int, final_agnostic: bool = False):
        super().__init__()
        if channels % 8 or channels < SMALLEST_WIDTH:
            raise UserError(
                f"--model.mask-channels {channels}: is halved three times, with room for two masks in what is left; "
                f"expected a multiple of 8, at least {SMALLEST_WIDTH}"
            )
        self.finest_scale = finest_scale
        self.instance_convs = nn.Sequential(conv_relu(inputs, channels), conv_relu(channels, channels))
        self.semantic_convs = nn.Sequential(
            *(conv_relu(inputs if index == 0 else channels, channels) for index in range(4))
        )
        self.foreground = nn.Conv2d(channels, 1, 1)
        self.stages = nn.ModuleList(
            FusionStage(channels // 2**index, channels, classes, size) for index, size in enumerate(STAGE_SIZES)
        )
        self.final = nn.Conv2d(channels // 8, 1 if final_agnostic else classes, 1)
        initialise(self)

    def forward(self, pyramid: list[Tensor], regions: Tensor, labels: Tensor) -> MaskAnswers:
        """[P2..], regions [K, 5] and the class of each [K]"""
        features = self.instance_convs(pool(pyramid, regions, REGION_SIZE, self.finest_scale))
        semantic = self.semantic_convs(pyramid[0])
        foreground = self.foreground(semantic)
        stages = []
        for stage in self.stages:
            logits, features = stage(features, semantic, foreground, regions, labels)
            stages.append(logits)
        stages.append(of_class(self.final(features), labels))
        return MaskAnswers(stages, foreground)


class FusionStage(nn.Module):
    """One stage's masks, and the features for a stage of twice the size and half the width."""

    def __init__(self, channels: int, semantic_channels: int, classes: int, size: int):
        super().__init__()
        self.size = size
        self.semantic_in = nn.Conv2d(semantic_channels, channels, 1)
        self.semantic_out = nn.Conv2d(channels, channels, 1)
        self.logits = nn.Conv2d(channels, classes, 1)
        self.fuse_in = nn.Conv2d(2 * channels + 2, channels, 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS
        )
        self.merge = nn.Conv2d(channels, channels, 1)
        self.fuse_out = nn.Conv2d(channels, channels // 2 - 2, 1)  # two channels are left for the two masks

    def forward(
        self, features: Tensor, semantic: Tensor, foreground: Tensor, regions: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        local = pool_from(F.relu(self.semantic_in(semantic)), regions, self.size, stride=4)
        local = F.relu(self.semantic_out(local))
        logits = of_class(self.logits(features), labels)
        masks = torch.cat(
            (logits.sigmoid(), pool_from(foreground.sigmoid(), regions, self.size, stride=4)), dim=1
        )  # the instance's mask, and any object's
        fused = F.relu(self.fuse_in(torch.cat((features, local, masks), dim=1)))
        branches = torch.stack([F.relu(branch(fused)) for branch in self.branches]).sum(dim=0)
        fused = F.relu(self.fuse_out(F.relu(self.merge(branches))))
        fused = F.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=False)
        masks = F.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=True)
        return logits, torch.cat((fused, masks), dim=1)


class PlainMaskHead(nn.Module):
    """Mask R-CNN's head: regions -> a mask of 28 x 28 for each class."""

    def __init__(self, inputs: int, channels: int, classes: int, finest_scale: int):
        super().__init__()
        self.finest_scale = finest_scale
        self.convs = nn.Sequential(*(conv_relu(inputs if index == 0 else channels, channels) for index in range(4)))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, classes, 1)
        initialise(self)

    def forward(self, pyramid: list[Tensor], regions: Tensor, labels: Tensor) -> MaskAnswers:
        features = self.convs(pool(pyramid, regions, REGION_SIZE, self.finest_scale))
        return MaskAnswers([self.logits(F.relu(self.upsample(features)))], None)


def conv_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True))


def of_class(logits: Tensor, labels: Tensor) -> Tensor:
    """[K, classes, S, S] -> the channel of each region's class [K, 1, S, S]; the only one where one is for all."""
    if logits.shape[1] == 1:
        return logits
    return logits[torch.arange(labels.shape[0], device=labels.device), labels][:, None]


def initialise(head: nn.Module) -> None:
    """Kaiming's for the convolutions, next to nothing for those that give logits."""
    for name, module in head.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            if name.endswith(LOGITS):
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
