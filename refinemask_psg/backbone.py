"""The backbones: torchvision's residual networks, frozen, group-normed or deformable, and Swins (swin.py)."""

from functools import partial

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from common.ops.guarded_sampling import deform_conv2d
from common.ops.precision import full_precision
from refinemask_psg.config import Model
from refinemask_psg.swin import DEPTHS, SMALL_DEPTHS, CompositeSwin, Swin

# block, blocks of each stage, groups, width of a group
ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int, int]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1], 1, 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1, 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 1, 64),
    "resnext101_32x4d": (Bottleneck, [3, 4, 23, 3], 32, 4),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], 32, 8),
    "resnext101_64x4d": (Bottleneck, [3, 4, 23, 3], 64, 4),
}


def make_backbone(model: Model) -> "ResNetBackbone | Swin | CompositeSwin":
    if not model.backbone.startswith("swin"):
        return ResNetBackbone(model)
    if model.composite:
        return CompositeSwin(model.drop_path, model.checkpoint_backbone, model.absolute_positions)
    depths = SMALL_DEPTHS if model.backbone == "swin_small" else DEPTHS
    return Swin(model.drop_path, model.checkpoint_backbone, True, model.absolute_positions, depths)


class ResNetBackbone(nn.Module):
    """Images -> the four stages' features [C2, C3, C4, C5], at strides 4, 8, 16, 32."""

    def __init__(self, config: Model):
        super().__init__()
        block, blocks, groups, width = ARCHITECTURES[config.backbone]
        norm = FrozenStatisticsBatchNorm if config.norm == "frozen_batch" else partial(nn.GroupNorm, 32)
        body = ResNet(block, blocks, groups=groups, width_per_group=width, norm_layer=norm)
        if config.stride_in_1x1:
            for stage in (body.layer2, body.layer3, body.layer4):
                stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
        if config.deformable != "none":
            for unit in (*body.layer2, *body.layer3, *body.layer4):
                unit.conv2 = DeformableConv2d(unit.conv2, config.deformable == "v2")
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


class DeformableConv2d(nn.Module):
    """A 3x3 convolution that samples at learned offsets (arXiv 1703.06211); v2 weighs the samples (1811.11168)."""

    def __init__(self, plain: nn.Conv2d, modulated: bool):
        super().__init__()
        self.weight, self.stride, self.modulated = plain.weight, plain.stride[0], modulated
        self.bias: nn.Parameter | None = None  # a folded norm's
        self.offset = nn.Conv2d(plain.in_channels, 27 if modulated else 18, 3, self.stride, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        offset, digits = self.offset(features), self.weight.dtype  # all digits: offsets are coordinates
        mask = offset[:, 18:].sigmoid().to(digits) if self.modulated else None
        with full_precision(features.device):
            sampled: Tensor = deform_conv2d(
                features.to(digits), offset[:, :18].to(digits), self.weight, self.bias, self.stride, 1, mask
            )
        return sampled.to(features.dtype)
