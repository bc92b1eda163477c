"""YOLACT (arXiv 1904.02689): backbone, feature pyramid, protonet, prediction head; YOLACT++ (1912.06218): mask IoU."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.batches import Batch, Prepared, normalise
from common.data.images import resize
from common.errors import UserError
from common.results import Instances
from common.run.model import Source
from common.run.prediction_batches import one_or_many, predict_in_groups
from yolact.backbone import freeze_batch_norms, make_backbone
from yolact.boxes import level_sizes, make_priors, priors_per_cell
from yolact.config import Config, Model
from yolact.losses import yolact_losses
from yolact.postprocess import instances_from_answers

SMALLEST_RATED_MASK = 63  # pixels a side that the mask IoU network's five strides of two need
DIVISOR = 1  # every input is stretched to the network's own size: there is nothing to pad


class Answers(NamedTuple):
    """What the network says about a batch of images; priors in the order of `make_priors`."""

    class_logits: Tensor  # [N, priors, 1 + classes], the background first
    deltas: Tensor  # [N, priors, 4] of the boxes, relative to the priors
    coefficients: Tensor  # [N, priors, K] in -1..1
    prototypes: Tensor  # [N, h, w, K] not negative
    semantic_logits: Tensor | None  # [N, classes, h, w] while training


class YOLACT(nn.Module):
    """Segments in real time: prototype masks for the whole image, and coefficients that combine them for each box."""

    def __init__(self, config: Config, class_names: Sequence[str], category_ids: Sequence[int] = ()):
        super().__init__()
        self.config, self.class_names = config, tuple(class_names)
        self.category_ids = tuple(category_ids) or tuple(range(1, len(self.class_names) + 1))  # in COCO JSON
        model, classes = config.model, len(self.class_names)
        if model.mask_iou and 2 * level_sizes(model.input_size)[0] < SMALLEST_RATED_MASK:
            raise UserError(
                f"--model.input-size {model.input_size}: too small for --model.mask-iou, whose network needs "
                f"prototypes of {SMALLEST_RATED_MASK} pixels a side; 256 is enough"
            )
        self.backbone = make_backbone(model)
        self.fpn = FeaturePyramid(self.backbone.channels[-3:], model)
        self.protonet = Protonet(model)
        self.head = PredictionHead(model, classes)
        self.semantic = nn.Conv2d(model.channels, classes, 1)
        self.mask_iou = MaskIoU(classes) if model.mask_iou else None
        for name, conv in self.named_modules():
            if isinstance(conv, nn.Conv2d) and not name.startswith("backbone."):
                nn.init.xavier_uniform_(conv.weight)
                assert conv.bias is not None
                nn.init.zeros_(conv.bias)
        self.priors: Tensor
        self.register_buffer("priors", make_priors(model), persistent=False)
        self.batch_norms_frozen = False

    def forward(self, images: Tensor) -> Answers:
        """Normalised images [N, 3, S, S], S the configured input size."""
        pyramid: list[Tensor] = self.fpn(self.backbone(images))
        sides = [(level.shape[2], level.shape[3]) for level in pyramid]
        assert sides == [(side, side) for side in level_sizes(self.config.model.input_size)], sides  # as the priors'
        class_logits, deltas, coefficients = self.head(pyramid)
        semantic_logits = self.semantic(pyramid[0]) if self.training else None
        return Answers(class_logits, deltas, coefficients, self.protonet(pyramid[0]), semantic_logits)

    def preprocess(self, image: NDArray[np.uint8]) -> Prepared:
        """A photograph [H, W, 3] RGB -> network input: stretched to a square as the original does, and normalised."""
        size = self.config.model.input_size
        if self.config.test.resize == "bytes":
            pixels = torch.from_numpy(resize(image, size, size)).permute(2, 0, 1)[None].float()
        else:
            pixels = stretched(torch.from_numpy(np.ascontiguousarray(image)), size)
        return Prepared(self.normalised(pixels)[0], (image.shape[0], image.shape[1]), (size, size))

    def normalised(self, squares: Tensor) -> Tensor:
        """[N, 3, S, S] RGB values"""
        sizes = torch.tensor([squares.shape[2:]], device=squares.device).expand(len(squares), 2)
        return normalise(squares, sizes, self.config.model.mean, self.config.model.std)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of a training batch."""
        answers = self(self.normalised(batch.images).contiguous(memory_format=torch.channels_last))
        return yolact_losses(answers, batch.targets, self.priors, self.mask_iou, self.config.losses)

    @one_or_many
    @torch.inference_mode()
    def predict(self, images: Sequence[Source]) -> list[Instances]:
        """Photographs (files or [H, W, 3] RGB arrays) -> their instances."""
        return predict_in_groups(images, self.preprocess, self, self.instances, self.priors.device)

    def instances(self, answers: Answers, row: int, prepared: Prepared) -> Instances:
        """What the answers for one image of a batch amount to in its photograph."""
        return instances_from_answers(
            answers.class_logits[row],
            answers.deltas[row],
            answers.coefficients[row],
            answers.prototypes[row],
            self.priors,
            self.mask_iou,
            prepared.original_size,
            self.config,
            self.class_names,
        )

    def freeze_batch_norms(self) -> None:
        """For training on few images at once: batch norms keep their statistics and weights from now on."""
        self.batch_norms_frozen = True
        freeze_batch_norms(self)

    def train(self, mode: bool = True) -> "YOLACT":
        super().train(mode)
        if self.batch_norms_frozen:
            freeze_batch_norms(self)
        return self


class FeaturePyramid(nn.Module):
    """[..., C3, C4, C5] -> [P3 .. P7], strides 8 to 128; upsampled bilinearly: sizes need not be multiples of two."""

    def __init__(self, inputs: list[int], config: Model):
        super().__init__()
        channels = config.channels
        self.rectified, self.coarse_levels_from = config.rectified_pyramid, config.coarse_levels_from
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        coarse = inputs[-1] if self.coarse_levels_from == "c5" else channels
        self.downsample = nn.ModuleList(
            nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in (coarse, channels)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        c3, c4, c5 = features[-3:]
        lateral5 = self.lateral[2](c5)
        lateral4 = self.lateral[1](c4) + resize_to(lateral5, c4)
        lateral3 = self.lateral[0](c3) + resize_to(lateral4, c3)
        merged = (lateral3, lateral4, lateral5)
        levels = [conv(lateral) for conv, lateral in zip(self.output, merged, strict=True)]
        if self.rectified:
            levels = [F.relu(level, inplace=True) for level in levels]
        p6 = self.downsample[0](c5 if self.coarse_levels_from == "c5" else levels[-1])
        return [*levels, p6, self.downsample[1](p6)]  # the coarse levels are not rectified


class Protonet(nn.Module):
    """P3 -> prototype masks at twice its size, channels last (paper, section 3.1)."""

    def __init__(self, config: Model):
        super().__init__()
        channels = config.channels
        self.coarse = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.fine = nn.Conv2d(channels, channels, 3, padding=1)
        self.prototypes = nn.Conv2d(channels, config.prototypes, 1)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.coarse:
            features = F.relu(conv(features), inplace=True)
        features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
        features = F.relu(self.fine(features), inplace=True)
        return F.relu(self.prototypes(features), inplace=True).permute(0, 2, 3, 1)


class PredictionHead(nn.Module):
    """P3 to P7 -> class logits, box deltas and mask coefficients of all priors, by the same weights."""

    def __init__(self, config: Model, classes: int):
        super().__init__()
        channels = config.channels
        priors = priors_per_cell(config)
        self.classes, self.count = classes, config.prototypes
        self.shared = nn.Conv2d(channels, channels, 3, padding=1)
        self.class_logits = nn.Conv2d(channels, priors * (classes + 1), 3, padding=1)
        self.deltas = nn.Conv2d(channels, priors * 4, 3, padding=1)
        self.coefficients = nn.Conv2d(channels, priors * config.prototypes, 3, padding=1)

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        shared = [F.relu(self.shared(level), inplace=True) for level in pyramid]
        class_logits = [by_prior(self.class_logits(level), self.classes + 1) for level in shared]
        deltas = [by_prior(self.deltas(level), 4) for level in shared]
        coefficients = [by_prior(self.coefficients(level), self.count) for level in shared]
        return torch.cat(class_logits, dim=1), torch.cat(deltas, dim=1), torch.cat(coefficients, dim=1).tanh()


class MaskIoU(nn.Module):
    """Soft masks [n, 1, h, w] -> the IoU that each class would have [n, classes] (YOLACT++, section 6.2)."""

    def __init__(self, classes: int):
        super().__init__()
        widths = (1, 8, 16, 32, 64, 128)
        convs = [nn.Conv2d(inputs, outputs, 3, stride=2) for inputs, outputs in pairwise(widths)]
        self.convs = nn.ModuleList([*convs, nn.Conv2d(widths[-1], classes, 1)])

    def forward(self, masks: Tensor) -> Tensor:
        for conv in self.convs:
            masks = F.relu(conv(masks), inplace=True)
        return masks.amax(dim=(2, 3))


def stretched(image: Tensor, size: int) -> Tensor:
    """[H, W, 3] bytes -> [1, 3, size, size] float, bilinearly."""
    return F.interpolate(image.permute(2, 0, 1)[None].float(), (size, size), mode="bilinear", align_corners=False)


def by_prior(features: Tensor, size: int) -> Tensor:
    """[N, priors of a cell * size, h, w] -> [N, priors, size]"""
    return features.permute(0, 2, 3, 1).reshape(len(features), -1, size)


def resize_to(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, like.shape[2:], mode="bilinear", align_corners=False)
