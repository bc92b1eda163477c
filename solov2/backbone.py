"""The backbone: torchvision's residual networks, with frozen or group normalisation and deformable convolutions."""

import torch
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
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            body.layer1,
            body.layer2,
            body.layer3,
            body.layer4,
        )
        self.channels = [body.fc.in_features // 2**k for k in (3, 2, 1, 0)]
        if config.deformable != "none":
            for stage in (self.layer2, self.layer3, self.layer4):
                for residual in stage:
                    residual.conv2 = DeformableConv2d.like(residual.conv2, config.deformable == "v2")
        self._freeze(config.frozen_stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))]
        for stage in (self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features

    def _freeze(self, stages: int) -> None:
        if stages < 0:
            return
        for module in [self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4][: 2 + stages]:
            module.requires_grad_(False)


class FrozenStatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics and never updates them; weight and bias may still be trained."""

    def train(self, mode: bool = True) -> "FrozenStatisticsBatchNorm":
        super().train(False)
        return self


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class DeformableConv2d(nn.Module):
    """A convolution that samples at learned offsets (v1), and weighs the samples too (v2: arXiv 1811.11168)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        padding: int,
        groups: int,
        bias: bool,
        modulated: bool,
    ):
        super().__init__()
        plain = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=bias)
        self.weight, self.bias = plain.weight, plain.bias
        self.stride, self.padding, self.modulated = stride, padding, modulated
        taps = size * size
        self.offset = nn.Conv2d(inputs, (3 if modulated else 2) * taps, size, stride, padding)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    @classmethod
    def like(cls, conv: nn.Conv2d, modulated: bool) -> "DeformableConv2d":
        """A deformable convolution of the same shape as a plain one."""
        size, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
        bias = conv.bias is not None
        return cls(conv.in_channels, conv.out_channels, size, stride, padding, conv.groups, bias, modulated)

    def forward(self, features: Tensor) -> Tensor:
        offset, mask = self.offset(features), None
        if self.modulated:
            vertical, horizontal, mask_logits = offset.chunk(3, dim=1)
            offset, mask = torch.cat((vertical, horizontal), dim=1), mask_logits.sigmoid()
        digits = self.weight.dtype  # all of them: offsets are coordinates
        with full_precision(features.device):
            sampled: Tensor = deform_conv2d(
                features.to(digits),
                offset.to(digits),
                self.weight,
                self.bias,
                self.stride,
                self.padding,
                mask=None if mask is None else mask.to(digits),
            )
        return sampled.to(features.dtype)
