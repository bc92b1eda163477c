"""The backbones: torchvision's residual networks, with deformable convolutions in YOLACT++, and Darknet-53."""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from common.ops.guarded_sampling import deform_conv2d
from common.ops.precision import full_precision
from yolact.config import Model

# block, blocks of each stage
RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}
DARKNET_BLOCKS = (1, 2, 8, 8, 4)


def make_backbone(config: Model) -> "Residual | Darknet53":
    return Darknet53() if config.backbone == "darknet53" else Residual(config)


class Residual(nn.Module):
    """Images -> the four stages' features [C2, C3, C4, C5], at strides 4, 8, 16, 32."""

    def __init__(self, config: Model):
        super().__init__()
        block, blocks = RESNETS[config.backbone]
        body = ResNet(block, blocks, norm_layer=nn.BatchNorm2d if config.norm == "batch" else group_norm)
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        self.channels = [body.fc.in_features // 2**k for k in (3, 2, 1, 0)]
        if config.deformable_interval:
            for stage in (self.layer2, self.layer3, self.layer4):
                for residual in list(stage.children())[:: config.deformable_interval]:
                    plain = residual.conv2
                    residual.conv2 = DeformableConv2d(plain.in_channels, plain.out_channels, plain.stride[0])

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))]
        for stage in (self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features


class Darknet53(nn.Module):
    """Images -> the five stages' features [C1, ..., C5], at strides 2, 4, ..., 32 (YOLOv3, arXiv 1804.02767)."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = [64, 128, 256, 512, 1024]
        self.stem = convolution_unit(3, 32, 3)
        self.stages = nn.ModuleList(
            nn.Sequential(
                convolution_unit(channels // 2, channels, 3, stride=2),
                *(DarknetBlock(channels) for _ in range(blocks)),
            )
            for channels, blocks in zip(self.channels, DARKNET_BLOCKS, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[1:]


class DarknetBlock(nn.Module):
    """Halve the channels, restore them, add the input; nothing after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = convolution_unit(channels, channels // 2, 1)
        self.conv2 = convolution_unit(channels // 2, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = features + self.conv2(self.conv1(features))
        return added


def convolution_unit(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class DeformableConv2d(nn.Module):
    """A 3x3 convolution that samples at learned offsets and weighs the samples (DCNv2, arXiv 1811.11168)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        plain = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.weight, self.bias, self.stride = plain.weight, nn.Parameter(torch.zeros(outputs)), stride
        self.offset = nn.Conv2d(inputs, 27, 3, stride, padding=1)  # for each tap dy and dx, then the taps' weights
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        offsets, modulation = self.offset(features).split((18, 9), dim=1)
        inputs, offsets, mask = (each.to(self.weight.dtype) for each in (features, offsets, modulation.sigmoid()))
        with full_precision(features.device):  # offsets are coordinates
            sampled: Tensor = deform_conv2d(inputs, offsets, self.weight, self.bias, self.stride, padding=1, mask=mask)
        return sampled.to(features.dtype)


def freeze_batch_norms(module: nn.Module) -> None:
    """Let batch norms use their running statistics as they are, and train none of their weights."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval().requires_grad_(False)
