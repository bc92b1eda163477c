"""The backbone: torchvision's residual networks, also deformable, dilated, and with any normalisation."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from common.errors import UserError
from common.ops.guarded_sampling import deform_conv2d
from common.ops.precision import full_precision
from maskrcnn.config import Model, Neck

# block, blocks of each stage, groups, width of a group
ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int, int]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1], 1, 64),
    "resnet18": (BasicBlock, [2, 2, 2, 2], 1, 64),
    "resnet34": (BasicBlock, [3, 4, 6, 3], 1, 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1, 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 1, 64),
    "resnet152": (Bottleneck, [3, 8, 36, 3], 1, 64),
    "resnext50_32x4d": (Bottleneck, [3, 4, 6, 3], 32, 4),
    "resnext101_32x4d": (Bottleneck, [3, 4, 23, 3], 32, 4),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], 32, 8),
    "resnext101_64x4d": (Bottleneck, [3, 4, 23, 3], 64, 4),
}


def residual_network(config: Model) -> ResNet:
    """torchvision's network with this configuration's normalisation, strides and convolutions."""
    block, blocks, groups, width = ARCHITECTURES[config.backbone]
    body = ResNet(block, blocks, groups=groups, width_per_group=width, norm_layer=norm_of(config.norm, config.norm_eps))
    for stage in (body.layer2, body.layer3, body.layer4):
        if config.stride_in_1x1 and block is Bottleneck:
            stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
        if config.deformable != "none":
            for unit in stage:
                unit.conv2 = DeformableConv2d(unit.conv2, config.deformable == "modulated", config.deformable_groups)
    if config.neck == "dc5" and (block is BasicBlock or config.deformable != "none"):
        raise UserError("model.neck: dc5 takes a backbone of bottlenecks (resnet50 and larger) that is not deformable")
    if config.neck == "dc5":  # C5 stays at stride 16, and sees as much
        for unit in body.layer4:
            unit.conv2.dilation = unit.conv2.padding = (2, 2)
        for conv in (body.layer4[0].conv1, body.layer4[0].conv2, body.layer4[0].downsample[0]):
            conv.stride = (1, 1)
    return body


def norm_of(kind: str, eps: float = 1e-5) -> Callable[[int], nn.Module] | None:
    """Channels -> a layer of this kind; None for "none"."""
    norms: dict[str, Callable[[int], nn.Module] | None] = {
        "frozen_batch": partial(FrozenBatchNorm2d, eps=eps),
        "batch": partial(FixedStatisticsBatchNorm, eps=eps),
        "live_batch": partial(nn.BatchNorm2d, eps=eps),
        "group": group_norm,
        "none": None,
    }
    return norms[kind]


class Backbone(nn.Module):
    """Images -> the stages' features [C2, C3, C4, C5] at strides 4 to 32; without a pyramid the last, at 16, only."""

    def __init__(self, body: ResNet, frozen_stages: int, neck: Neck):
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3 = body.layer1, body.layer2, body.layer3
        self.layer4 = None if neck == "c4" else body.layer4
        channels, self.only_last = body.fc.in_features, neck != "fpn"
        of_stages = [channels // 8, channels // 4, channels // 2, channels][: 3 if neck == "c4" else 4]
        self.channels = of_stages[-1:] if self.only_last else of_stages
        if frozen_stages >= 0:
            for module in [self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, body.layer4][
                : 2 + frozen_stages
            ]:
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))]
        features.append(self.layer2(features[-1]))
        features.append(self.layer3(features[-1]))
        if self.layer4 is not None:
            features.append(self.layer4(features[-1]))
        return features[-1:] if self.only_last else features


class FixedStatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics and never updates them; weight and bias may still be trained."""

    def train(self, mode: bool = True) -> "FixedStatisticsBatchNorm":
        super().train(False)
        return self


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class DeformableConv2d(nn.Module):
    """A convolution that samples at learned offsets (arXiv 1703.06211); modulated, it weighs them too (1811.11168)."""

    def __init__(self, plain: nn.Conv2d, modulated: bool, groups: int):
        """Of the shape of a plain one; each of the `groups` of channels has offsets of its own."""
        super().__init__()
        self.weight, self.modulated = plain.weight, modulated
        self.bias: nn.Parameter | None = None  # a folded norm's
        self.stride, self.taps = plain.stride[0], groups * 9
        self.offset = nn.Conv2d(plain.in_channels, self.taps * (3 if modulated else 2), 3, self.stride, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        offset, mask = self.offset(features), None
        digits = self.weight.dtype  # all of them: offsets are coordinates
        if self.modulated:
            offset, mask_logits = offset.split((2 * self.taps, self.taps), dim=1)  # dy, dx of each tap; its weight
            mask = mask_logits.sigmoid().to(digits)
        with full_precision(features.device):
            sampled: Tensor = deform_conv2d(
                features.to(digits), offset.to(digits), self.weight, self.bias, self.stride, 1, mask
            )
        return sampled.to(features.dtype)
