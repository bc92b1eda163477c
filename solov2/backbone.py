"""The backbone: torchvision's residual networks, with frozen or group normalisation and deformable convolutions."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from common.ops.guarded_sampling import deform_conv2d
from common.ops.precision import full_precision
from solov2.config import Model

# block, blocks of each stage, groups, width of a group
ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int, int]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1], 1, 64),
    "resnet18": (BasicBlock, [2, 2, 2, 2], 1, 64),
    "resnet34": (BasicBlock, [3, 4, 6, 3], 1, 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1, 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 1, 64),
    "resnext101_64x4d": (Bottleneck, [3, 4, 23, 3], 64, 4),
}


class Backbone(nn.Module):
    """Images -> the four stages' features [C2, C3, C4, C5], at strides 4, 8, 16, 32."""

    def __init__(self, config: Model):
        super().__init__()
        block, blocks, groups, width = ARCHITECTURES[config.backbone]
        norm = FrozenStatisticsBatchNorm if config.norm == "frozen_batch" else group_norm
        body = ResNet(block, blocks, groups=groups, width_per_group=width, norm_layer=norm)
        if config.stride_in_1x1:
            for stage in (body.layer2, body.layer3, body.layer4):
                stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        self.channels = [body.fc.in_features // 2**k for k in (3, 2, 1, 0)]
        if config.deformable != "none":
            for stage in (self.layer2, self.layer3, self.layer4):
                for residual in stage:
                    residual.conv2 = DeformableConv2d(residual.conv2, config.deformable == "v2")
        if config.frozen_stages >= 0:
            stages = [self.layer1, self.layer2, self.layer3, self.layer4]
            for module in [self.conv1, self.bn1, *stages][: 2 + config.frozen_stages]:
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))]
        for stage in (self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features


class FrozenStatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics and never updates them; weight and bias may still be trained."""

    def train(self, mode: bool = True) -> "FrozenStatisticsBatchNorm":
        super().train(False)
        return self


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class DeformableConv2d(nn.Module):
    """A convolution that samples at learned offsets (v1), and weighs the samples too (v2: arXiv 1811.11168)."""

    def __init__(self, like: nn.Conv2d, modulated: bool):
        """Of the shape of a plain one."""
        super().__init__()
        inputs, size, bias = like.in_channels, like.kernel_size[0], like.bias is not None
        self.stride, self.padding, self.modulated, self.taps = like.stride[0], int(like.padding[0]), modulated, size**2
        plain = nn.Conv2d(inputs, like.out_channels, size, self.stride, self.padding, groups=like.groups, bias=bias)
        self.weight, self.bias = plain.weight, plain.bias
        self.offset = nn.Conv2d(inputs, (3 if modulated else 2) * self.taps, size, self.stride, self.padding)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        offset, mask = self.offset(features), None
        digits = self.weight.dtype  # all of them: offsets are coordinates
        if self.modulated:
            offset, mask_logits = offset.split((2 * self.taps, self.taps), dim=1)  # dy, dx of each tap; its weight
            mask = mask_logits.sigmoid().to(digits)
        inputs, offset = features.to(digits), offset.to(digits)
        with full_precision(features.device):
            sampled: Tensor = deform_conv2d(inputs, offset, self.weight, self.bias, self.stride, self.padding, mask)
        return sampled.to(features.dtype)
