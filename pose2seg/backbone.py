"""The backbone: torchvision's residual networks, which halve where the original does."""

from collections.abc import Callable
from functools import partial

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
