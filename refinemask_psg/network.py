"""RefineMask and its relatives: backbone, feature pyramid, proposals, box heads, mask heads; and a semantic head."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.batches import Batch, Prepared, Target, normalise, round_up
from common.data.images import fit_short_side, fit_within, resize, resize_antialiased
from common.results import Instances
from common.run.model import Source
from common.run.prediction_batches import one_or_many, predict_in_groups
from refinemask_psg.backbone import make_backbone
from refinemask_psg.box_head import BoxHead, StageAnswers, answer, hardness, next_proposals, run_cascade
from refinemask_psg.boxes import Size
from refinemask_psg.config import Config, Model
from refinemask_psg.losses import box_losses, mask_losses, rpn_losses
from refinemask_psg.mask_head import MaskAnswers, PlainMaskHead, RefineMaskHead
from refinemask_psg.postprocess import Detections, detections, paste, probabilities, scale_of
from refinemask_psg.psg.results import SceneGraph
from refinemask_psg.pyramid import FeaturePyramid
from refinemask_psg.rois import with_image_index
from refinemask_psg.rpn import TRAINING_NMS, Proposals, RegionProposals, propose
from refinemask_psg.semantic import SemanticU2Head, semantic_losses, semantic_target
from refinemask_psg.targets import Candidates, Sampled

DIVISOR = 32  # the coarsest stride with weights: inputs are padded to a multiple of it
ASSISTANT = "assistant_"  # begins the names of the losses on a composite backbone's first pyramid


class Answers(NamedTuple):
    """What the network says about a batch of images before it looks at regions."""

    pyramid: list[Tensor]  # P2..P6 [N, C, h, w]
    objectness: list[Tensor]  # for each level [N, 3, h, w]
    deltas: list[Tensor]  # for each level [N, 12, h, w]
    semantic: Tensor | None  # [N, classes + 1, H/4, W/4] logits


@dataclass
class TrainingStep:
    """A batch's loss terms, and on what they were computed."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    proposals: list[list[Proposals]] = field(default_factory=list)  # for each pyramid, of each image
    sampled: list[list[Sampled]] = field(default_factory=list)  # for each call of a box head, of each image
    stages: list[StageAnswers] = field(default_factory=list)  # for each call of a box head
    masks: list[MaskAnswers] = field(default_factory=list)  # for each call of the mask head


class RefineMask(nn.Module):
    """Finds objects in two stages, and refines their masks with features that keep the boundaries."""

    def __init__(self, config: Config, class_names: Sequence[str], category_ids: Sequence[int] = ()):
        super().__init__()
        self.config, self.class_names = config, tuple(class_names)
        self.category_ids = tuple(category_ids) or tuple(range(1, len(self.class_names) + 1))  # in COCO JSON
        model, classes = config.model, len(self.class_names)
        self.backbone = make_backbone(model)
        self.fpn = FeaturePyramid(self.backbone.channels, model.fpn_channels, model.fpn_upsampling)
        self.rpn = RegionProposals(model.fpn_channels)
        self.box_heads = nn.ModuleList(BoxHead(model, classes) for _ in model.box_ious)
        sizes = (model.fpn_channels, model.mask_channels, classes, model.finest_scale)
        self.mask_heads = nn.ModuleList(
            RefineMaskHead(*sizes, model.mask_final_agnostic) if model.mask_head == "refine" else PlainMaskHead(*sizes)
            for _ in range(model.mask_heads)
        )
        self.semantic_head = (
            SemanticU2Head(model.fpn_channels, classes, model.semantic_channels) if model.semantic_head else None
        )
        self.scene_graph: Any = None
        if config.relations.head != "none":
            from refinemask_psg.psg.scene_graph import SceneGraphHead  # needs transformers, which the detector doesn't

            self.scene_graph = SceneGraphHead(config.relations, classes, model.fpn_channels)
        if config.relations.freeze_detector:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.startswith("scene_graph."))

    def train(self, mode: bool = True) -> "RefineMask":
        super().train(mode)
        if self.config.relations.freeze_detector:
            for name, child in self.named_children():
                child.train(mode and name == "scene_graph")
        return self

    def compile(self) -> None:
        """Training calls the parts one by one and not forward, which is all that nn.Module's own compiles."""
        for part in (self.backbone, self.fpn, self.rpn):
            part.compile()

    def forward(self, images: Tensor) -> Answers:
        """Normalised images [N, 3, H, W], H and W multiples of 32."""
        pyramid = self.pyramids(images)[-1]
        objectness, deltas = self.rpn(pyramid)
        semantic = None if self.semantic_head is None else self.semantic_head(pyramid[0])[0]
        return Answers(pyramid, objectness, deltas, semantic)

    def pyramids(self, images: Tensor) -> list[list[Tensor]]:
        """[P2..P6] of each backbone; the last one predicts, and is the only one needed when not training."""
        features = self.backbone(images)
        return [self.fpn(each) for each in (features if self.training else features[-1:])]

    # --- the three verbs

    def preprocess(self, image: NDArray[np.uint8]) -> Prepared:
        """A photograph [H, W, 3] RGB -> network input: scaled as the original does, normalised, padded."""
        test, detectron2 = self.config.test, self.config.model.conventions == "detectron2"
        original = image.shape[0], image.shape[1]
        fit, scale = (fit_short_side, resize_antialiased) if detectron2 else (fit_within, resize)
        height, width = fit(*original, test.long_side, test.short_side)
        pixels = torch.from_numpy(scale(image, height, width)).permute(2, 0, 1)
        padded = F.pad(pixels, (0, round_up(width, DIVISOR) - width, 0, round_up(height, DIVISOR) - height))
        tensor = self.normalise(padded[None], torch.tensor([[height, width]]))[0]
        return Prepared(tensor, original, (height, width))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of a training batch."""
        return self.training_step(self.normalise(batch.images, batch.sizes), batch).terms

    @one_or_many
    @torch.inference_mode()
    def predict(self, images: Sequence[Source]) -> list[Instances] | list[SceneGraph]:
        """Photographs (files or [H, W, 3] RGB arrays) -> their instances, or scene graphs."""
        device = next(self.parameters()).device
        if self.scene_graph is not None:
            return predict_in_groups(images, self.preprocess, self, self.graph, device)
        return predict_in_groups(images, self.preprocess, self, self.instances, device)

    # --- predicting

    def instances(self, answers: Answers, row: int, prepared: Prepared) -> Instances:
        """One image's instances, from the answers to its batch."""
        pyramid = [level[row : row + 1] for level in answers.pyramid]
        found = self.detect(answers, row, prepared.resized_size, scale_of(prepared))
        masks = None
        if len(self.mask_heads):
            soft = probabilities(self.masks(pyramid, found), found.labels)
            masks = paste(soft, found.boxes, prepared.original_size, self.config.test)
        return Instances(found.scores, found.labels, found.boxes, masks, prepared.original_size, self.class_names)

    def graph(self, answers: Answers, row: int, prepared: Prepared) -> SceneGraph:
        """One image's scene graph, from the answers to its batch."""
        assert answers.semantic is not None
        found = self.instances(answers, row, prepared)
        graph: SceneGraph = self.scene_graph.result(answers.pyramid[0][row], answers.semantic[row], found, prepared)
        return graph

    def detect(self, answers: Answers, row: int, size: Size, scale: Tensor) -> Detections:
        """One image's objects, from its size in the input, and how much larger that is than the photograph [4]."""
        pyramid = [level[row : row + 1] for level in answers.pyramid]
        proposals = self.propose(answers, row, size)
        stages = run_cascade(self.box_heads, pyramid, proposals.boxes, size, self.config.model)
        return detections(stages, size, scale, self.config)

    def propose(self, answers: Answers, row: int, size: Size) -> Proposals:
        test = self.config.test
        objectness = [level[row : row + 1] for level in answers.objectness]
        deltas = [level[row : row + 1] for level in answers.deltas]
        counts, model = (test.proposals_before_nms, test.proposals), self.config.model
        return propose(objectness, deltas, [size], model, *counts, test.proposal_nms, test.drop_empty_proposals)[0]

    def masks(self, pyramid: list[Tensor], found: Detections) -> list[MaskAnswers]:
        """What each mask head says about one image's detections."""
        regions = with_image_index([found.input_boxes])
        return [head(pyramid, regions, found.labels) for head in self.mask_heads]

    # --- training

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Bytes [N, 3, H, W] -> network input; beyond each image's size [N, 2] is padding."""
        model = self.config.model
        if model.pad_before_normalising:
            sizes = (sizes + DIVISOR - 1) // DIVISOR * DIVISOR
        return normalise(images if model.channels == "rgb" else images.flip(1), sizes, model.mean, model.std)

    def training_step(self, images: Tensor, batch: Batch) -> TrainingStep:
        """The losses of the proposals on each pyramid, then those of the regions, for which the last one proposes."""
        model, relations = self.config.model, self.config.relations
        if relations.freeze_detector:
            with torch.no_grad():
                features = self.pyramids(images)[-1][0]
            return TrainingStep(self.scene_graph.losses(features, batch.targets, batch.sizes))
        things = len(self.class_names) if self.scene_graph is None else relations.things
        targets = [detectable(target, things) for target in batch.targets]
        sizes = [(height, width) for height, width in batch.sizes.tolist()]
        pyramids = self.pyramids(images)
        step = TrainingStep()
        for number, pyramid in enumerate(pyramids, start=1):
            objectness, deltas = self.rpn(pyramid)
            objects = [target.boxes for target in targets]
            padded = [(round_up(height, DIVISOR), round_up(width, DIVISOR)) for height, width in sizes]
            classes, boxes = rpn_losses(objectness, deltas, objects, padded, model)
            add(step, {"rpn_objectness": classes, "rpn_box": boxes}, number == len(pyramids), model)
            counts = model.proposals_before_nms, model.proposals
            drop_empty = self.config.test.drop_empty_proposals
            found = propose(objectness, deltas, sizes, model, *counts, TRAINING_NMS, drop_empty)
            step.proposals.append(found)
        for number, pyramid in enumerate(pyramids, start=1):
            proposals = [each.boxes for each in step.proposals[-1]]
            terms = self._region_losses(pyramid, proposals, targets, sizes, step)
            add(step, terms, number == len(pyramids), model)
        if self.scene_graph is not None:
            step.terms |= self.scene_graph.losses(pyramids[-1][0], batch.targets, batch.sizes)
        return step

    def _region_losses(
        self,
        pyramid: list[Tensor],
        proposals: list[Tensor],
        targets: list[Target],
        sizes: list[tuple[int, int]],
        step: TrainingStep,
    ) -> dict[str, Tensor]:
        model, terms = self.config.model, {}
        for index, head in enumerate(self.box_heads):
            sampled = self._sample(head, pyramid, proposals, targets, model.box_ious[index])
            stage = answer(head, pyramid, [each.boxes for each in sampled], model.finest_scale)
            step.sampled.append(sampled)
            step.stages.append(stage)
            prefix = f"stage{index + 1}_" if len(self.box_heads) > 1 else ""
            terms[f"{prefix}class"], terms[f"{prefix}box"] = box_losses(stage, sampled, index, model)
            if index + 1 < len(self.box_heads):
                proposals = next_proposals(stage, sampled, sizes, model.box_stds[index])
        positive = with_image_index([each.boxes[: len(each.objects)] for each in sampled])
        labels = torch.cat([each.labels[: len(each.objects)] for each in sampled])
        for head in self.mask_heads:
            answers = head(pyramid, positive, labels)
            step.masks.append(answers)
            for name, loss in mask_losses(answers, targets, sampled, labels, model).items():
                terms[name] = terms[name] + loss if name in terms else loss
        if self.semantic_head is not None and targets[0].semantic is not None:
            each = semantic_losses(self.semantic_head(pyramid[0]), semantic_target(targets))
            terms["semantic"] = model.semantic_weight * torch.stack(each).mean()
        return terms

    def _sample(
        self, head: nn.Module, pyramid: list[Tensor], proposals: list[Tensor], targets: list[Target], iou: float
    ) -> list[Sampled]:
        model, classes = self.config.model, len(self.class_names)
        candidates = [
            Candidates.of(boxes, target.boxes, target.labels, classes, iou, model.box_low_quality)
            for boxes, target in zip(proposals, targets, strict=True)
        ]
        hard = (
            hardness(head, pyramid, candidates, model.finest_scale)
            if model.sampling == "hard"
            else [None] * len(candidates)
        )
        return [
            each.sample(target.boxes, model.box_samples, model.sampling, rank)
            for each, target, rank in zip(candidates, targets, hard, strict=True)
        ]


def add(step: TrainingStep, terms: dict[str, Tensor], is_lead: bool, model: Model) -> None:
    """Into a step's terms those of one pyramid."""
    for name, loss in terms.items():
        step.terms[name if is_lead else ASSISTANT + name] = loss if is_lead else model.assistant_weight * loss


def detectable(target: Target, things: int) -> Target:
    """Without stuff, and without objects whose box has no extent: their deltas would not be finite."""
    keep = ((target.boxes[:, 2:] - target.boxes[:, :2]) > 0).all(dim=1) & (target.labels < things)
    if bool(keep.all()):
        return target
    polygons = target.polygons
    if polygons is not None:
        polygons = [each for each, wanted in zip(polygons, keep.tolist(), strict=True) if wanted]
    return replace(
        target, boxes=target.boxes[keep], labels=target.labels[keep], masks=target.masks[keep], polygons=polygons
    )
