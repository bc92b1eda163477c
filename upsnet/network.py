"""UPSNet (arXiv 1901.03784): a backbone with a pyramid, semantic, box and mask heads, and the panoptic head."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.batches import Batch, Prepared, normalise, round_up
from common.results import Panoptic
from common.run.model import Source
from common.run.prediction_batches import one_or_many, predict_in_groups
from upsnet.backbone import make_backbone
from upsnet.boxes import clip, decode
from upsnet.config import Config, Model
from upsnet.heads import (
    MASK_SIZE,
    BoxHead,
    MaskHead,
    ProposalHead,
    SemanticHead,
    align,
    enlarge,
    region_features,
    with_image,
)
from upsnet.losses import (
    box_loss,
    cells_loss,
    class_loss,
    mask_loss,
    proposal_losses,
    semantic_loss,
    told_panoptic_logits,
)
from upsnet.panoptic_merge import Found, candidates, panoptic_logits, panoptic_map, panoptic_terms
from upsnet.postprocess import Everything, Maps, detect, instances_of, panoptic_of, scale_of, to_photograph, unify
from upsnet.proposals import Level, all_anchors, by_anchor, propose
from upsnet.targets import BOX_WEIGHTS, Lesson, at_random, lesson

DIVISOR = 32  # the coarsest stride of the backbone: inputs are padded to a multiple of it


class Answers(NamedTuple):
    """What the network says about whole images."""

    pyramid: list[Tensor]  # P2..P6, each [N, C, h, w]
    objectness: list[Tensor]  # for each level [N, 3, h, w]
    deltas: list[Tensor]  # for each level [N, 12, h, w]
    semantic_feature: Tensor  # [N, 4 * semantic channels, H/4, W/4]
    semantic_logits: Tensor  # [N, classes, H/4, W/4] stuff first, then things

    def levels(self, image: int) -> list[Level]:
        """What the region proposal head says about one image."""
        return [
            Level(logits[image], deltas[image]) for logits, deltas in zip(self.objectness, self.deltas, strict=True)
        ]


class UPSNet(nn.Module):
    """Gives every pixel of a photograph a class and, where it belongs to a thing, the number of an instance."""

    def __init__(self, config: Config, class_names: Sequence[str], category_ids: Sequence[int] = ()):
        super().__init__()
        self.config, self.class_names = config, tuple(class_names)
        self.category_ids = tuple(category_ids) or tuple(range(1, len(self.class_names) + 1))
        self.things = config.model.things
        self.stuff = len(self.class_names) - self.things
        self.backbone = make_backbone(config.model)
        self.pyramid = Pyramid(self.backbone.channels, config.model)
        self.proposal_head = ProposalHead(config.model)
        self.box_head = BoxHead(config.model)
        self.mask_head = MaskHead(config.model)
        self.semantic_head = SemanticHead(config.model, len(self.class_names))

    def forward(self, images: Tensor) -> Answers:
        """Normalised images [N, 3, H, W], H and W multiples of 32."""
        pyramid = self.pyramid(self.backbone(images))
        objectness, deltas = self.proposal_head(pyramid)
        feature = self.semantic_head(pyramid)
        return Answers(pyramid, objectness, deltas, feature, self.semantic_head.classes(feature))

    def preprocess(self, image: NDArray[np.uint8]) -> Prepared:
        """A photograph [H, W, 3] RGB -> network input: normalised, then scaled, as the original; padded with 0."""
        model = self.config.model
        scale = scale_of((image.shape[0], image.shape[1]), self.config.test)
        mean, std = np.array(model.mean, np.float32), np.array(model.std, np.float32)
        normalised = (image.astype(np.float32) - mean) / std
        size = None  # from the scale, as the original has it, but that a thin photograph would vanish
        if round(min(image.shape[:2]) * scale) == 0:
            size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        values = np.asarray(cv2.resize(normalised, size, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR))
        height, width = values.shape[:2]
        pixels = torch.from_numpy(values[..., :: -1 if model.colours == "bgr" else 1].transpose(2, 0, 1).copy())
        padded = F.pad(pixels, (0, round_up(width, DIVISOR) - width, 0, round_up(height, DIVISOR) - height))
        return Prepared(padded, (image.shape[0], image.shape[1]), (height, width))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of a training batch."""
        model, train = self.config.model, self.config.train
        images = normalise(batch.images, batch.sizes, model.mean, model.std)
        answers = self(images.flip(1) if model.colours == "bgr" else images)
        choose = at_random(images.device)
        lessons = []
        for image, (size, target) in enumerate(zip(batch.sizes, batch.targets, strict=True)):
            levels = answers.levels(image)
            proposals = propose(levels, size, train.proposals).boxes
            anchors = torch.cat(all_anchors(levels))
            lessons.append(lesson(anchors, proposals, size, target, (self.things, self.stuff), train, choose))
        return self.losses_from(answers, lessons)

    def losses_from(self, answers: Answers, lessons: Sequence[Lesson]) -> dict[str, Tensor]:
        """The weighted loss terms of what each image teaches."""
        train = self.config.train
        terms = self.proposal_terms(answers, lessons) | self.region_terms(answers, lessons)
        terms["semantic"] = train.semantic_weight * semantic_loss(
            enlarge(answers.semantic_logits, 4), torch.stack([each.semantic.image for each in lessons])
        )
        if train.roi_semantic_weight:
            regions = with_image([each.semantic.boxes for each in lessons])
            logits = self.semantic_head.classes(align(answers.semantic_feature, regions, MASK_SIZE, 1 / 4))
            channels = torch.cat([each.semantic.regions for each in lessons])
            terms["roi_semantic"] = train.roi_semantic_weight * cells_loss(logits, channels)
        terms["panoptic"] = train.panoptic_weight * self.panoptic_term(answers, lessons)
        return terms

    def proposal_terms(self, answers: Answers, lessons: Sequence[Lesson]) -> dict[str, Tensor]:
        """Objectness and boxes of the sampled anchors, a mean over the images."""
        pairs = []
        for image, each in enumerate(lessons):
            flat = [by_anchor(level) for level in answers.levels(image)]
            logits, deltas = torch.cat([pair[0] for pair in flat]), torch.cat([pair[1] for pair in flat])
            pairs.append(torch.stack(proposal_losses(logits, deltas, each.anchors, self.config.train.anchors)))
        objectness, boxes = torch.stack(pairs).mean(dim=0)
        return {"objectness": objectness, "proposal_box": boxes}

    def region_terms(self, answers: Answers, lessons: Sequence[Lesson]) -> dict[str, Tensor]:
        """Classes, boxes and masks of the sampled regions."""
        regions, drawn_in = [each.regions.boxes for each in lessons], [each.masks.boxes for each in lessons]
        logits, deltas = self.box_head(region_features(answers.pyramid, regions, BoxHead.size))
        masks = self.mask_head(region_features(answers.pyramid, drawn_in, MaskHead.size))
        labels = torch.cat([each.regions.labels for each in lessons])
        positive = torch.cat([each.regions.positive() for each in lessons])
        moves = torch.cat([each.regions.deltas for each in lessons])
        drawn = torch.cat([each.masks.masks for each in lessons])
        return {
            "class": class_loss(logits, labels),
            "box": box_loss(deltas, labels, positive.nonzero()[:, 0], moves),
            "mask": mask_loss(masks, torch.cat([each.masks.labels for each in lessons]), drawn),
        }

    def panoptic_term(self, answers: Answers, lessons: Sequence[Lesson]) -> Tensor:
        """Cross-entropy of the panoptic head's channels, which differ from image to image; a mean over the images."""
        boxes = [each.panoptic.boxes for each in lessons]
        masks = self.mask_head(region_features(answers.pyramid, boxes, MaskHead.size))
        labels = torch.cat([each.panoptic.labels for each in lessons])
        own = masks[torch.arange(len(masks), device=masks.device), labels].float().split([len(each) for each in boxes])
        losses = []
        for image, each in enumerate(lessons):
            semantic = answers.semantic_logits[image].float()
            told = told_panoptic_logits(semantic, each.panoptic.boxes / 4, each.panoptic.labels, own[image], self.stuff)
            losses.append(cells_loss(told[None], each.panoptic.channels[None]))
        return torch.stack(losses).mean()

    @one_or_many
    @torch.inference_mode()
    def predict(self, images: Sequence[Source]) -> list[Panoptic]:
        """Photographs (files or [H, W, 3] RGB arrays) -> their panoptic maps."""
        return predict_in_groups(images, self.preprocess, self, self._panoptic, self._device)

    @torch.inference_mode()
    def predict_everything(self, images: Sequence[Source]) -> list[Everything]:
        """The same with instances and semantic maps, which the scores beside panoptic quality need."""
        return predict_in_groups(images, self.preprocess, self, self._everything, self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def boxes_of(self, answers: Answers, image: int, size: Tensor) -> tuple[Tensor, Tensor]:
        """For each class, every proposal's box [R, 1 + things, 4] and probability [R, 1 + things]."""
        proposals = propose(answers.levels(image), size, self.config.test.proposals).boxes
        pyramid = [level[image : image + 1] for level in answers.pyramid]
        logits, deltas = self.box_head(region_features(pyramid, [proposals], BoxHead.size))
        boxes = decode(deltas.float().reshape(-1, deltas.shape[1] // 4, 4), proposals[:, None], BOX_WEIGHTS)
        return clip(boxes, size), logits.float().softmax(dim=1)

    def masks_of(self, answers: Answers, image: int, boxes: Tensor, labels: Tensor) -> Tensor:
        """The mask logits [n, 28, 28] of boxes [n, 4], each of its class."""
        pyramid = [level[image : image + 1] for level in answers.pyramid]
        masks: Tensor = self.mask_head(region_features(pyramid, [boxes], MaskHead.size))
        return masks[torch.arange(len(masks), device=masks.device), labels].float()

    def merge(
        self, semantic_logits: Tensor, found: Found, masks: Tensor, prepared: Prepared
    ) -> tuple[Panoptic, Tensor]:
        """The panoptic map of semantic logits [C, H, W] at the input's size, and the photograph's semantic map."""
        test = self.config.test
        terms = panoptic_terms(found, masks, semantic_logits, self.stuff, test.covered_fraction)
        channels = panoptic_map(panoptic_logits(terms, semantic_logits, self.stuff))
        maps = to_photograph(Maps(semantic_logits.argmax(dim=0), channels), prepared, test)
        nobody = not len(terms.kept)
        labels = found.labels.new_zeros(1) if nobody else found.labels[terms.kept]
        scores = found.scores.new_zeros(1) if nobody else found.scores[terms.kept]
        unified = unify(maps, labels, self.stuff, test.smallest_stuff)
        return panoptic_of(unified, scores, maps.channels, self.stuff, prepared, self.class_names), maps.semantic

    def _panoptic(self, answers: Answers, image: int, prepared: Prepared) -> Panoptic:
        size = torch.tensor(prepared.resized_size, device=self._device)
        found = candidates(*self.boxes_of(answers, image, size), self.config.test)
        masks = self.masks_of(answers, image, found.boxes, found.labels)
        return self.merge(self.large_semantics(answers, image), found, masks, prepared)[0]

    def _everything(self, answers: Answers, image: int, prepared: Prepared) -> Everything:
        size = torch.tensor(prepared.resized_size, device=self._device)
        boxes, scores = self.boxes_of(answers, image, size)
        told, found = candidates(boxes, scores, self.config.test), detect(boxes, scores, self.config.test)
        # the mask head sees both at once: most of the boxes are the same places
        places, labels = torch.cat((told.boxes, found.boxes)), torch.cat((told.labels, found.labels))
        masks = self.masks_of(answers, image, places, labels)
        told_masks, found_masks = masks[: len(told.boxes)], masks[len(told.boxes) :]
        panoptic, channels = self.merge(self.large_semantics(answers, image), told, told_masks, prepared)
        instances = instances_of(found, found_masks, prepared, self.config.test, self.class_names)
        semantic = (channels + self.things) % len(self.class_names)
        return Everything(panoptic, instances, semantic.to(torch.uint8))

    def large_semantics(self, answers: Answers, image: int) -> Tensor:
        """One image's semantic logits [C, H, W] at the input's size."""
        return enlarge(answers.semantic_logits[image : image + 1], 4)[0].float()


class Pyramid(nn.Module):
    """[C2..C5] -> [P2..P6] (arXiv 1612.03144); the context, if any, is the coarsest feature's average."""

    def __init__(self, channels: list[int], config: Model):
        super().__init__()
        width = config.fpn_channels
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.context = nn.Linear(channels[-1], width) if config.global_context else None
        for layer in (*self.lateral, *self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        laterals = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        if self.context is not None:
            laterals[-1] = laterals[-1] + self.context(features[-1].mean(dim=(2, 3)))[:, :, None, None]
        merged = [laterals[-1]]
        for lateral in laterals[-2::-1]:
            merged.insert(0, lateral + F.interpolate(merged[0], scale_factor=2.0, mode="nearest"))
        levels = [output(level) for output, level in zip(self.output, merged, strict=True)]
        return [*levels, levels[-1][:, :, ::2, ::2]]
