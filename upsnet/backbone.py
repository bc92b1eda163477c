"""The backbones: Caffe's residual networks (perhaps deformable) and EfficientNet-B0, on torchvision's layers."""

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import efficientnet_b0
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from common.ops.guarded_sampling import deform_conv2d
from common.ops.precision import full_precision
from upsnet.config import Model

ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {  # block, blocks of each stage
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}
EFFICIENTNET_STAGES = ((0, 1, 2), (3,), (4, 5), (6, 7))  # torchvision's modules for strides 4, 8, 16, 32
EFFICIENTNET_CHANNELS = [24, 40, 112, 320]


def make_backbone(config: Model) -> "ResidualBackbone | EfficientNetBackbone":
    """Images -> features at strides 4, 8, 16, 32."""
    if config.backbone == "efficientnet_b0":
        return EfficientNetBackbone(config)
    return ResidualBackbone(config)


class ResidualBackbone(nn.Module):
    """A residual network whose stages, as Caffe's, halve the resolution in their first 1x1 convolution."""

    def __init__(self, config: Model):
        super().__init__()
        block, blocks = ARCHITECTURES[config.backbone]
        body = ResNet(block, blocks, norm_layer=_norm(config))
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        self.channels = [body.fc.in_features // 2**k for k in (3, 2, 1, 0)]
        for stage in (self.layer2, self.layer3, self.layer4):
            if block is Bottleneck:
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
            if config.deformable:
                for residual in stage:
                    residual.conv2 = DeformableConv2d.like(residual.conv2)
        _freeze([self.conv1, self.bn1], [self.layer1, self.layer2, self.layer3, self.layer4], config.frozen_stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))]
        for stage in (self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features


class EfficientNetBackbone(nn.Module):
    """EfficientNet-B0 (arXiv 1905.11946) up to its last stage, without stochastic depth."""

    def __init__(self, config: Model):
        super().__init__()
        body = efficientnet_b0(norm_layer=_norm(config), stochastic_depth_prob=0.0)
        self.features = body.features[:8]
        self.channels = EFFICIENTNET_CHANNELS
        if config.tensorflow_padding:
            _pad_as_tensorflow(self.features)
        stages = [nn.ModuleList(self.features[index] for index in stage) for stage in EFFICIENTNET_STAGES]
        _freeze([self.features[0]], stages, config.frozen_stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        levels, features = [], images
        for stage in EFFICIENTNET_STAGES:
            for index in stage:
                features = self.features[index](features)
            levels.append(features)
        return levels


class FrozenStatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics and never updates them; nor are its weight and bias trained."""

    def __init__(self, channels: int, eps: float):
        super().__init__(channels, eps)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenStatisticsBatchNorm":
        super().train(False)
        return self


class DeformableConv2d(nn.Module):
    """A convolution that samples at learned offsets (arXiv 1703.06211), which are zero at first."""

    def __init__(self, inputs: int, outputs: int, bias: bool, stride: int = 1):
        super().__init__()
        plain = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
        self.weight, self.bias, self.stride = plain.weight, plain.bias, stride
        self.offset = nn.Conv2d(inputs, 18, 3, stride, padding=1)  # nine taps, each dy and dx
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @classmethod
    def like(cls, conv: nn.Conv2d) -> "DeformableConv2d":
        """A deformable convolution of the same shape as a plain one."""
        return cls(conv.in_channels, conv.out_channels, conv.bias is not None, conv.stride[0])

    def forward(self, features: Tensor) -> Tensor:
        inputs, offset = (each.to(self.weight.dtype) for each in (features, self.offset(features)))
        with full_precision(features.device):  # offsets are coordinates
            sampled: Tensor = deform_conv2d(inputs, offset, self.weight, self.bias, self.stride, padding=1)
        return sampled.to(features.dtype)


class TensorFlowConv2d(nn.Conv2d):
    """A strided convolution whose padding, where it is odd, is larger at the right and the bottom."""

    @classmethod
    def like(cls, conv: nn.Conv2d) -> "TensorFlowConv2d":
        size, stride = conv.kernel_size[0], conv.stride[0]
        return cls(conv.in_channels, conv.out_channels, size, stride, groups=conv.groups, bias=conv.bias is not None)

    def forward(self, features: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        missing = [max((-(-length // stride) - 1) * stride + size - length, 0) for length in features.shape[2:]]
        (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in missing)
        return super().forward(F.pad(features, (left, right, top, bottom)))


def _pad_as_tensorflow(features: nn.Module) -> None:
    for module in list(features.modules()):
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d) and conv.stride[0] > 1:
                setattr(module, name, TensorFlowConv2d.like(conv))


def _norm(config: Model) -> Callable[[int], nn.Module]:
    if config.norm == "group":
        return group_norm
    return partial(FrozenStatisticsBatchNorm, eps=config.batch_norm_eps)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // 8 if channels % 32 else 32, channels)


def _freeze(stem: Sequence[nn.Module], stages: Sequence[nn.Module], count: int) -> None:
    if count < 0:
        return
    for module in [*stem, *stages[:count]]:
        module.requires_grad_(False)
