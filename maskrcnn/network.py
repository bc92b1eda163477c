"""Mask R-CNN (arXiv 1703.06870): backbone, pyramid or C4, region proposals, and the heads for boxes and masks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from common.data.batches import Batch, Prepared
from common.results import Instances
from common.run.model import Source
from common.run.prediction_batches import one_or_many, predict_in_groups
from maskrcnn.backbone import Backbone, norm_of, residual_network
from maskrcnn.boxes import anchors_of_levels
from maskrcnn.config import Config, Model
from maskrcnn.heads import BOX_RESOLUTION, BoxHead, MaskHead, ProposalHead, cut_out
from maskrcnn.losses import box_losses, mask_loss, proposal_losses
from maskrcnn.postprocess import Detections, detect, instances
from maskrcnn.preprocessing import normalised, prepare
from maskrcnn.proposals import Proposed, propose
from maskrcnn.targets import (
    Choice,
    RegionTargets,
    anchor_targets,
    choose_at_random,
    mask_targets,
    region_targets,
    without_empty_boxes,
)


class Answers(NamedTuple):
    """What the network says about a batch of images before any region is cut out."""

    features: list[Tensor]  # for each level [N, C, h, w]
    logits: list[Tensor]  # for each level [N, A, h, w]: objectness of its anchors
    deltas: list[Tensor]  # for each level [N, 4 A, h, w]
    anchors: list[Tensor]  # for each level [h * w * A, 4]

    def of_image(self, row: int) -> "Answers":
        """One image's answers, as a batch of one."""
        features, logits, deltas = ([values[row : row + 1] for values in levels] for levels in self[:3])
        return Answers(features, logits, deltas, self.anchors)


class MaskRCNN(nn.Module):
    """Finds objects in two stages: proposes regions, then classifies, corrects and segments each of them."""

    def __init__(self, config: Config, class_names: Sequence[str], category_ids: Sequence[int] = ()):
        super().__init__()
        self.config, self.class_names = config, tuple(class_names)
        self.category_ids = tuple(category_ids) or tuple(range(1, len(self.class_names) + 1))  # in COCO JSON
        model, neck = config.model, config.model.neck
        classes, first = len(self.class_names) + model.spare_outputs, config.conventions.background_first
        body = residual_network(model)
        self.backbone = Backbone(body, model.frozen_stages, neck)
        if neck == "c4":
            self.region_stage = body.layer4
        elif neck == "fpn":
            self.fpn = feature_pyramid(self.backbone.channels, model)
        channels = model.fpn_channels if neck == "fpn" else self.backbone.channels[0]
        region_channels = 2 * channels if neck == "c4" else channels
        anchors = len(config.proposals.aspect_ratios) * (1 if neck == "fpn" else len(config.proposals.anchor_sizes))
        self.proposal_head = ProposalHead(channels, anchors, model.proposal_convs)
        self.box_head = BoxHead(region_channels, model, classes, first)
        if model.masks:
            self.mask_head = MaskHead(region_channels, model, classes, first)

    def forward(self, images: Tensor) -> Answers:
        """Normalised images [N, 3, H, W]; with a pyramid H and W are multiples of 32."""
        features = self.pyramid(self.backbone(images))
        logits, deltas = self.proposal_head(features)
        size = images.shape[2], images.shape[3]
        anchors = anchors_of_levels(features, size, self.config.proposals, self.config.conventions.anchors)
        return Answers(features, logits, deltas, anchors)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """[C2..C5] -> [P2..P6]; [C4] or [C5] stays as it is."""
        if len(features) == 1:
            return features
        return list(self.fpn({str(level): values for level, values in enumerate(features)}).values())

    def propose(self, answers: Answers, sizes: Tensor) -> list[Proposed]:
        """For each image, of height and width `sizes` [N, 2], the regions to look at."""
        settings, conventions = self.config.proposals, self.config.conventions
        return propose(
            answers.logits, answers.deltas, answers.anchors, sizes, settings, conventions, training=self.training
        )

    def box_regions(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Each image's boxes cut out for the box head. [R, C, 7, 7]"""
        if self.config.model.neck == "c4":
            return self.mask_regions(features, boxes)
        return self.cut_out(features, boxes, BOX_RESOLUTION)

    def mask_regions(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Each image's boxes cut out for the mask head. [R, C, 14, 14], or [R, C, 7, 7] after the fifth stage"""
        regions = self.cut_out(features, boxes, self.config.model.mask_resolution)
        if self.config.model.neck == "c4":
            regions = self.region_stage(regions)
        return regions

    def cut_out(self, features: list[Tensor], boxes: list[Tensor], resolution: int) -> Tensor:
        used = features[:4]  # P6 is for proposals only
        strides = self.config.proposals.anchor_strides[: len(used)]
        return cut_out(used, boxes, strides, resolution, self.config.conventions)

    def preprocess(self, image: NDArray[np.uint8]) -> Prepared:
        """A photograph [H, W, 3] RGB -> network input: scaled as the original does, normalised, padded with 0."""
        test = self.config.test
        return prepare(image, test.long_side, test.short_side, self.config.model, self.config.conventions)

    def normalised(self, batch: Batch) -> Tensor:
        """A training batch's bytes as network input."""
        return normalised(batch.images, batch.sizes, self.config.model, self.config.conventions)

    def losses(self, batch: Batch, choose: Choice = choose_at_random) -> dict[str, Tensor]:
        """The loss terms of a training batch; `choose` picks the anchors and regions that they look at."""
        config, conventions = self.config, self.config.conventions
        targets = [without_empty_boxes(target, conventions) for target in batch.targets]
        batch = Batch(batch.images, batch.sizes, targets)
        answers = self(self.normalised(batch))
        anchors = torch.cat(answers.anchors)
        sampled = [
            anchor_targets(anchors, target.boxes, size, config.proposals, conventions, choose)
            for target, size in zip(batch.targets, batch.sizes, strict=True)
        ]
        losses = proposal_losses(answers.logits, answers.deltas, sampled, config.proposals.smooth_l1_beta)
        regions = [
            region_targets(proposed.boxes, target, config.regions, conventions, choose)
            for proposed, target in zip(self.propose(answers, batch.sizes), batch.targets, strict=True)
        ]
        return losses | self._region_losses(answers.features, regions, batch)

    def _region_losses(self, features: list[Tensor], regions: list[RegionTargets], batch: Batch) -> dict[str, Tensor]:
        config, first = self.config, int(self.config.conventions.background_first)
        cut = self.box_regions(features, [image.boxes for image in regions])
        logits, deltas = self.box_head(cut)
        labels = torch.cat([image.labels for image in regions])
        foreground = (labels >= 0).nonzero().squeeze(1)
        channels = labels[foreground] + first
        categories = torch.where(labels >= 0, labels + first, 0 if first else logits.shape[1] - 1)
        wanted = torch.cat([image.deltas for image in regions])
        chosen = deltas[foreground, channels]
        losses = box_losses(logits, categories, chosen, wanted, config.regions.smooth_l1_beta)
        if not config.model.masks:
            return losses
        boxes = [image.boxes[: len(image.objects)] for image in regions]
        mask_logits = self.mask_head(
            cut[foreground] if config.model.neck == "c4" else self.mask_regions(features, boxes)
        )
        drawn = [
            mask_targets(own, image.objects, target, size, mask_logits.shape[-1], config.conventions)
            for own, image, target, size in zip(boxes, regions, batch.targets, batch.sizes, strict=True)
        ]
        return losses | {"mask": config.regions.mask_loss_weight * mask_loss(mask_logits, channels, torch.cat(drawn))}

    @one_or_many
    @torch.inference_mode()
    def predict(self, images: Sequence[Source]) -> list[Instances]:
        """Photographs (files or [H, W, 3] RGB arrays) -> their instances."""

        def result(answers: Answers, row: int, prepared: Prepared) -> Instances:
            own = answers.of_image(row)
            found = self.detect(own, torch.tensor([prepared.resized_size], device=own.features[0].device))
            soft_masks = self.soft_masks(own.features, found) if self.config.model.masks else None
            return instances(found, soft_masks, prepared, self.config.test, self.config.conventions, self.class_names)

        return predict_in_groups(images, self.preprocess, self, result, next(self.parameters()).device)

    def detect(self, answers: Answers, sizes: Tensor) -> Detections:
        """The objects of one image, in network-input pixels, from its answers (a batch of one) and size [1, 2]."""
        (proposed,) = self.propose(answers, sizes)
        logits, deltas = self.box_head(self.box_regions(answers.features, [proposed.boxes]))
        weights, config = self.config.regions.delta_weights, self.config
        found = detect(proposed.boxes, logits, deltas, sizes[0], weights, config.test, config.conventions)
        named = found.labels < len(self.class_names)  # not one of the spare outputs
        return Detections(*(values[named] for values in found))

    def soft_masks(self, features: list[Tensor], found: Detections) -> Tensor:
        """The probabilities [N, m, m] of each object's mask, in its class's channel."""
        channels = found.labels + int(self.config.conventions.background_first)
        return self.mask_head.of_channels(self.mask_regions(features, [found.boxes]), channels).float().sigmoid()


def feature_pyramid(inputs: list[int], model: Model) -> FeaturePyramidNetwork:
    """[C2..C5] -> [P2..P6] (arXiv 1612.03144), with the original's initial values."""
    pyramid = FeaturePyramidNetwork(inputs, model.fpn_channels, LastLevelMaxPool(), norm_of(model.head_norm))
    for module in pyramid.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return pyramid
