"""UPSNet's cases: whole networks, EfficientNet's trunk, the panoptic head alone, and panoptic quality.

As neighbouring proposals differ by less than rounding and may change places, the box head is fed the case's own
proposals, and what is learned is taken from the case's own samples; `proposals` themselves are compared row by row.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data.batches import UNLABELLED
from common.errors import UserError
from common.run.checkpoint import Unset
from maskworks.published.renaming import Converted
from tests.parity import networks, rules
from tests.parity.case import Array, Case
from tests.parity.networks import Gradients, array, gradients, published_checkpoint, rounding_of_gradients, total
from tests.parity.rules import Rule
from tests.parity.settings import Fixed
from tests.parity.upsnet import parts as upsnet_parts
from upsnet.boxes import clip, decode
from upsnet.config import Config, Inference, Proposals, Train
from upsnet.convert import class_count, convert
from upsnet.heads import BoxHead, MaskHead, enlarge, region_features
from upsnet.losses import told_panoptic_logits
from upsnet.network import Answers, UPSNet
from upsnet.panoptic_merge import Found, candidates, panoptic_logits, panoptic_map, panoptic_terms
from upsnet.postprocess import Maps, detect, to_photograph, unify
from upsnet.proposals import propose
from upsnet.targets import (
    BOX_WEIGHTS,
    AnchorTargets,
    Lesson,
    MaskTargets,
    PanopticTargets,
    RegionTargets,
    SemanticTargets,
    keep_boxes,
    panoptic_target,
)

INPUTS = ("tensor",)
FIXED: Fixed = {
    "settings.pixel_std": ("none",),
    "settings.pad_multiple": (32,),
    "settings.fpn_upsample": ("nearest",),
    "settings.rpn_strides": ([4, 8, 16, 32, 64],),
    "settings.anchor_scales": ([8],),
    "settings.anchor_ratios": ([0.5, 1, 2],),
    "settings.bbox_reg_weights": ([10.0, 10.0, 5.0, 5.0],),
    "settings.mask_size": (28,),
    "settings.panoptic_nms_thresh": (0.5,),
    "settings.roi_align.sampling_ratio": (2,),
    "settings.roi_align.aligned": (False,),
    "settings.roi_align.box_pool": (7,),
    "settings.roi_align.mask_pool": (14,),
    "settings.t*.rpn_min_size": (0,),
    "settings.train.rpn_straddle_thresh": (0,),
    "settings.train.bg_thresh_hi": (0.5,),
    "settings.train.bg_thresh_lo": (0.0,),
    "settings.bn_eps": (1e-5,),
    "settings.void_id": (0,),
}
INFORMATION = (  # follows from the checkpoint, is in the recorded samples, or belongs to other steps
    *("settings.fpn_with_gap", "settings.backbone_*", "settings.fcn_num_layers", "settings.channels.*"),
    *(f"settings.train.{name}" for name in ("lr", "wd", "momentum", "*_iteration", "max_size")),
    *("settings.train_short_side", "segments_info.*", "gt_annotations.*", "loss_weights.*", "scenarios.*.expected.*"),
    *(f"settings.merge_scenarios.*.{name}" for name in ("instances_offered", "kept_as_things", "void_pixels")),
)
LEVELS = ("p2", "p3", "p4", "p5", "p6")
STRIDES = (4, 8, 16, 32, 64)
PUBLISHED_LOSSES = {
    "rpn_cls_loss": "objectness",
    "rpn_bbox_loss": "proposal_box",
    "cls_loss": "class",
    "bbox_loss": "box",
    "mask_loss": "mask",
    "fcn_loss": "semantic",
    "fcn_roi_loss": "roi_semantic",
    "panoptic_loss": "panoptic",
}


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of the case, by name."""
    if not case.spec["state_dict"]:
        return upsnet_parts.compute(case, device)
    if any(name.startswith("features.") for name in case.spec["state_dict"]):
        return upsnet_parts.compute_trunk(case, device)
    converted = convert(published_checkpoint(case))
    model = build(case, converted).to(device)
    computed = infer(model, case) if "image" in case.inputs else {}
    return computed | (train(model, case, converted) if "sampled/rois" in case.inputs else {})


def rule(case: Case, name: str) -> Rule | None:
    """The spec's tolerances, never wider than NOTES.md's."""
    if not case.spec["state_dict"]:
        return upsnet_parts.rule(case, name)
    stated = case.spec.get("tolerance", {})

    def limit(kind: str, most: float) -> float:
        return rules.stated(stated.get(kind) if isinstance(stated, dict) else stated, most)

    def rounding() -> float:
        return rounding_of_gradients(case, name, gradients_in)

    pixels = 1e-3  # of maps and masks, at least 99.9 % are equal
    choices = [
        (r"in/tensor", rules.relative(1e-6)),
        (r"c\d|(backbone|fpn)/.+|semantic/feature", rules.relative(limit("features", 1e-4))),
        (
            r"(rpn|rcnn)/.+|semantic/logit.*|panoptic/(mask_term|seg_inst_term|logit)",
            rules.relative(limit("logits", 1e-4)),
        ),
        (r"detections/mask_logit", rules.relative(limit("logits", 1e-4))),
        (r"(train/)?proposals", matched_rows(limit("boxes", 1e-4))),
        (r"(detections|final)/boxes.*|panoptic/candidate_boxes", rules.relative(limit("boxes", 1e-4))),
        (
            r"proposal_scores|(detections|final)/scores.*|panoptic/candidate_scores",
            rules.relative(limit("scores", 1e-4)),
        ),
        (r"(detections|final)/labels|panoptic/(candidate_labels|kept)", rules.exact()),
        (r"(semantic|panoptic)/argmax|final/(semantic|panoptic_ids|pan_2ch)|train/panoptic_gt", equal_pixels(pixels)),
        (r"final/masks", rules.mask_bits(pixels)),
        (r"final/pan_rgb", upsnet_parts.same_segments(pixels)),
        (r"loss/.+|train/\w+_accuracy", rules.relative(limit("losses", 1e-4))),
        (r"grad/.+", rules.relative(limit("gradients", 1e-3), rounding)),
        (r"gradval/.+", rules.relative(limit("gradient_values", 1e-2), rounding)),
    ]
    return rules.first_of(choices, name)


def matched_rows(tolerance: float) -> Rule:
    """Relative, after each expected box [image, x1, y1, x2, y2] was given the nearest computed one, each only once."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape or computed.size % 5:
            return rules.INFINITE
        ours, theirs = computed.reshape(-1, 5).astype(np.float64), expected.reshape(-1, 5).astype(np.float64)
        nearest = np.array([np.abs(ours - box).sum(axis=1).argmin() for box in theirs])
        if len(np.unique(nearest)) < len(nearest):
            return rules.INFINITE
        return rules.relative_error(ours[nearest], theirs)

    return Rule("matched rows", tolerance, error)


def equal_pixels(tolerance: float) -> Rule:
    """The part of a map's pixels that differ."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape:
            return rules.INFINITE
        differing = computed != expected
        return float((differing.any(axis=-1) if differing.shape[-1:] == (3,) else differing).mean())

    return Rule("pixels", tolerance, error)


def build(case: Case, converted: Converted[Config]) -> UPSNet:
    """The network the checkpoint was recognised as, with the case's settings and, strictly, its weights."""
    names = [f"class {index}" for index in range(class_count(converted.weights))]
    with Unset():
        model = UPSNet(with_settings(converted.config, case.spec["settings"]), names)
    model.load_state_dict(converted.weights, strict=True)
    stated = [case.spec["settings"][name] for name in ("num_classes", "first_thing_seg_class", "num_seg_classes")]
    if stated != [model.things + 1, model.stuff, model.things + model.stuff]:
        raise UserError(f"the checkpoint has {model.things} things and {model.stuff} stuff, the settings say {stated}")
    return model.eval()


def with_settings(variant: Config, settings: dict[str, Any]) -> Config:
    """The variant with what a case may choose differently; the layers follow from the checkpoint."""
    test = settings["test"]
    model = replace(
        variant.model,
        mean=tuple(settings["pixel_mean_bgr"][::-1]),
        colours="bgr" if settings["channel_order"] == "BGR" else "rgb",
    )
    return replace(
        variant,
        model=model,
        test=Inference(
            long_side=settings["max_side"],
            short_side=settings["test_short_side"],
            proposals=proposal_settings(test),
            score_threshold=test["score_thresh"],
            nms_threshold=test["nms_thresh"],
            max_instances=test["max_det"],
            panoptic_score_threshold=test["panoptic_score_thresh"],
            covered_fraction=settings["mask_removal_fraction"],
            smallest_stuff=test["panoptic_stuff_area_limit"],
        ),
        train=train_settings(settings["train"]) if "train" in settings else variant.train,
    )


def train_settings(train: dict[str, Any]) -> Train:
    return Train(
        proposals=proposal_settings(train),
        anchors=train["rpn_batch_size"],
        positive_anchors=train["rpn_fg_fraction"],
        positive_iou=train["rpn_positive_overlap"],
        negative_iou=train["rpn_negative_overlap"],
        rois=train["batch_rois"],
        positive_rois=train["fg_fraction"],
        roi_iou=train["fg_thresh"],
        panoptic_boxes=train["panoptic_box_keep_fraction"],
        semantic_weight=train["fcn_loss_weight"],
        roi_semantic_weight=0.2 * train["fcn_loss_weight"] if train["fcn_with_roi_loss"] else 0.0,
        panoptic_weight=train["panoptic_loss_weight"],
    )


def proposal_settings(settings: dict[str, Any]) -> Proposals:
    return Proposals(settings["rpn_pre_nms_top_n"], settings["rpn_post_nms_top_n"], settings["rpn_nms_thresh"])


@torch.no_grad()
def infer(model: UPSNet, case: Case) -> dict[str, Array]:
    """Features, answers and results of the case's photograph [H, W, 3] RGB."""
    image = case.inputs["image"]
    prepared = model.preprocess(image)
    device = next(model.parameters()).device
    images = prepared.tensor[None].to(device)
    size = torch.tensor(prepared.resized_size, device=device)
    features, answers = model.backbone(images), model(images)
    computed = {"in/tensor": array(images)}
    computed |= {f"backbone/res{index + 2}": array(feature) for index, feature in enumerate(features)}
    for index, level in enumerate(LEVELS):
        computed |= {
            f"fpn/{level}": array(answers.pyramid[index]),
            f"rpn/cls_logit_{level}": array(answers.objectness[index]),
            f"rpn/bbox_delta_{level}": array(answers.deltas[index]),
        }
    proposals = propose(answers.levels(0), size, model.config.test.proposals)
    computed |= {"proposals": with_zeros(proposals.boxes), "proposal_scores": array(proposals.scores)}
    stored = case.outputs.get("proposals", computed["proposals"])[:, 1:]
    computed |= heads(model, answers, torch.from_numpy(stored).to(device), size)
    return computed | results(model, image)


def heads(model: UPSNet, answers: Answers, proposals: Tensor, size: Tensor) -> dict[str, Array]:
    """What the heads say about given proposals, up to the panoptic channels."""
    regions = region_features(answers.pyramid, [proposals], BoxHead.size)
    logits, deltas = model.box_head(regions)
    boxes = clip(decode(deltas.reshape(len(deltas), -1, 4), proposals[:, None], BOX_WEIGHTS), size)
    scores = logits.softmax(dim=1)
    found = by_class(detect(boxes, scores, model.config.test))
    told = candidates(boxes, scores, model.config.test)
    masks = model.mask_head(region_features(answers.pyramid, [found.boxes], MaskHead.size))
    semantic = enlarge(answers.semantic_logits, 4)
    terms = panoptic_terms(
        told,
        model.masks_of(answers, 0, told.boxes, told.labels),
        semantic[0],
        model.stuff,
        model.config.test.covered_fraction,
    )
    channels = panoptic_logits(terms, semantic[0], model.stuff)
    return {
        "rcnn/fc_feature": array(model.box_head.hidden(regions)),
        "rcnn/cls_logit": array(logits),
        "rcnn/bbox_delta": array(deltas),
        "detections/scores_net": array(found.scores),
        "detections/boxes_net": with_zeros(found.boxes),
        "detections/labels": array(found.labels),
        "detections/mask_logit": array(masks),
        "panoptic/candidate_scores": array(told.scores),
        "panoptic/candidate_boxes": with_zeros(told.boxes),
        "panoptic/candidate_labels": array(told.labels),
        "panoptic/kept": array(terms.kept),
        "panoptic/mask_term": array(terms.mask[None]),
        "panoptic/seg_inst_term": array(terms.semantic[None]),
        "panoptic/logit": array(channels[None]),
        "panoptic/argmax": array(panoptic_map(channels)),
        "semantic/feature": array(answers.semantic_feature),
        "semantic/logit_quarter": array(answers.semantic_logits),
        "semantic/logit": array(semantic),
        "semantic/argmax": array(semantic[0].argmax(dim=0)),
    }


def with_zeros(boxes: Tensor) -> Array:
    """[n, 4] -> [n, 5]: the number of the image comes first in the original's boxes."""
    return np.pad(array(boxes), ((0, 0), (1, 0)))


def by_class(found: Found) -> Found:
    """The original groups instances by class; in a class, the best come first here too."""
    order = found.labels.argsort(stable=True)
    return Found(found.boxes[order], found.scores[order], found.labels[order])


def results(model: UPSNet, image: Array) -> dict[str, Array]:
    """What a user gets."""
    result = model.predict_everything([image])[0]
    found = result.instances.select(result.instances.labels.argsort(stable=True))
    assert found.masks is not None
    computed = {
        "final/scores": array(found.scores),
        "final/boxes": array(found.boxes)
        - np.array([0, 0, 1, 1], np.float32),  # the original's end at their last pixel
        "final/labels": array(found.labels) + 1,
        "final/masks": np.packbits(array(found.masks)),
        "final/semantic": (array(result.semantic).astype(int) - model.things) % len(model.class_names),
        "final/pan_rgb": np.asarray(result.panoptic.to_png()),
    }
    return computed | unified_maps(model, image)


def unified_maps(model: UPSNet, image: Array) -> dict[str, Array]:
    """The maps behind the final picture."""
    prepared = model.preprocess(image)
    answers = model(prepared.tensor[None].to(next(model.parameters()).device))
    size = torch.tensor(prepared.resized_size, device=answers.semantic_logits.device)
    found = candidates(*model.boxes_of(answers, 0, size), model.config.test)
    semantic = model.large_semantics(answers, 0)
    masks = model.masks_of(answers, 0, found.boxes, found.labels)
    terms = panoptic_terms(found, masks, semantic, model.stuff, model.config.test.covered_fraction)
    channels = panoptic_map(panoptic_logits(terms, semantic, model.stuff))
    maps = to_photograph(Maps(semantic.argmax(dim=0), channels), prepared, model.config.test)
    labels = found.labels[terms.kept] if len(terms.kept) else found.labels.new_zeros(1)
    unified = unify(maps, labels, model.stuff, model.config.test.smallest_stuff)
    return {"final/panoptic_ids": array(maps.channels), "final/pan_2ch": upsnet_parts.two_channels(unified)}


def train(model: UPSNet, case: Case, converted: Converted[Config]) -> dict[str, Array]:
    """Loss terms of the case's own samples, and the gradients of their weighted sum under the published names."""
    device = next(model.parameters()).device
    if len(case.inputs["tensor"]) != 1:
        raise UserError(f"{case.name}: the original learns from one image at a time, not {len(case.inputs['tensor'])}")
    images = torch.from_numpy(case.inputs["tensor"]).to(device)
    networks.learns_what_is_compared(case, model, converted.names)
    answers = model.train()(images)
    size = torch.from_numpy(case.inputs["im_info"][0, :2]).to(device)
    proposals = propose(answers.levels(0), size, model.config.train.proposals)
    taught = recorded_lesson(model, case, answers)
    losses = model.losses_from(answers, [taught])
    total(losses).backward()  # type: ignore[no-untyped-call]
    weights = case.spec["loss_weights"]
    computed = {
        "train/proposals": with_zeros(proposals.boxes),
        "train/panoptic_gt": array(taught.panoptic.channels),
        "loss/total": array(total(losses)),
    }
    for published, ours in PUBLISHED_LOSSES.items():
        if ours in losses:
            computed[f"loss/{published}"] = array(losses[ours] / weights[published])
    for published, gradient in gradients(model, converted.names).items():
        # recorded by torch in float32, which comes out 0.1 % too small for ten million elements
        computed[f"grad/{published}"] = array(torch.from_numpy(gradient).norm())
        computed[f"gradval/{published}"] = gradient
    return computed | accuracies(model, answers, taught)


def recorded_lesson(model: UPSNet, case: Case, answers: Answers) -> Lesson:
    """What the case's image teaches, as recorded; only the panoptic target is ours."""
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    inputs = {name: value.to(answers.semantic_logits.device) for name, value in inputs.items()}
    whole = inputs["gt_is_crowd"] == 0
    scale = float(case.inputs["im_info"][0, 2])
    boxes, labels = inputs["gt_boxes"][whole] * scale, inputs["gt_classes"][whole].long()
    sampled = inputs["sampled/cls_label"].long()
    positives = int((sampled > 0).sum())
    semantic_regions = inputs.get("gt_semantic_roi", torch.zeros(0))  # where there is a loss for them
    kept = keep_boxes(len(boxes), model.config.train.panoptic_boxes, evenly)
    quarter = inputs["gt_semantic_4x"][0].long()
    return Lesson(
        recorded_anchors(case, answers),
        RegionTargets(inputs["sampled/rois"][:, 1:], sampled, inputs["sampled/bbox_target"][:positives]),
        MaskTargets(inputs["sampled/mask_rois"][:, 1:], sampled[:positives], inputs["sampled/mask_target"] == 1),
        SemanticTargets(inputs["gt_semantic_net"][0].long(), boxes, semantic_regions.long()),
        PanopticTargets(
            boxes[kept], labels[kept], panoptic_target(quarter, inputs["gt_masks_4x"][kept] == 1, model.stuff)
        ),
    )


def recorded_anchors(case: Case, answers: Answers) -> AnchorTargets:
    """The recorded anchors, numbered by (anchor, row, column) of a field that may be larger than the level."""
    labels, deltas = [], []
    for index, stride in enumerate(STRIDES):
        _, height, width = case.inputs[f"rpn_target/field_p{stride}"].tolist()
        anchor, row, column = np.unravel_index(case.inputs[f"rpn_target/index_p{stride}"], (3, height, width))
        level = answers.objectness[index]
        places = (row * level.shape[3] + column) * 3 + anchor
        labels.append(torch.full((level[0].numel(),), -1))
        labels[-1][places] = torch.from_numpy(case.inputs[f"rpn_target/label_p{stride}"]).long()
        deltas.append(torch.zeros(level[0].numel(), 4))
        deltas[-1][places] = torch.from_numpy(case.inputs[f"rpn_target/delta_p{stride}"])
    device = answers.semantic_logits.device
    return AnchorTargets(torch.cat(labels).to(device), torch.cat(deltas).to(device))


def evenly(count: int, wanted: int) -> Tensor:
    """How the recorded samples were drawn."""
    return torch.arange(wanted) * count // max(wanted, 1)


@torch.no_grad()
def accuracies(model: UPSNet, answers: Answers, taught: Lesson) -> dict[str, Array]:
    """How many sampled regions, and how many labelled pixels, already get the right class."""
    logits, _ = model.box_head(region_features(answers.pyramid, [taught.regions.boxes], BoxHead.size))
    boxes, labels, channels = taught.panoptic
    told = told_panoptic_logits(
        answers.semantic_logits[0], boxes / 4, labels, model.masks_of(answers, 0, boxes, labels), model.stuff
    )
    labelled = channels != UNLABELLED
    right = (told.argmax(dim=0) == channels)[labelled]
    return {
        "train/rcnn_accuracy": array((logits.argmax(dim=1) == taught.regions.labels).float().mean()),
        "train/panoptic_accuracy": array(right.float().mean()),
    }


def gradients_in(case: Case, dtype: torch.dtype) -> Gradients:
    """The gradients of the recorded samples' losses, computed in a number format."""
    converted = convert(published_checkpoint(case))
    model = build(case, converted).to(dtype).train()
    answers = model(torch.from_numpy(case.inputs["tensor"]).to(dtype))
    total(model.losses_from(answers, [recorded_lesson(model, case, answers)])).backward()  # type: ignore[no-untyped-call]
    return gradients(model, converted.names)
