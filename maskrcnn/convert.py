"""Names in published checkpoints -> names here: maskrcnn-benchmark, Detectron, MMDetection 2 and 3, torchvision."""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torchvision.models.resnet import Bottleneck

from common.errors import UserError
from maskrcnn.backbone import ARCHITECTURES
from maskrcnn.caffe2 import MARK, benchmark_names, with_statistics
from maskrcnn.config import VARIANTS, Config, Model, Neck
from maskrcnn.detectron import of_detectron
from maskrcnn.detectron2 import MARKS, NAMES, anchors_by_ratio, of_detectron2
from maskrcnn.mmdetection import has_standardised_weights, of_mmdetection, with_standardised_weights
from maskrcnn.network import MaskRCNN
from maskworks.published.class_lists import data_set_of
from maskworks.published.coco_classes import COCO_CATEGORY_IDS
from maskworks.published.mmdetection import lvis
from maskworks.published.origin import Decision, Origin, Said, choose_recipe, plain_dict, settle, values_of
from maskworks.published.renaming import Converted, Rules, count, refuse_other_layers, rename, required, whole

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
    (r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?=weight|bias)", r"fpn.\1_blocks.\2.0."),
    (r"^backbone\.fpn\.(inner|layer)_blocks\.", r"fpn.\1_blocks."),
    (r"^rpn\.head\.conv\.(0\.0\.)?(?=weight|bias)", "proposal_head.conv."),
    (r"^rpn\.head\.conv\.1\.0\.", "proposal_head.further.0."),
    (r"^roi_heads\.box_head\.(fc6|\d)\.(?=weight|bias)", "box_head.layers.0."),
    (r"^roi_heads\.box_head\.fc7\.", "box_head.layers.1."),
    (r"^roi_heads\.(box|mask)_head\.(\d)\.([01])\.", r"\1_head.convs.\2.\3."),
    *[(rf"^roi_heads\.mask_head\.mask_fcn{n}\.", f"mask_head.convs.{n - 1}.") for n in (1, 2, 3, 4)],
    (r"^roi_heads\.(box|mask)_predictor\.", r"roi_heads.\1.predictor."),
    *BENCHMARK,
]
MMDETECTION: Rules = [
    (r"\.gn(\d)\.", r".bn\1."),
    (r"\.conv2(_|\.conv_)offset\.", ".conv2.offset."),
    (r"\.conv\.(?=weight|bias)", ".0."),
    (r"\.(gn|bn)\.", ".1."),
    (r"^neck\.lateral_convs\.", "fpn.inner_blocks."),
    (r"^neck\.fpn_convs\.", "fpn.layer_blocks."),
    (r"^rpn_head\.rpn_conv\.(0\.0\.)?(?=weight|bias)", "proposal_head.conv."),
    (r"^rpn_head\.rpn_conv\.1\.0\.", "proposal_head.further.0."),
    (r"^rpn_head\.rpn_cls\.", "proposal_head.objectness."),
    (r"^rpn_head\.rpn_reg\.", "proposal_head.deltas."),
    (r"^roi_head\.shared_head\.layer4\.", "region_stage."),
    (r"^roi_head\.bbox_head\.shared_convs\.", "box_head.convs."),
    (r"^roi_head\.bbox_head\.shared_fcs\.", "box_head.layers."),
    (r"^roi_head\.bbox_head\.fc_cls\.", "box_head.category."),
    (r"^roi_head\.bbox_head\.fc_reg\.", "box_head.deltas."),
    (r"^roi_head\.mask_head\.convs\.", "mask_head.convs."),
    (r"^roi_head\.mask_head\.upsample\.", "mask_head.enlarge."),
    (r"^roi_head\.mask_head\.conv_logits\.", "mask_head.logits."),
]
UNNORMED: Rules = [(r"^((?:box|mask)_head\.convs\.\d)\.0\.", r"\1.")]  # of a convolution without a norm
DETECTRON, DETECTRON2, MMDETECTION_2_3 = "Detectron (Caffe2)", "Detectron2", "MMDetection 2 or 3"
# names that files of this origin all have, and the origin's rules
SOURCES: dict[str, tuple[tuple[str, ...], Rules]] = {
    "maskrcnn-benchmark": (("rpn.head.cls_logits.weight", "roi_heads.box.predictor.cls_score.weight"), BENCHMARK),
    "torchvision": (("rpn.head.cls_logits.weight", "roi_heads.box_predictor.cls_score.weight"), TORCHVISION),
    MMDETECTION_2_3: (("rpn_head.rpn_cls.weight", "roi_head.bbox_head.fc_cls.weight"), MMDETECTION),
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
KNOWN = (
    "Faster R-CNN and Mask R-CNN on ResNet or ResNeXt (" + ", ".join(ARCHITECTURES) + "), with FPN, C4 or DC5, also "
    "with deformable convolutions, group norm, or batch norm in the heads"
)
PUBLISHED = re.compile(r"(scratch_)?(mask|faster)[_-]rcnn_r\d+_fpn_.+-[0-9a-f]{8}")  # MMDetection's, but for caffe's
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
    source = required(recognise(state), "Mask R-CNN", (mark for marks, _ in SOURCES.values() for mark in marks))
    first = benchmark_names(state) if source == DETECTRON else {name: name for name in state}
    rules = [*SOURCES[source][1], *((pattern, UNUSED) for pattern in IGNORED)]
    names = {name: renamed for name, between in first.items() if (renamed := rename(between, rules))}
    if not {"box_head.convs.0.1.weight", "mask_head.convs.0.1.weight"} & set(names.values()):
        names = {name: rename(here, UNNORMED) for name, here in names.items()}
    weights = {here: state[name] for name, here in names.items()}
    if source == DETECTRON:
        weights = with_statistics(weights)
    if standardised := source == MMDETECTION_2_3 and origin is not None and has_standardised_weights(origin):
        weights = with_standardised_weights(weights)
    weights, spare = spare_outputs_last(weights, source, origin)
    config, decisions = config_of(weights, source, origin, variant, state)
    if source == DETECTRON2 and config.model.neck != "fpn":
        weights = anchors_by_ratio(weights, config.proposals)
    if spare:
        config.model.spare_outputs = spare
        decisions.append(Decision("model.spare_outputs", spare, "torchvision, whose outputs are COCO's ids"))
    if standardised:
        decisions.append(Decision("weights", "standardised once and for all", "its name or configuration, of gn+ws"))
    if config.model.norm == "frozen_batch":  # a frozen norm counts no batches
        names = {name: here for name, here in names.items() if not here.endswith("num_batches_tracked")}
        weights = {here: value for here, value in weights.items() if not here.endswith("num_batches_tracked")}
    with torch.device("meta"):
        network = MaskRCNN(config, ["" for _ in range(class_count(weights))])
    file = origin.path if origin else "the checkpoint"
    refuse_other_layers(network, weights, f"a two-stage detector of {source}", KNOWN, file)
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
    neck, classes = neck_of(weights), class_count(weights)
    if origin is not None and source == DETECTRON2:
        told = lvis(classes) | of_detectron2(origin, state, neck)
    elif origin is not None and source == MMDETECTION_2_3:
        told = lvis(classes) | of_mmdetection(origin, neck)
    elif origin is not None:
        told = of_detectron(origin)
    if "model.channels" in told:  # a convention here
        told["conventions.channels"] = told.pop("model.channels")
    recipe = recipe_of(weights, source, origin, variant, told)
    config = deepcopy(VARIANTS[recipe.value])
    model = config.model
    model.backbone, model.neck, model.masks = backbone_of(weights), neck, "mask_head.logits.weight" in weights
    model.proposal_convs = 1 + count(weights, r"proposal_head\.further\.(\d)\.weight")
    if neck == "fpn":
        model.fpn_channels = len(weights["proposal_head.conv.weight"])
    if neck != "c4":
        model.box_channels = len(weights["box_head.layers.0.weight"])
        model.box_layers = count(weights, r"box_head\.layers\.(\d)\.weight")
        model.box_convs = count(weights, r"box_head\.convs\.(\d)\..+")
        model.mask_depth = count(weights, r"mask_head\.convs\.(\d)\..+") if model.masks else model.mask_depth
    if model.masks:
        model.mask_channels = len(weights["mask_head.enlarge.bias"])
    model.class_agnostic = len(weights["box_head.deltas.bias"]) == 4 < 4 * classes
    set_norms(model, weights)
    set_deformable(model, weights)
    return config, settle(config, recipe, DECIDING, told)


def set_norms(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Which norms backbone and heads have; where the heads have batch norms, all of them learn statistics."""
    model.head_norm = "none"
    for layer in ("fpn.inner_blocks.0.1", "box_head.convs.0.1", "mask_head.convs.0.1"):
        if f"{layer}.weight" in weights:
            model.head_norm = "live_batch" if f"{layer}.running_mean" in weights else "group"
    if "backbone.bn1.running_mean" not in weights:
        model.norm = "group"
    elif model.head_norm == "live_batch":
        model.norm, model.norm_eps = "live_batch", 1e-5


def set_deformable(model: Model, weights: Mapping[str, Tensor]) -> None:
    """From the offsets' channels: for each of 9 taps 2, modulated 3, for each of 1, 2, 4 ... groups."""
    model.deformable = "none"
    if (offsets := weights.get("backbone.layer2.0.conv2.offset.bias")) is not None:
        model.deformable = "modulated" if len(offsets) % 27 == 0 else "offsets"
        model.deformable_groups = len(offsets) // (27 if model.deformable == "modulated" else 18)


def recipe_of(
    weights: Mapping[str, Tensor], source: str, origin: Origin | None, variant: str | None, told: Mapping[str, Said]
) -> Decision:
    names = fitting(weights, source)
    decides = {name: values_of(VARIANTS[name], DECIDING) for name in names}
    name = "" if origin is None else origin.name
    said = None
    if "torchvision_r50_fpn" in names and origin is not None:
        said = of_torchvision(origin)
    elif "mmdet_r50_caffe_fpn" in names and "model.stride_in_1x1" in told:
        style = told["model.stride_in_1x1"]
        said = Said("mmdet_r50_caffe_fpn" if style.value else "mmdet_r50_fpn", style.source)
    elif "mmdet_r50_fpn_gn" in names and "model.mean" in told:  # what else they differ in is told then
        said = Said("mmdet_r50_fpn_gn", told["model.mean"].source)
    elif "mmdet_r50_caffe_fpn" in names and "caffe" in name:
        said = Said("mmdet_r50_caffe_fpn", "the file's name, with caffe in it")
    elif len(names) > 1 and PUBLISHED.fullmatch(name):
        said = Said(
            "mmdet_r50_fpn_gn" if "_gn-all_" in name and "contrib" not in name else "mmdet_r50_fpn", PUBLISHED_NAME
        )
    return choose_recipe(decides, variant, origin, said)


def of_torchvision(origin: Origin) -> Said | None:
    """Whether the norms' epsilon is 0, as with torchvision's COCO weights: by their name, or by a training's `args`."""
    if re.match(r"(mask|faster)rcnn_resnet50_fpn_coco-[0-9a-f]{8}", origin.name):
        return Said("torchvision_r50_fpn", PUBLISHED_NAME)
    args = plain_dict(origin.rest.get("args"))
    if "weights_backbone" not in args and "pretrained" not in args:
        return None
    from_coco = args.get("weights") or args.get("pretrained")
    return Said("torchvision_r50_fpn" if from_coco else "torchvision_r50_fpn_imagenet", "its training's args.weights")


def fitting(weights: Mapping[str, Tensor], source: str) -> list[str]:
    """The published recipes whose networks have these names and shapes."""
    neck, backbone = neck_of(weights), backbone_of(weights)
    if source == "torchvision":  # its norms count batches only where they have been trained from nothing
        if "fpn.inner_blocks.0.1.weight" in weights:
            return ["torchvision_r50_fpn_v2"]
        anew = "backbone.bn1.num_batches_tracked" in weights
        return ["torchvision_r50_fpn_imagenet"] if anew else ["torchvision_r50_fpn_imagenet", "torchvision_r50_fpn"]
    grouped = "backbone.bn1.running_mean" not in weights
    if source == MMDETECTION_2_3:
        return fitting_mmdetection(neck, backbone, grouped)
    resnext = backbone == "resnext101_32x8d"
    if source == DETECTRON2:
        pyramid = "x101_32x8d_fpn" if resnext else "r50_fpn_gn" if grouped else "r50_fpn"
        return [f"detectron2_{pyramid}" if neck == "fpn" else f"detectron2_r50_{neck}"]
    pyramid = "x101_32x8d_fpn_1x" if resnext else "r101_fpn_1x" if backbone == "resnet101" else "r50_fpn_1x"
    return [pyramid if neck == "fpn" else "r50_c4_1x"]


def fitting_mmdetection(neck: Neck, backbone: str, grouped: bool) -> list[str]:
    if neck != "fpn":
        return [f"mmdet_r50_caffe_{neck}"]
    if backbone == "resnext101_32x8d":
        return ["mmdet_x101_32x8d_fpn"]
    if grouped:
        return ["mmdet_r50_fpn_gn", "mmdet_r50_fpn"]
    # whether an FPN is in the manner of Caffe2 leaves no trace in the weights; only these two are published in both
    return ["mmdet_r50_caffe_fpn", "mmdet_r50_fpn"] if backbone in ("resnet50", "resnet101") else ["mmdet_r50_fpn"]


def neck_of(weights: Mapping[str, Tensor]) -> Neck:
    if "fpn.inner_blocks.0.0.weight" in weights:
        return "fpn"
    return "c4" if "region_stage.0.conv1.weight" in weights else "dc5"


def backbone_of(weights: Mapping[str, Tensor]) -> Any:
    """The one of our backbones that has these blocks and groups."""
    if not any(name.startswith("backbone.layer1.0.") for name in weights):
        first = next((name for name in weights if name.startswith("backbone.")), "no backbone")
        raise UserError(
            f"these are the names of a two-stage detector on something else than a ResNet, {first}; known: {KNOWN}"
        )
    shape = weights["backbone.layer1.0.conv2.weight"].shape
    bottleneck = "backbone.layer1.0.conv3.weight" in weights
    blocks = [count(weights, rf"backbone\.layer{stage}\.(\d+)\.conv1\.weight") for stage in (1, 2, 3)]
    groups = shape[0] // shape[1]
    found = bottleneck, blocks, groups, shape[0]
    for name, (block, of_stages, its_groups, width) in ARCHITECTURES.items():
        if (block is Bottleneck, of_stages[:3], its_groups, its_groups * width) == found:
            return name
    raise UserError(
        f"its backbone has {blocks} {'bottlenecks' if bottleneck else 'blocks'} in stages 2 to 4, of {groups} groups "
        f"of {shape[1]} channels; known: {KNOWN}"
    )
