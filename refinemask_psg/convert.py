"""Names in published checkpoints -> names here: RefineMask, CBNetV2, refine_caslm, psg, MMDetection, Detectron2.

U-2-Net's own files need no conversion: u2net/network.py has their names.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from maskworks.published import reading
from maskworks.published.coco_classes import COCO_CLASSES, COCO_STUFF
from maskworks.published.detectron2 import of_detectron2
from maskworks.published.mmdetection import caffe_style, inputs, lvis, pixels_before_channels, tested
from maskworks.published.origin import Classes, Origin, Said, at, choose_recipe, plain_dict, settle
from maskworks.published.reading import four_numbers
from maskworks.published.renaming import Converted, Rules, count, missing_counters, refuse_other_layers, rename, whole
from refinemask_psg import detectron2
from refinemask_psg.config import CASCADE_STDS, VARIANTS, Config
from refinemask_psg.network import RefineMask
from refinemask_psg.psg.config import PSG_PREDICATES, Relations
from refinemask_psg.psg.convert import RELATION_RULES, RELATION_UNUSED, relation_settings
from refinemask_psg.swin import SMALL_DEPTHS

BACKBONE: Rules = [
    (r"\.conv2(_|\.conv_)offset\.", ".conv2.offset."),
    (r"^backbone\.cb_modules\.0\.", "backbone.assisting."),
    (r"^backbone\.cb_modules\.1\.", "backbone.lead."),
    (r"^backbone\.cb_linears\.", "backbone.connections."),
    # MMDetection 3's Swin
    (r"^backbone\.patch_embed\.projection\.", "backbone.patch_embed.proj."),
    (r"^backbone\.stages\.", "backbone.layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
]
HEADS: Rules = [
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.lateral.\1."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"fpn.output.\1."),
    (r"^rpn_head\.rpn_conv\.", "rpn.conv."),
    (r"^rpn_head\.rpn_cls\.", "rpn.objectness."),
    (r"^rpn_head\.rpn_reg\.", "rpn.deltas."),
    (r"^roi_head\.bbox_head\.(?=\D)", "box_heads.0."),
    (r"^roi_head\.bbox_head\.(\d)\.", r"box_heads.\1."),
    (r"^(box_heads\.\d)\.shared_fcs\.0\.", r"\1.first."),
    (r"^(box_heads\.\d)\.shared_fcs\.1\.", r"\1.second."),
    (r"^(box_heads\.\d)\.fc_cls\.", r"\1.classes."),
    (r"^(box_heads\.\d)\.fc_reg\.", r"\1.deltas."),
    (r"^roi_head\.mask_head\.(?=\D)", "mask_heads.0."),
    (r"^roi_head\.mask_head\.(\d)\.", r"mask_heads.\1."),
    (r"^(mask_heads\.\d)\.conv_logits\.", r"\1.logits."),
    (r"^(mask_heads\.\d\.(?:instance_|semantic_)?convs\.\d)\.conv\.", r"\1.0."),
    (r"^(mask_heads\.\d)\.semantic_logits\.", r"\1.foreground."),
    (r"^(mask_heads\.\d)\.final_instance_logits\.", r"\1.final."),
    (r"^roi_head\.semantic_head\.u2net\.", "semantic_head."),
]
STAGE: Rules = [
    (r"\.semantic_transform_in\.", ".semantic_in."),
    (r"\.semantic_transform_out\.", ".semantic_out."),
    (r"\.instance_logits\.", ".logits."),
    (r"\.fuse_conv\.0\.", ".fuse_in."),
    (r"\.fuse_conv\.1\.dilation_conv_1\.conv\.", ".branches.0."),
    (r"\.fuse_conv\.1\.dilation_conv_2\.conv\.", ".branches.1."),
    (r"\.fuse_conv\.1\.dilation_conv_3\.conv\.", ".branches.2."),
    (r"\.fuse_conv\.1\.merge_conv\.conv\.", ".merge."),
    (r"\.fuse_transform_out\.", ".fuse_out."),
]
RULES: Rules = [*BACKBONE, *HEADS, *STAGE, *RELATION_RULES]
SWINS_OWN = "Swin-Transformer-Object-Detection"  # of its authors, on MMDetection 2.11
CASCADE_OF_MMDETECTION = "MMDetection 2 or 3, Cascade R-CNN"
COMPOSITE = "backbone.cb_linears.0.1.weight"
PLAIN = "roi_head.mask_head.conv_logits.weight"
REFINES = "roi_head.mask_head.final_instance_logits.weight"
# names that together only files of this origin have; the more particular first
SOURCES: dict[str, tuple[str, ...]] = {
    "wangqixun/psg": (REFINES, COMPOSITE, "roi_head.semantic_head.u2net.outconv.weight"),
    "refine_caslm": (REFINES, COMPOSITE),
    "RefineMask": (REFINES,),
    "CBNetV2": (COMPOSITE, PLAIN),
    CASCADE_OF_MMDETECTION: ("roi_head.bbox_head.0.fc_cls.weight",),
    "MMDetection 3, Swin": ("backbone.stages.0.blocks.0.attn.w_msa.qkv.weight", PLAIN),
    detectron2.SOURCE: detectron2.MARKS,
    SWINS_OWN: ("backbone.layers.0.blocks.0.attn.qkv.weight", PLAIN),
}
# constants that published Swins store, and older files of Detectron2
COMPUTED = r".*\.relative_position_index|pixel_mean|pixel_std|proposal_generator\.anchor_generator\..*"


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Whose names these are, or None if they are of no network here.

    A plain Mask R-CNN on a single ResNet is package maskrcnn's.
    """
    found = next((source for source, marks in SOURCES.items() if all(mark in state for mark in marks)), None)
    whole = "neck.lateral_convs.0.conv.weight" in state and "rpn_head.rpn_conv.weight" in state
    return found if whole or found == detectron2.SOURCE else None


@whole
def convert(state: Mapping[str, Tensor], origin: Origin | None = None, variant: str | None = None) -> Converted[Config]:
    """Rename a published state dict; the variant follows from its names and shapes, or is the one named."""
    source = recognise(state)
    if source is None:
        raise UserError(
            "this is not a checkpoint of RefineMask, CBNetV2, refine_caslm or psg, nor a Swin or Cascade Mask R-CNN "
            "of MMDetection: it lacks their neck, rpn_head or roi_head"
        )
    unused = re.compile(f"{COMPUTED}|{RELATION_UNUSED}")
    rules = detectron2.NAMES if source == detectron2.SOURCE else RULES
    names = {name: rename(name, rules) for name in state if not unused.fullmatch(name)}
    weights = {names[name]: state[name] for name in names}
    weights |= missing_counters(weights)
    if source == "MMDetection 3, Swin":
        merges = [name for name in weights if ".downsample." in name]
        weights |= {name: pixels_before_channels(weights[name]) for name in merges}
    relations = relation_settings(state)
    told = lvis(class_count(weights))
    if origin is not None and source == detectron2.SOURCE:
        told |= of_detectron2(origin, detectron2.ONLY, detectron2.SETTINGS, "refinemask_psg")
    elif origin is not None:
        told |= recipe_32x8d(weights) | of_mmdetection(origin)
    if source == SWINS_OWN:
        told |= {"test.nms_in": Said("photograph", source), "test.drop_empty_proposals": Said(False, source)}
    fitting = fitting_recipes(weights, source, relations)
    decides = {name: (VARIANTS[name].model, VARIANTS[name].test) for name in fitting}
    recipe = choose_recipe(decides, variant, origin, named_recipe(origin, fitting, told))
    config = config_of(weights, recipe.value)
    config.relations = relations
    if config.relations.head == "none":
        with torch.device("meta"):
            network = RefineMask(config, ["" for _ in range(class_count(weights))])
        file = origin.path if origin else "the checkpoint"
        refuse_other_layers(network, weights, f"of the family of {source}", KNOWN, file)
    return Converted(source, config, weights, names, settle(config, recipe, DECIDING, told))


@whole
def class_count(weights: Mapping[str, Tensor]) -> int:
    return len(weights["box_heads.0.classes.weight"]) - 1


def published_classes(config: Config, count: int) -> Classes | None:
    """PSG's classes, numbered from 1, where a relation head of its predicates says that they are; else None."""
    if config.relations.head == "none" or config.relations.predicates != PSG_PREDICATES or count != len(PSG_CLASSES):
        return None
    return Classes(PSG_CLASSES, tuple(range(1, count + 1)), "wangqixun/psg, whose relation head it has")


def config_of(weights: Mapping[str, Tensor], variant: str) -> Config:
    """The variant with this network."""
    config = deepcopy(VARIANTS[variant])
    config.model = replace(
        config.model,
        backbone=backbone_of(weights),
        composite="backbone.connections.0.1.weight" in weights,
        absolute_positions=any(name.endswith("absolute_pos_embed") for name in weights),
        fpn_channels=len(weights["fpn.lateral.0.weight"]),
        deformable=deformable_of(weights),
        box_class_agnostic=len(weights["box_heads.0.deltas.weight"]) == 4,
        box_channels=len(weights["box_heads.0.first.weight"]),
        mask_head="refine" if "mask_heads.0.final.weight" in weights else "plain",
        mask_final_agnostic=len(weights.get("mask_heads.0.final.weight", ())) == 1 < class_count(weights),
        mask_heads=count(weights, r"mask_heads\.(\d)\..*"),
        semantic_head="semantic_head.outconv.weight" in weights,
    )
    model, stages = config.model, count(weights, r"box_heads\.(\d)\..*")
    if len(model.box_ious) != stages:  # a cascade of three where the variant has one stage, or the other way round
        model.box_ious, model.box_stage_weights = (0.5, 0.6, 0.7)[:stages], (1.0, 0.5, 0.25)[:stages]
        model.box_stds = CASCADE_STDS[:stages]
    return config


def fitting_recipes(weights: Mapping[str, Tensor], source: str, relations: Relations) -> list[str]:
    """The published variants that have these weights; of two schedules, the longer comes last."""
    depth = "r50" if backbone_of(weights) == "resnet50" else "r101"
    if source == "RefineMask" and config_of(weights, f"refinemask_{depth}_2x").model.mask_final_agnostic:
        return [f"refinemask_{depth}_lvis"]
    if source == "RefineMask":
        cityscapes = depth == "r50" and class_count(weights) == 8
        own = [f"refinemask_{depth}_1x", f"refinemask_{depth}_2x"]
        return [*own, CITYSCAPES] if cityscapes else own
    if source == "wangqixun/psg":
        return ["psg_pairs" if relations.head == "pairs" else "psg"]
    if source == "refine_caslm":
        cascade = "box_heads.2.classes.weight" in weights
        return ["refine_cbv2_swin_tiny_cascade_last" if cascade else "refine_cbv2_swin_tiny_mask_rcnn"]
    published_in_both = backbone_of(weights) in ("resnet50", "resnet101") and deformable_of(weights) == "none"
    return {
        "CBNetV2": ["mask_rcnn_cbv2_swin_tiny"],
        "MMDetection 3, Swin": [f"mmdet_mask_rcnn_{backbone_of(weights)}"],
        SWINS_OWN: [f"mmdet_mask_rcnn_{backbone_of(weights)}"],
        CASCADE_OF_MMDETECTION: [CAFFE, PYTORCH] if published_in_both else [PYTORCH],
        detectron2.SOURCE: ["detectron2_cascade_mask_rcnn_r50_1x", "detectron2_cascade_mask_rcnn_r50_3x"],
    }[source]


def recipe_32x8d(weights: Mapping[str, Tensor]) -> dict[str, Said]:
    """What MMDetection's recipe of ResNeXt-101 32x8d, whose weights are Detectron2's, has unlike the others."""
    if backbone_of(weights) != "resnext101_32x8d":
        return {}
    values = {"model.channels": "bgr", "model.mean": (103.53, 116.28, 123.675), "model.std": (57.375, 57.12, 58.395)}
    return {setting: Said(value, "the published recipe of ResNeXt-101 32x8d") for setting, value in values.items()}


def named_recipe(origin: Origin | None, fitting: list[str], told: Mapping[str, Said]) -> Said | None:
    """Which of several recipes the file's configuration is of, or its name says."""
    if origin is None or not {CAFFE, CITYSCAPES} & set(fitting):
        return None
    if CAFFE in fitting:
        return caffe_or_not(origin, fitting[-1], told.get("model.stride_in_1x1"))
    if "test.long_side" in told:
        sizes = (told["test.long_side"].value, told["test.short_side"].value)
        like = [name for name in fitting if (VARIANTS[name].test.long_side, VARIANTS[name].test.short_side) == sizes]
        return Said((like or fitting[:2])[-1], told["test.long_side"].source)
    named = CITYSCAPES in fitting and "cityscapes" in origin.name
    return Said(CITYSCAPES, "the file's name, with cityscapes in it") if named else None


def caffe_or_not(origin: Origin, other: str, style: Said | None) -> Said | None:
    """Which kind of cascade a file of MMDetection's is."""
    if style is not None:
        return Said(CAFFE if style.value else other, style.source)
    if "caffe" in origin.name:
        return Said(CAFFE, "the file's name, with caffe in it")
    published = re.fullmatch(r"cascade[_-](mask[_-])?rcnn_r\d+_fpn_.+_\d{8}(_\d{6})?-\w{8}", origin.name)
    return Said(other, "the file's name, a published one") if published else None


def of_mmdetection(origin: Origin) -> dict[str, Said]:
    """Our settings as MMDetection's configuration gives them; what is not done here is refused."""
    reading.refuse_others(origin, MMDETECTION_ONLY, "refinemask_psg")
    told = inputs(origin) | reading.said(origin, MMDETECTION_SETTINGS)
    if str(at(origin.recipe, "model.backbone.type")).startswith("ResNet") and "model.stride_in_1x1" not in told:
        told["model.stride_in_1x1"] = Said(False, "its configuration, whose backbone has no style: pytorch")
    version = str(plain_dict(origin.rest.get("meta")).get("mmdet_version", ""))
    if version.startswith("2."):
        told["test.nms_in"] = Said("photograph", f"its MMDetection, {version}")
    return told


def stds_of_stages(value: Any) -> tuple[tuple[float, ...], ...]:
    """Each box head's, of one head or of a cascade's."""
    heads = value if isinstance(value, (list, tuple)) else [value]
    found = [at(head, "bbox_coder.target_stds") for head in heads]
    return tuple(four_numbers(each) for each in found) if all(found) else CASCADE_STDS[: len(heads)]


def one_scale(value: Any) -> int:
    if not isinstance(value, (list, tuple)) or len(value) != 1:
        raise ValueError("one scale")
    return reading.whole_number(value[0])


MMDETECTION_SETTINGS: reading.Settings = {
    "model.stride_in_1x1": (caffe_style, ("model.backbone.style",)),
    "model.box_stds": (stds_of_stages, ("model.roi_head.bbox_head",)),
    "model.anchor_scale": (one_scale, ("model.rpn_head.anchor_generator.scales",)),
    "test.proposals_before_nms": (reading.whole_number, tested("rpn.nms_pre")),
    "test.proposals": (reading.whole_number, (*tested("rpn.max_per_img"), *tested("rpn.max_num"))),
    "test.proposal_nms": (reading.number, (*tested("rpn.nms.iou_threshold"), *tested("rpn.nms_thr"))),
    "test.score_threshold": (reading.number, tested("rcnn.score_thr")),
    "test.nms": (reading.number, (*tested("rcnn.nms.iou_threshold"), *tested("rcnn.nms.iou_thr"))),
    "test.max_instances": (reading.whole_number, tested("rcnn.max_per_img")),
    "test.mask_threshold": (reading.number, tested("rcnn.mask_thr_binary")),
}
MMDETECTION_ONLY: dict[str, list[Any]] = {
    "model.backbone.dcn.type": ["DCN", "DCNv2"],
    "model.backbone.dcn.deform_groups": [1],
    "model.backbone.dcn.fallback_on_stride": [False],
    **{f"model.roi_head.bbox_head{stage}.loss_cls.type": ["CrossEntropyLoss"] for stage in ("", ".0", ".1", ".2")},
    **{f"model.roi_head.bbox_head{stage}.loss_cls.use_sigmoid": [False] for stage in ("", ".0", ".1", ".2")},
    "model.roi_head.bbox_roi_extractor.type": ["SingleRoIExtractor"],
    "model.rpn_head.anchor_generator.ratios": [[0.5, 1.0, 2.0]],
    "model.rpn_head.anchor_generator.strides": [[4, 8, 16, 32, 64]],
    **{path: ["nms"] for path in tested("rcnn.nms.type")},
}
# what decides results and is not in the tensors
DECIDING = (
    *("model.conventions", "model.channels", "model.mean", "model.std", "model.stride_in_1x1", "model.fpn_upsampling"),
    *("model.box_stds",),
    *("test.long_side", "test.short_side", "test.score_threshold", "test.nms", "test.max_instances"),
    *("test.mask_threshold", "test.nms_in"),
)
PSG_CLASSES = (*COCO_CLASSES, *COCO_STUFF)
CAFFE, PYTORCH = "mmdet_cascade_mask_rcnn_r50_caffe_1x", "mmdet_cascade_mask_rcnn_r50_1x"
CITYSCAPES = "refinemask_r50_cityscapes"
KNOWN = (
    "RefineMask and Cascade (Mask) R-CNN on ResNet-50, -101 and ResNeXt-101 (32x4d, 32x8d, 64x4d), also deformable, "
    "and Mask R-CNN on Swin-T, Swin-S or two Swin-T"
)


def backbone_of(weights: Mapping[str, Tensor]) -> Any:
    blocks = count(weights, r"backbone\.layer3\.(\d+)\.conv1\.weight")
    if not blocks:
        long = count(weights, r"backbone\.layers\.2\.blocks\.(\d+)\.norm1\.weight") == SMALL_DEPTHS[2]
        return "swin_small" if long else "swin_tiny"
    if blocks < 23:
        return {1: "resnet10"}.get(blocks, "resnet50")
    width, group = weights["backbone.layer1.0.conv2.weight"].shape[:2]
    return "resnet101" if width == group else f"resnext101_{width // group}x{group}d"


def deformable_of(weights: Mapping[str, Tensor]) -> Any:
    offsets = weights.get("backbone.layer2.0.conv2.offset.bias")
    return "none" if offsets is None else "v1" if len(offsets) == 18 else "v2"
