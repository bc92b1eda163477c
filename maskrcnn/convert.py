"""Names in published checkpoints -> names here: maskrcnn-benchmark, Detectron, MMDetection 2 and 3, torchvision."""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from common.data.coco_classes import COCO_CATEGORY_IDS
from common.errors import UserError
from common.run.class_lists import data_set_of
from common.run.conversion import Converted, Rules, count, rename, whole
from common.run.mmdetection import lvis
from common.run.origin import Decision, Origin, Said, choose_recipe, settle, values_of
from maskrcnn.caffe2 import MARK, benchmark_names, with_statistics
from maskrcnn.config import VARIANTS, Config
from maskrcnn.detectron import of_detectron
from maskrcnn.detectron2 import MARKS, NAMES, anchors_by_ratio, of_detectron2
from maskrcnn.mmdetection import of_mmdetection

BENCHMARK: Rules = [
    (r"^module\.", ""),
    (r"^backbone\.body\.(stem\.)?", "backbone."),
    *[(rf"^backbone\.fpn\.fpn_inner{n}\.", f"fpn.inner_blocks.{n - 1}.0.") for n in (1, 2, 3, 4)],
    *[(rf"^backbone\.fpn\.fpn_layer{n}\.", f"fpn.layer_blocks.{n - 1}.0.") for n in (1, 2, 3, 4)],
    (r"^rpn\.head\.conv\.", "proposal_head.conv."),
    (r"^rpn\.head\.cls_logits\.", "proposal_head.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "proposal_head.deltas."),
    (r"^roi_heads\.box\.feature_extractor\.fc6\.", "box_head.layers.0."),
    (r"^roi_heads\.box\.feature_extractor\.fc7\.", "box_head.layers.1."),
    (r"^roi_heads\.box\.feature_extractor\.head\.layer4\.", "region_stage."),
    (r"^roi_heads\.box\.predictor\.cls_score\.", "box_head.category."),
    (r"^roi_heads\.box\.predictor\.bbox_pred\.", "box_head.deltas."),
    *[(rf"^roi_heads\.mask\.feature_extractor\.mask_fcn{n}\.", f"mask_head.convs.{n - 1}.") for n in (1, 2, 3, 4)],
    (r"^roi_heads\.mask\.predictor\.conv5_mask\.", "mask_head.enlarge."),
    (r"^roi_heads\.mask\.predictor\.mask_fcn_logits\.", "mask_head.logits."),
]
TORCHVISION: Rules = [
    (r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(0\.)?", r"fpn.\1_blocks.\2.0."),
    (r"^rpn\.head\.conv\.(0\.0\.)?", "proposal_head.conv."),
    (r"^roi_heads\.box_head\.fc6\.", "box_head.layers.0."),
    (r"^roi_heads\.box_head\.fc7\.", "box_head.layers.1."),
    *[(rf"^roi_heads\.mask_head\.({n - 1}\.0|mask_fcn{n})\.", f"mask_head.convs.{n - 1}.") for n in (1, 2, 3, 4)],
    (r"^roi_heads\.(box|mask)_predictor\.", r"roi_heads.\1.predictor."),
    *BENCHMARK,
]
MMDETECTION: Rules = [
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.inner_blocks.\1.0."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"fpn.layer_blocks.\1.0."),
    (r"^rpn_head\.rpn_conv\.", "proposal_head.conv."),
    (r"^rpn_head\.rpn_cls\.", "proposal_head.objectness."),
    (r"^rpn_head\.rpn_reg\.", "proposal_head.deltas."),
    (r"^roi_head\.shared_head\.layer4\.", "region_stage."),
    (r"^roi_head\.bbox_head\.shared_fcs\.", "box_head.layers."),
    (r"^roi_head\.bbox_head\.fc_cls\.", "box_head.category."),
    (r"^roi_head\.bbox_head\.fc_reg\.", "box_head.deltas."),
    (r"^roi_head\.mask_head\.convs\.(\d)\.conv\.", r"mask_head.convs.\1."),
    (r"^roi_head\.mask_head\.upsample\.", "mask_head.enlarge."),
    (r"^roi_head\.mask_head\.conv_logits\.", "mask_head.logits."),
]
DETECTRON, DETECTRON2 = "Detectron (Caffe2)", "Detectron2"
# names that files of this origin all have, and the origin's rules
SOURCES: dict[str, tuple[tuple[str, ...], Rules]] = {
    "maskrcnn-benchmark": (("rpn.head.cls_logits.weight", "roi_heads.box.predictor.cls_score.weight"), BENCHMARK),
    "torchvision": (("rpn.head.cls_logits.weight", "roi_heads.box_predictor.cls_score.weight"), TORCHVISION),
    "MMDetection 2 or 3": (
        ("rpn_head.rpn_conv.weight", "roi_head.bbox_head.fc_cls.weight", "backbone.layer1.0.conv1.weight"),
        MMDETECTION,
    ),
    DETECTRON: ((MARK, "cls_score_w", "bbox_pred_w"), BENCHMARK),
    DETECTRON2: (MARKS, NAMES),
}
# constants that we compute, the fifth stage of C4 a second time, and what Detectron's files keep of ImageNet
IGNORED = (
    r"^rpn\.anchor_generator\.cell_anchors\.\d$",
    r"^roi_heads\.mask\.feature_extractor\.head\.layer4\..+$",
    r"^fc1000\.(weight|bias)$",
    r"^.+_momentum$",
)
UNUSED = ""
# what decides results and is not in the tensors
DECIDING = (
    *("conventions.channels", "model.mean", "model.std", "model.stride_in_1x1", "model.norm_eps"),
    *("test.long_side", "test.short_side", "test.score_threshold", "test.nms_threshold"),
    *("test.max_instances", "test.mask_threshold"),
)
PUBLISHED_NAME = "the file's name, a published one"


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Whose names these are, or None if they are not a Mask R-CNN's."""
    names = {name.removeprefix("module.") for name in state}
    if any(name.startswith(("roi_head.semantic_head", "roi_head.mask_head.stage")) for name in names):
        return None  # RefineMask's head around the same detector
    return next((source for source, (marks, _) in SOURCES.items() if names.issuperset(marks)), None)


@whole
def convert(state: Mapping[str, Tensor], origin: Origin | None = None, variant: str | None = None) -> Converted[Config]:
    """Rename a published state dict; the variant follows from its names and shapes, or is the one named."""
    source = recognise(state)
    if source is None:
        raise UserError(
            "this is not a Mask R-CNN checkpoint that is known here: it has the names of none of " + ", ".join(SOURCES)
        )
    first = benchmark_names(state) if source == DETECTRON else {name: name for name in state}
    rules = [*SOURCES[source][1], *((pattern, UNUSED) for pattern in IGNORED)]
    names = {name: renamed for name, between in first.items() if (renamed := rename(between, rules))}
    weights = {here: state[name] for name, here in names.items()}
    if source == DETECTRON:
        weights = with_statistics(weights)
    weights, spare = spare_outputs_last(weights, source, origin)
    config, decisions = config_of(weights, source, origin, variant, state)
    if source == DETECTRON2 and config.model.neck == "c4":
        weights = anchors_by_ratio(weights, config.proposals)
    if spare:
        config.model.spare_outputs = spare
        decisions.append(Decision("model.spare_outputs", spare, "torchvision, whose outputs are COCO's ids"))
    if config.model.norm == "frozen_batch":  # a frozen norm counts no batches
        names = {name: here for name, here in names.items() if not here.endswith("num_batches_tracked")}
        weights = {here: value for here, value in weights.items() if not here.endswith("num_batches_tracked")}
    return Converted(source, config, weights, names, decisions)


def spare_outputs_last(weights: dict[str, Tensor], source: str, origin: Origin | None) -> tuple[dict[str, Tensor], int]:
    """torchvision has an output for each id up to the largest: those that no class has go last; how many there are."""
    outputs = class_count(weights)
    ids: tuple[int, ...] = ()
    if source == "torchvision" and origin is not None:
        of_coco = outputs == COCO_CATEGORY_IDS[-1] and (data_set_of(origin) or ("", ""))[0] == "coco"
        ids = origin.classes.ids if origin.classes is not None else COCO_CATEGORY_IDS if of_coco else ()
    if not 0 < len(ids) < outputs or not set(ids) <= set(range(1, outputs + 1)):
        return weights, 0
    order = torch.tensor([0, *ids, *(number for number in range(1, outputs + 1) if number not in ids)])
    layers = ("box_head.category.", "box_head.deltas.", "mask_head.logits.")
    ordered = {
        name: value.reshape(outputs + 1, -1)[order].reshape(value.shape)
        for name, value in weights.items()
        if name.startswith(layers)
    }
    return weights | ordered, outputs - len(ids)


@whole
def class_count(weights: Mapping[str, Tensor]) -> int:
    return len(weights["box_head.category.weight"]) - 1


def config_of(
    weights: Mapping[str, Tensor],
    source: str,
    origin: Origin | None,
    variant: str | None,
    state: Mapping[str, Tensor],
) -> tuple[Config, list[Decision]]:
    """The recipe's configuration, with what the file says, and the network that the weights' names and shapes tell."""
    told = {}
    if origin is not None and source == DETECTRON2:
        told = lvis(class_count(weights)) | of_detectron2(origin, state)
    elif origin is not None:
        mmdetection = source.startswith("MMDetection")
        told = lvis(class_count(weights)) | of_mmdetection(origin) if mmdetection else of_detectron(origin)
    recipe = recipe_of(weights, source, origin, variant, told)
    config = deepcopy(VARIANTS[recipe.value])
    model = config.model
    model.backbone, model.masks = backbone_of(weights), "mask_head.logits.weight" in weights
    if model.neck == "fpn":
        model.fpn_channels = len(weights["proposal_head.conv.weight"])
        model.box_channels = len(weights["box_head.layers.0.weight"])
        model.mask_depth = count(weights, r"mask_head\.convs\.(\d)\.weight")
    if model.masks:
        model.mask_channels = len(weights["mask_head.enlarge.bias"])
    return config, settle(config, recipe, DECIDING, told)


def recipe_of(
    weights: Mapping[str, Tensor], source: str, origin: Origin | None, variant: str | None, told: Mapping[str, Said]
) -> Decision:
    names = fitting(weights, source)
    decides = {name: values_of(VARIANTS[name], DECIDING) for name in names}
    name = "" if origin is None else origin.name
    said = None
    if source == "torchvision" and re.match(r"(mask|faster)rcnn_resnet50_fpn_coco-[0-9a-f]{8}", name):
        said = Said("torchvision_r50_fpn", PUBLISHED_NAME)
    elif "mmdet_r50_caffe_fpn" in names and "model.stride_in_1x1" in told:
        style = told["model.stride_in_1x1"]
        said = Said("mmdet_r50_caffe_fpn" if style.value else "mmdet_r50_fpn", style.source)
    elif "mmdet_r50_caffe_fpn" in names and "caffe" in name:
        said = Said("mmdet_r50_caffe_fpn", "the file's name, with caffe in it")
    elif "mmdet_r50_caffe_fpn" in names and re.fullmatch(
        r"(mask|faster)[_-]rcnn_r\d+_fpn_.+_\d{8}(_\d{6})?-\w{8}", name
    ):
        said = Said("mmdet_r50_fpn", PUBLISHED_NAME)
    return choose_recipe(decides, variant, origin, said)


def fitting(weights: Mapping[str, Tensor], source: str) -> list[str]:
    """The published recipes whose networks have these names and shapes."""
    pyramid, backbone = "fpn.inner_blocks.0.0.weight" in weights, backbone_of(weights)
    if source == "torchvision":  # its norms count batches only where they have been trained from nothing
        anew = "backbone.bn1.num_batches_tracked" in weights
        return ["torchvision_r50_fpn_imagenet"] if anew else ["torchvision_r50_fpn_imagenet", "torchvision_r50_fpn"]
    if source.startswith("MMDetection"):
        if not pyramid:
            return ["mmdet_r50_caffe_c4"]
        if backbone == "resnext101_32x8d":
            return ["mmdet_x101_32x8d_fpn"]
        # whether an FPN is in the manner of Caffe2 leaves no trace in the weights
        return ["mmdet_r50_caffe_fpn", "mmdet_r50_fpn"] if backbone != "resnet18" else ["mmdet_r50_fpn"]
    if source == DETECTRON2:
        if not pyramid and "backbone.layer4.0.conv1.weight" in weights:
            raise UserError(
                "these are Detectron2's names of a DC5 network, with a dilated fifth stage; known: FPN and C4"
            )
        resnext = "detectron2_x101_32x8d_fpn" if backbone == "resnext101_32x8d" else "detectron2_r50_fpn"
        return [resnext if pyramid else "detectron2_r50_c4"]
    by_backbone = {"resnet101": "r101_fpn_1x", "resnext101_32x8d": "x101_32x8d_fpn_1x"}
    return [by_backbone.get(backbone, "r50_fpn_1x") if pyramid else "r50_c4_1x"]


def backbone_of(weights: Mapping[str, Tensor]) -> Any:
    blocks = count(weights, r"backbone\.layer3\.(\d+)\.conv1\.weight")
    if "backbone.layer1.0.conv3.weight" not in weights:
        return "resnet18" if blocks == 2 else "resnet10"
    width, of_group = weights["backbone.layer1.0.conv2.weight"].shape[:2]
    if width == of_group:
        return "resnet50" if blocks == 6 else "resnet101"
    if (width, of_group, blocks) != (256, 8, 23):
        raise UserError(
            f"its backbone is a ResNeXt of {width // of_group} groups of {of_group} channels; known: ResNeXt-101 32x8d"
        )
    return "resnext101_32x8d"
