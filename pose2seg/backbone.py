"""The backbone: torchvision's residual networks and a feature pyramid of which only the finest level is used."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pose2seg.config import Model

# block, blocks of each stage
ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 32)}
STRIDE = 4  # of the features that people are cut out of


class Backbone(nn.Module):
    """Images -> the four stages' features [C1, C2, C3, C4], at strides 4, 8, 16, 32."""

    def __init__(self, config: Model):
        super().__init__()
        block, blocks = ARCHITECTURES[config.backbone]
        body = ResNet(block, blocks, norm_layer=NORMS[config.norm])
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        self.channels = [body.fc.in_features // 2**k for k in (3, 2, 1, 0)]
        if block is Bottleneck:
            for stage in (self.layer2, self.layer3, self.layer4):
                # the original halves in the first 1x1 convolution, where torchvision's weights come from the 3x3
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))]
        for stage in (self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features


class Pyramid(nn.Module):
    """[C1..C4] -> P1; the coarser levels' own convolutions are in published checkpoints, but nothing uses them."""

    def __init__(self, inputs: list[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        self.output[1:].requires_grad_(False)  # they get no gradient, which DistributedDataParallel has to know
        for conv in (*self.lateral, *self.output):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: list[Tensor]) -> Tensor:
        finest: Tensor = self.output[0](self.sums(features)[0])
        return finest

    def levels(self, features: list[Tensor]) -> list[Tensor]:
        """[P1..P4]"""
        return [conv(total) for conv, total in zip(self.output, self.sums(features), strict=True)]

    def sums(self, features: list[Tensor]) -> list[Tensor]:
        """Each level's lateral convolution plus the coarser level's sum, enlarged; the finest first."""
        totals = [self.lateral[-1](features[-1])]
        for conv, feature in zip(reversed(self.lateral[:-1]), reversed(features[:-1]), strict=True):
            size = feature.shape[-2:]
            enlarged = F.interpolate(totals[0], size, mode="bilinear", align_corners=False)
            totals.insert(0, conv(feature) + enlarged)
        return totals
