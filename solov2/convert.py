"""Names in published checkpoints -> names here: WXinlong/SOLO, pytorch_solov2, MMDetection 2 and 3, AdelaiDet."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor

from maskworks.published import detectron2, reading
from maskworks.published.mmdetection import caffe_style, inputs, tested
from maskworks.published.origin import Decision, Origin, Said, choose_recipe, nearest, settle, values_of
from maskworks.published.renaming import Converted, Rules, count, missing_counters, rename, required, whole
from solov2.config import VARIANTS, Config

DEEPEST = 8  # tower that is looked for
# a deformable convolution's offsets: conv2.conv_offset, or conv2_offset in very old files
OFFSETS: Rules = [(r"(conv\d?)(?:\.conv)?_offset\.", r"\1.offset.")]
MASK_FEATURE: Rules = [
    (r"^mask_feat_head\.", "mask_feature_head."),
    (r"^mask_feature_head\.convs_all_levels\.(\d)\.conv(\d)\.", r"mask_feature_head.levels.\1.\2."),
]
MMDETECTION: Rules = [
    *OFFSETS,
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.inner_blocks.\1.0."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"fpn.layer_blocks.\1.0."),
    (r"\.gn\.", ".norm."),
]
SOLO: Rules = [
    *MMDETECTION,
    *MASK_FEATURE,
    (r"^mask_feature_head\.conv_pred\.0\.", "mask_feature_head.project."),
    (r"^bbox_head\.cate_convs\.", "category_kernel_head.category_tower."),
    (r"^bbox_head\.kernel_convs\.", "category_kernel_head.kernel_tower."),
    (r"^bbox_head\.solo_cate\.", "category_kernel_head.category."),
    (r"^bbox_head\.solo_kernel\.", "category_kernel_head.kernel."),
]
MMDETECTION_3: Rules = [
    *MMDETECTION,
    (r"^mask_head\.mask_feature_head\.", "mask_feature_head."),
    *MASK_FEATURE,
    (r"^mask_feature_head\.conv_pred\.", "mask_feature_head.project."),
    (r"^mask_head\.cls_convs\.", "category_kernel_head.category_tower."),
    (r"^mask_head\.kernel_convs\.", "category_kernel_head.kernel_tower."),
    (r"^mask_head\.conv_cls\.", "category_kernel_head.category."),
    (r"^mask_head\.conv_kernel\.", "category_kernel_head.kernel."),
]
PYTORCH_SOLOV2: Rules = [
    (r"^fpn\.lateral_convs\.(\d)\.", r"fpn.inner_blocks.\1.0."),
    (r"^fpn\.fpn_convs\.(\d)\.", r"fpn.layer_blocks.\1.0."),
    (r"^(bbox_head\.(?:cate|kernel)_convs\.\d)\.0\.", r"\1.conv."),
    (r"^(bbox_head\.(?:cate|kernel)_convs\.\d)\.1\.", r"\1.norm."),
    (r"^(mask_feat_head\.convs_all_levels\.\d\.conv\d)\.0\.", r"\1.conv."),
    (r"^(mask_feat_head\.convs_all_levels\.\d\.conv\d)\.1\.", r"\1.norm."),
    (r"^mask_feat_head\.conv_pred\.0\.", "mask_feature_head.project.conv."),
    (r"^mask_feat_head\.conv_pred\.1\.", "mask_feature_head.project.norm."),
    *SOLO,
]
ADELAIDET, ADELAIDET_MARK = "AdelaiDet", "ins_head.kernel_pred.weight"
# a tower's convolution, norm and ReLU count as three layers there
TOWERS = {"cate": "category_tower", "kernel": "kernel_tower"}
OF_ADELAIDET: Rules = [
    *detectron2.RESNET,
    *((rf"^backbone\.fpn_lateral{n}\.", f"fpn.inner_blocks.{n - 2}.0.") for n in (2, 3, 4, 5)),
    *((rf"^backbone\.fpn_output{n}\.", f"fpn.layer_blocks.{n - 2}.0.") for n in (2, 3, 4, 5)),
    *(
        (rf"^ins_head\.{theirs}_tower\.{3 * layer + place}\.", f"category_kernel_head.{ours}.{layer}.{part}.")
        for theirs, ours in TOWERS.items()
        for layer in range(DEEPEST)
        for place, part in enumerate(("conv", "norm"))
    ),
    (r"^ins_head\.cate_pred\.", "category_kernel_head.category."),
    (r"^ins_head\.kernel_pred\.", "category_kernel_head.kernel."),
    (r"^mask_head\.convs_all_levels\.(\d)\.conv(\d)\.0\.", r"mask_feature_head.levels.\1.\2.conv."),
    (r"^mask_head\.convs_all_levels\.(\d)\.conv(\d)\.1\.", r"mask_feature_head.levels.\1.\2.norm."),
    (r"^mask_head\.conv_pred\.0\.", "mask_feature_head.project.conv."),
    (r"^mask_head\.conv_pred\.1\.", "mask_feature_head.project.norm."),
]
# a name that only files of this origin have, and the origin's rules; the more particular first
SOURCES: dict[str, tuple[str, Rules]] = {
    "pytorch_solov2": ("fpn.lateral_convs.0.weight", PYTORCH_SOLOV2),
    "WXinlong/SOLO": ("bbox_head.solo_cate.weight", SOLO),
    "MMDetection 2 or 3": ("mask_head.conv_kernel.weight", MMDETECTION_3),
    ADELAIDET: (ADELAIDET_MARK, OF_ADELAIDET),
}

# what decides results and is not in the tensors
DECIDING = (
    *("model.channels", "model.mean", "model.std", "model.stride_in_1x1", "model.grids", "model.strides"),
    *("test.resize", "test.long_side", "test.short_side"),
    *("test.score_threshold", "test.mask_threshold", "test.update_threshold", "test.kernel", "test.sigma"),
    *("test.max_candidates", "test.max_instances"),
)
# of MMDetection's configuration: what is done here
TYPES: dict[str, tuple[Any, ...]] = {
    "model.type": ("SOLOv2",),
    "model.backbone.type": ("ResNet", "ResNeXt"),
    "model.neck.type": ("FPN",),
    "model.mask_head.type": ("SOLOV2Head",),
    "model.bbox_head.type": ("SOLOv2Head",),
}


SETTINGS: reading.Settings = {
    "model.stride_in_1x1": (caffe_style, ("model.backbone.style",)),
    "model.grids": (reading.whole_numbers, ("model.mask_head.num_grids", "model.bbox_head.num_grids")),
    "model.strides": (reading.whole_numbers, ("model.mask_head.strides", "model.bbox_head.strides")),
    "test.score_threshold": (reading.number, tested("score_thr")),
    "test.mask_threshold": (reading.number, tested("mask_thr")),
    "test.update_threshold": (reading.number, (*tested("filter_thr"), *tested("update_thr"))),
    "test.kernel": (reading.one_of("gaussian", "linear"), tested("kernel")),
    "test.sigma": (reading.number, tested("sigma")),
    "test.max_candidates": (reading.whole_number, tested("nms_pre")),
    "test.max_instances": (reading.whole_number, tested("max_per_img")),
}

# the same of AdelaiDet's
ADELAIDET_TYPES: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("SOLOv2",),
    "MODEL.SOLOV2.INSTANCE_IN_FEATURES": (["p2", "p3", "p4", "p5", "p6"],),
    "MODEL.SOLOV2.MASK_IN_FEATURES": (["p2", "p3", "p4", "p5"],),
    "MODEL.SOLOV2.NORM": ("GN",),
    "MODEL.SOLOV2.USE_COORD_CONV": (True,),
    "MODEL.SOLOV2.NMS_TYPE": ("matrix",),
}
ADELAIDET_SETTINGS: reading.Settings = {
    "model.grids": (reading.whole_numbers, ("MODEL.SOLOV2.NUM_GRIDS",)),
    "model.strides": (reading.whole_numbers, ("MODEL.SOLOV2.FPN_INSTANCE_STRIDES",)),
    "test.score_threshold": (reading.number, ("MODEL.SOLOV2.SCORE_THR",)),
    "test.mask_threshold": (reading.number, ("MODEL.SOLOV2.MASK_THR",)),
    "test.update_threshold": (reading.number, ("MODEL.SOLOV2.UPDATE_THR",)),
    "test.kernel": (reading.one_of("gaussian", "linear"), ("MODEL.SOLOV2.NMS_KERNEL",)),
    "test.sigma": (reading.number, ("MODEL.SOLOV2.NMS_SIGMA",)),
    "test.max_candidates": (reading.whole_number, ("MODEL.SOLOV2.NMS_PRE",)),
    "test.max_instances": (reading.whole_number, ("MODEL.SOLOV2.MAX_PER_IMG",)),
}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Whose names these are, or None if they are not SOLOv2's."""
    return next((source for source, (name, _) in SOURCES.items() if name in state), None)


@whole
def convert(state: Mapping[str, Tensor], origin: Origin | None = None, variant: str | None = None) -> Converted[Config]:
    """Rename a published state dict; the variant follows from its shapes, or is the one named."""
    source = required(recognise(state), "SOLOv2", (mark for mark, _ in SOURCES.values()))
    names = {name: rename(name, SOURCES[source][1]) for name in state}
    weights = {names[name]: value for name, value in state.items()}
    weights |= missing_counters(weights)
    config, decisions = _config(structure_of(weights), source, origin, variant)
    return Converted(source, config, weights, names, decisions)


def structure_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of the network that weights under our names belong to, the settings that their names and shapes tell."""
    head = "category_kernel_head"
    depth = count(weights, rf"{head}\.category_tower\.(\d+)\.norm\.weight")
    deformable_layers = count(weights, rf"{head}\.category_tower\.(\d+)\.conv\.offset\.weight")
    offsets = weights.get("backbone.layer2.0.conv2.offset.weight")
    return {
        "backbone": _backbone(weights),
        "deformable": "none" if offsets is None else "v1" if len(offsets) == 18 else "v2",
        "deformable_towers": "none" if not deformable_layers else "all" if deformable_layers == depth else "last",
        "deformable_mask_feature": "mask_feature_head.project.conv.offset.weight" in weights,
        "fpn_channels": len(weights["fpn.inner_blocks.0.0.weight"]),
        "tower_channels": len(weights[f"{head}.category_tower.0.conv.weight"]),
        "tower_depth": depth,
        "mask_head_channels": len(weights["mask_feature_head.levels.0.0.conv.weight"]),
        "mask_channels": len(weights[f"{head}.kernel.weight"]),
    }


@whole
def class_count(weights: Mapping[str, Tensor]) -> int:
    return len(weights["category_kernel_head.category.weight"])


def _backbone(weights: Mapping[str, Tensor]) -> Any:
    blocks = count(weights, r"backbone\.layer3\.(\d+)\.conv1\.weight")
    if "backbone.layer1.0.conv3.weight" not in weights:
        return {2: "resnet18", 6: "resnet34"}.get(blocks, "resnet10")
    width, group = weights["backbone.layer1.0.conv2.weight"].shape[:2]
    if width != group:
        return "resnext101_64x4d"
    return {6: "resnet50"}.get(blocks, "resnet101")


def _config(
    structure: dict[str, Any], source: str, origin: Origin | None, variant: str | None
) -> tuple[Config, list[Decision]]:
    """The published recipe nearest to this network (of the schedules, the longest), or the one named."""
    published = {
        name: each
        for name, each in VARIANTS.items()
        if name not in ("shapes", "small") and name.startswith("adelaidet") == (source == ADELAIDET)
    }
    # none may be quite the same: MMDetection's light DCN model modulates, none here does
    decides = {name: values_of(VARIANTS[name], DECIDING) for name in nearest(published, {"model": structure})}
    recipe = choose_recipe(decides, variant, origin)
    config = deepcopy(VARIANTS[recipe.value])
    config.model = replace(config.model, **structure)
    told: dict[str, Said] = {}
    if source == "pytorch_solov2":
        told["test.max_instances"] = Said(30, "pytorch_solov2's configuration")
    elif origin is not None and source == ADELAIDET:
        told = detectron2.of_detectron2(origin, ADELAIDET_TYPES, ADELAIDET_SETTINGS, "solov2")
    elif origin is not None:
        told = of_mmdetection(origin)
    return config, settle(config, recipe, DECIDING, told)


def of_mmdetection(origin: Origin) -> dict[str, Said]:
    """Our settings, as the configuration of MMDetection, or of SOLO on its ground, gives them."""
    reading.refuse_others(origin, TYPES, "solov2")
    return inputs(origin) | reading.said(origin, SETTINGS)
