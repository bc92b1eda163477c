"""SOLOv2 (arXiv 2003.10152): backbone, feature pyramid, mask feature head, category and kernel head."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from common.data.batches import Batch, Prepared, normalise, round_up
from common.data.images import fit_short_side, fit_within, resize, resize_antialiased
from common.results import Instances
from common.run.model import Source
from common.run.prediction_batches import one_or_many, predict_in_groups
from solov2.backbone import Backbone, DeformableConv2d
from solov2.config import Config, Model
from solov2.losses import solov2_losses
from solov2.postprocess import instances_from_answers

DIVISOR = 32  # the coarsest stride: inputs are padded to a multiple of it


class Answers(NamedTuple):
    """What the network says about a batch of images."""

    category_logits: list[Tensor]  # for each level [N, classes, S, S]
    kernels: list[Tensor]  # for each level [N, mask channels, S, S]
    mask_feature: Tensor  # [N, mask channels, H/4, W/4]


class SOLOv2(nn.Module):
    """Segments objects by location: each grid cell names a category and gives a kernel that draws the mask."""

    def __init__(self, config: Config, class_names: Sequence[str], category_ids: Sequence[int] = ()):
        super().__init__()
        self.config, self.class_names = config, tuple(class_names)
        self.category_ids = tuple(category_ids) or tuple(range(1, len(self.class_names) + 1))  # in COCO JSON
        self.backbone = Backbone(config.model)
        self.fpn = FeaturePyramidNetwork(
            self.backbone.channels, config.model.fpn_channels, extra_blocks=LastLevelMaxPool()
        )
        self.mask_feature_head = MaskFeatureHead(config.model)
        self.category_kernel_head = CategoryKernelHead(config.model, len(self.class_names))
        for conv in (m for m in self.fpn.modules() if isinstance(m, nn.Conv2d)):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, images: Tensor) -> Answers:
        """Normalised images [N, 3, H, W], H and W multiples of 32."""
        pyramid = self.pyramid(self.backbone(images))
        category_logits, kernels = self.category_kernel_head(pyramid)
        return Answers(category_logits, kernels, self.mask_feature_head(pyramid[:4]))

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """[C2..C5] -> [P2..P6]"""
        return list(self.fpn({str(level): feature for level, feature in enumerate(features)}).values())

    def preprocess(self, image: NDArray[np.uint8]) -> Prepared:
        """A photograph [H, W, 3] RGB -> network input: scaled as the original does, normalised, padded with 0."""
        original = image.shape[0], image.shape[1]
        scaled = self.scaled(image)
        height, width = scaled.shape[:2]
        pixels = torch.from_numpy(scaled).permute(2, 0, 1)
        padded = F.pad(pixels, (0, round_up(width, DIVISOR) - width, 0, round_up(height, DIVISOR) - height))
        tensor = self.normalise(padded[None], torch.tensor([[height, width]]))[0]
        return Prepared(tensor, original, (height, width))

    def scaled(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A photograph at the size that the network gets it in."""
        test = self.config.test
        fit, scale = (fit_within, resize) if test.resize == "opencv" else (fit_short_side, resize_antialiased)
        return scale(image, *fit(image.shape[0], image.shape[1], test.long_side, test.short_side))

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Bytes [N, 3, H, W] RGB -> network input; beyond each image's size [N, 2] is padding."""
        model = self.config.model
        return normalise(images if model.channels == "rgb" else images.flip(1), sizes, model.mean, model.std)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of a training batch."""
        answers = self(self.normalise(batch.images, batch.sizes))
        return solov2_losses(
            answers.category_logits, answers.kernels, answers.mask_feature, batch.targets, self.config.model
        )

    @one_or_many
    @torch.inference_mode()
    def predict(self, images: Sequence[Source]) -> list[Instances]:
        """Photographs (files or [H, W, 3] RGB arrays) -> their instances."""

        def result(answers: Answers, row: int, prepared: Prepared) -> Instances:
            return instances_from_answers(
                [logits[row] for logits in answers.category_logits],
                [kernels[row] for kernels in answers.kernels],
                answers.mask_feature[row],
                prepared,
                self.config.model.strides,
                self.config.test,
                self.class_names,
            )

        return predict_in_groups(images, self.preprocess, self, result, next(self.parameters()).device)


class MaskFeatureHead(nn.Module):
    """[P2..P5] -> one map at stride 4 that kernels turn into masks (paper, section 3.1)."""

    def __init__(self, config: Model):
        super().__init__()
        deformable = config.deformable if config.deformable_mask_feature else "none"
        inner = config.mask_head_channels

        def level(index: int) -> nn.Sequential:
            inputs = config.fpn_channels + (2 if index == 3 else 0)  # the coarsest level also sees coordinates
            convs = [ConvNorm(inputs if i == 0 else inner, inner, 3, deformable) for i in range(max(index, 1))]
            return nn.Sequential(*convs)

        self.levels = nn.ModuleList(level(index) for index in range(4))
        self.project = ConvNorm(inner, config.mask_channels, 1, deformable)
        self.waves = config.waves
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # deformable weights keep their own initialisation, as in the original
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        total = self.levels[0](pyramid[0])
        for index in (1, 2, 3):
            features = with_coordinates(pyramid[index]) if index == 3 else pyramid[index]
            for conv in self.levels[index].children():
                features = resize_to(conv(features), (2 * features.shape[2], 2 * features.shape[3]))
            total = total + features
        return with_waves(self.project(total), self.waves)


class CategoryKernelHead(nn.Module):
    """[P2..P6], each resized to a grid -> category logits and mask kernels for every cell."""

    def __init__(self, config: Model, classes: int):
        super().__init__()
        self.grids, self.waves = config.grids, config.waves
        self.category_tower = self._tower(config, config.fpn_channels)
        self.kernel_tower = self._tower(config, config.fpn_channels + 2 + 4 * config.waves)
        self.category = nn.Conv2d(config.tower_channels, classes, 3, padding=1)
        self.kernel = nn.Conv2d(config.tower_channels, config.mask_channels + 4 * config.waves, 3, padding=1)
        towers = (*self.category_tower, *self.kernel_tower)
        for conv in (*(unit.conv for unit in towers), self.category, self.kernel):
            nn.init.normal_(conv.weight, std=0.01)
        # a cell starts with a probability of 0.01 for each category (arXiv 1708.02002, section 4.1)
        nn.init.constant_(self.category.bias, -float(np.log(99.0)))  # type: ignore[arg-type]
        nn.init.zeros_(self.kernel.bias)  # type: ignore[arg-type]

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        p2, p3, p4, p5, p6 = pyramid
        halved = resize_to(p2, (p2.shape[2] // 2, p2.shape[3] // 2))  # from stride 4 to 8, P6 below from 64 to 32
        levels = [halved, p3, p4, p5, resize_to(p6, (p5.shape[2], p5.shape[3]))]
        category_logits, kernels = [], []
        for features, grid in zip(levels, self.grids, strict=True):
            # resized after the coordinates are appended: on the grid they no longer reach exactly -1 and 1
            cells = resize_to(with_coordinates(features), (grid, grid))
            category_logits.append(self.category(self.category_tower(cells[:, :-2])))
            kernels.append(self.kernel(self.kernel_tower(with_waves(cells, self.waves))))
        return category_logits, kernels

    @staticmethod
    def _tower(config: Model, inputs: int) -> nn.Sequential:
        width, depth = config.tower_channels, config.tower_depth
        deformable = {"none": 0, "last": 1, "all": depth}[config.deformable_towers]  # so many of the last ones
        kinds = ["none"] * (depth - deformable) + [config.deformable] * deformable
        return nn.Sequential(*(ConvNorm(inputs if i == 0 else width, width, 3, kind) for i, kind in enumerate(kinds)))


class ConvNorm(nn.Module):
    """Convolution (plain or deformable), group norm over 32 groups, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int, deformable: str):
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        if deformable != "none":
            self.conv = DeformableConv2d(self.conv, deformable == "v2")
        self.norm = nn.GroupNorm(32, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(features)))


def with_coordinates(features: Tensor) -> Tensor:
    """Append each pixel's x and y, from -1 to 1 including both ends. [N, C, H, W] -> [N, C + 2, H, W]"""
    count, _, height, width = features.shape
    x, y = minus_one_to_one(width, features), minus_one_to_one(height, features)
    planes = torch.stack((x.expand(height, width), y[:, None].expand(height, width)))
    return torch.cat((features, planes.expand(count, -1, -1, -1)), dim=1)


def with_waves(features: Tensor, count: int) -> Tensor:
    """Append where each pixel is as waves, sines and cosines of x and y: the first is as long as the side, each next
    half as long as the one before. [N, C, H, W] -> [N, C + 4 count, H, W]

    By these a linear kernel tells an object from its like nearby, which x and y alone teach it slowly.
    """
    if not count:
        return features
    images, _, height, width = features.shape
    turns = 2 * math.pi * 2.0 ** torch.arange(count, device=features.device)[:, None]  # along a side
    angles = [turns * (torch.arange(side, device=features.device) + 0.5) / side for side in (width, height)]
    across, down = (torch.cat((angle.sin(), angle.cos())) for angle in angles)  # [2 count, W], [2 count, H]
    planes = torch.cat((across[:, None].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)))
    return torch.cat((features, planes.to(features.dtype).expand(images, -1, -1, -1)), dim=1)


def minus_one_to_one(count: int, like: Tensor) -> Tensor:
    """torch.linspace(-1, 1, count), from both ends as there; that one would fix `count` in an exported graph."""
    place = torch.arange(count, device=like.device, dtype=like.dtype)
    step = 2 / place[-1:].clamp(min=1)
    return torch.where(place <= place.flip(0), place * step - 1, 1 - place.flip(0) * step)


def resize_to(features: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(features, size, mode="bilinear", align_corners=False)
