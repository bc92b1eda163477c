"""torchvision's residual networks as backbones, with frozen or group normalisation."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from refinemask_psg.config import Model

# block, blocks of each stage
ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}


class ResNetBackbone(nn.Module):
    """Images -> the four stages' features [C2, C3, C4, C5], at strides 4, 8, 16, 32."""

    def __init__(self, config: Model):
        super().__init__()
        block, blocks = ARCHITECTURES[config.backbone]
        norm = FrozenStatisticsBatchNorm if config.norm == "frozen_batch" else group_norm
        body = ResNet(block, blocks, norm_layer=norm)
        if config.stride_in_1x1:
            for stage in (body.layer2, body.layer3, body.layer4):
                stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        self.channels = [body.fc.in_features // 2**k for k in (3, 2, 1, 0)]
        if config.frozen_stages >= 0:
            for module in [self.conv1, self.bn1, *self.stages()][: 2 + config.frozen_stages]:
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[list[Tensor]]:
        """Normalised images [N, 3, H, W] -> one list of features."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        outputs = []
        for stage in self.stages():
            features = stage(features)
            outputs.append(features)
        return [outputs]

    def stages(self) -> list[nn.Module]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]


class FrozenStatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics and never updates them; weight and bias may still be trained."""

    def train(self, mode: bool = True) -> "FrozenStatisticsBatchNorm":
        super().train(False)
        return self


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)
