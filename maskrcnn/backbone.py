"""The backbone: torchvision's residual networks, with frozen, fixed-statistics or group normalisation."""

from functools import partial

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn.config import Model

# block, blocks of each stage, groups, width of a group
ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int, int]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1], 1, 64),
    "resnet18": (BasicBlock, [2, 2, 2, 2], 1, 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1, 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 1, 64),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], 32, 8),
}


def residual_network(config: Model) -> ResNet:
    """torchvision's network with this configuration's normalisation and strides."""
    block, blocks, groups, width = ARCHITECTURES[config.backbone]
    norms = {
        "frozen_batch": partial(FrozenBatchNorm2d, eps=config.norm_eps),
        "batch": partial(FixedStatisticsBatchNorm, eps=config.norm_eps),
        "group": group_norm,
    }
    body = ResNet(block, blocks, groups=groups, width_per_group=width, norm_layer=norms[config.norm])
    if config.stride_in_1x1:
        for stage in (body.layer2, body.layer3, body.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
    return body


class Backbone(nn.Module):
    """Images -> the stages' features [C2, C3, C4, C5] at strides 4 to 32; where it ends at C4, only [C4]."""

    def __init__(self, body: ResNet, frozen_stages: int, ends_at_c4: bool):
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3 = body.layer1, body.layer2, body.layer3
        self.layer4 = None if ends_at_c4 else body.layer4
        channels = body.fc.in_features
        self.channels = [channels // 2] if ends_at_c4 else [channels // 8, channels // 4, channels // 2, channels]
        if frozen_stages >= 0:
            for module in [self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, body.layer4][
                : 2 + frozen_stages
            ]:
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))]
        features.append(self.layer2(features[-1]))
        features.append(self.layer3(features[-1]))
        return features[-1:] if self.layer4 is None else [*features, self.layer4(features[-1])]


class FixedStatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics and never updates them; weight and bias may still be trained."""

    def train(self, mode: bool = True) -> "FixedStatisticsBatchNorm":
        super().train(False)
        return self


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)
