"""Names in published checkpoints -> names here: dbolya/yolact, MMDetection 2 and 3."""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from maskworks.published.mmdetection import inputs, tested
from maskworks.published.origin import Decision, Origin, Said, at, choose_recipe, settle
from maskworks.published.reading import Settings, number, refuse_others, said, whole_number
from maskworks.published.renaming import Converted, Rules, count, missing_counters, rename, required, resnet_body, whole
from yolact.boxes import level_sizes, priors_per_cell
from yolact.config import VARIANTS, Config

DBOLYA, MMDETECTION = "dbolya/yolact", "MMDetection 2 or 3"
SOURCES = {DBOLYA: "proto_net.0.weight", MMDETECTION: "mask_head.protonet.0.weight"}

RESNET: Rules = [
    *((rf"^backbone\.layers\.{stage}\.", f"backbone.layer{stage + 1}.") for stage in range(4)),
    (r"\.conv_offset_mask\.", ".offset."),
]
DARKNET: Rules = [(r"^backbone\._preconv\.", "backbone.stem."), (r"^backbone\.layers\.", "backbone.stages.")]
HEADS: Rules = [
    *((rf"^fpn\.lat_layers\.{2 - level}\.", f"fpn.lateral.{level}.") for level in range(3)),  # coarse to fine there
    *((rf"^fpn\.pred_layers\.{2 - level}\.", f"fpn.output.{level}.") for level in range(3)),
    (r"^fpn\.downsample_layers\.", "fpn.downsample."),
    *((rf"^proto_net\.{2 * number}\.", f"protonet.coarse.{number}.") for number in range(3)),
    (r"^proto_net\.8\.", "protonet.fine."),
    (r"^proto_net\.10\.", "protonet.prototypes."),
    (r"^prediction_layers\.0\.upfeature\.0\.", "head.shared."),
    (r"^prediction_layers\.0\.conf_layer\.", "head.class_logits."),
    (r"^prediction_layers\.0\.bbox_layer\.", "head.deltas."),
    (r"^prediction_layers\.0\.mask_layer\.", "head.coefficients."),
    (r"^semantic_seg_conv\.", "semantic."),
    *((rf"^maskiou_net\.maskiou_net\.{2 * number}\.", f"mask_iou.convs.{number}.") for number in range(6)),
]
FROM_MMDETECTION: Rules = [
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.lateral.\1."),
    (r"^neck\.fpn_convs\.([012])\.conv\.", r"fpn.output.\1."),
    (r"^neck\.fpn_convs\.3\.conv\.", "fpn.downsample.0."),
    (r"^neck\.fpn_convs\.4\.conv\.", "fpn.downsample.1."),
    (r"^mask_head\.protonet\.", "proto_net."),
    (r"^bbox_head\.head_convs\.0\.conv\.", "head.shared."),
    (r"^bbox_head\.conv_cls\.", "head.class_logits."),
    (r"^bbox_head\.conv_reg\.", "head.deltas."),
    (r"^bbox_head\.conv_coeff\.", "head.coefficients."),
    (r"^(mask_head\.segm_branch|segm_head)\.segm_conv\.", "semantic."),  # a head of its own in MMDetection 2
    *HEADS,
]
# left in old files of dbolya's: a first version of the backbone's names, and downsampling beyond P7
LEFT_OVER = re.compile(r"backbone\.layer(?!s\.).*|fpn\.downsample_layers\.([2-9]|\d\d+)\..*")
NAMED = (
    r"yolact_((?:plus_)?(?:base|im400|im700|resnet50_pascal|resnet50|darknet53)|edge_resnet50|edge)"
    r"(?:_\d+)*(?:_interrupt)?(?![a-z_\d])"
)
# the others are called as here; haotian-liu/yolact_edge's for photographs are dbolya's networks
CALLED = {
    "resnet50": "resnet50_550",
    "plus_resnet50": "plus_resnet50_550",
    "darknet53": "darknet53_550",
    "edge": "base",
    "edge_resnet50": "resnet50_550",
}
INPUT_SIZE = 550  # of MMDetection's published recipes
# what decides results and is not in the tensors
DECIDING = (
    *("model.input_size", "model.scales", "model.aspect_ratios", "model.square_priors", "model.mean", "model.std"),
    *("test.score_threshold", "test.iou_threshold", "test.top_k", "test.max_instances"),
)
# MMDetection's is another network, and it turns answers into results by other rules
OF_MMDETECTION: dict[str, Any] = {
    "model.rectified_pyramid": False,
    "model.coarse_levels_from": "c5",
    "model.square_priors": False,
    "model.aspect_ratios": (2.0, 1.0, 0.5),
    "test.resize": "bytes",
    "test.level_candidates": 1000,
    "test.threshold_after_nms": True,
    "test.clip_boxes": True,
    "test.whole_pixels": False,
    "test.drop_empty_boxes": False,
}
MMDETECTION_ONLY: dict[str, list[Any]] = {
    "model.type": ["YOLACT"],
    "model.backbone.style": ["pytorch"],
    "model.neck.add_extra_convs": ["on_input"],
    "model.neck.start_level": [1],
    "model.bbox_head.anchor_generator.scales_per_octave": [1],
    "model.bbox_head.bbox_coder.target_stds": [[0.1, 0.1, 0.2, 0.2]],
    "model.bbox_head.bbox_coder.target_means": [[0.0, 0.0, 0.0, 0.0]],
}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Whose names these are, or None if they are not YOLACT's."""
    return next((source for source, name in SOURCES.items() if name in state), None)


@whole
def convert(state: Mapping[str, Tensor], origin: Origin | None = None, variant: str | None = None) -> Converted[Config]:
    """Rename a published state dict; the variant follows from its shapes, or is the one named."""
    source = required(recognise(state), "YOLACT", SOURCES.values())
    if source == DBOLYA:
        state = {name: value for name, value in state.items() if not LEFT_OVER.fullmatch(name)}
    backbone = DARKNET if "backbone._preconv.0.weight" in state else RESNET
    rules = [*backbone, *(HEADS if source == DBOLYA else FROM_MMDETECTION)]
    names = {name: rename(name, rules) for name in state}
    weights = {names[name]: value for name, value in state.items()} | missing_counters(names.values())
    if source == MMDETECTION:
        for name in ("head.class_logits.weight", "head.class_logits.bias"):
            weights[name] = with_background_first(weights[name], class_count(weights) + 1)
    config, decisions = config_of(weights, source, origin, variant)
    return Converted(source, config, weights, names, decisions)


@whole
def class_count(weights: Mapping[str, Tensor]) -> int:
    return len(weights["semantic.weight"])


def with_background_first(parameter: Tensor, classes: int) -> Tensor:
    """A class layer's weight or bias whose background is each prior's last class."""
    blocks = parameter.view(-1, classes, *parameter.shape[1:])
    return torch.cat((blocks[:, -1:], blocks[:, :-1]), dim=1).flatten(0, 1)


def backbone_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A classifier's file as a backbone's weights: torchvision's ResNets, or Darknet-53 under dbolya's names."""
    if "_preconv.0.weight" in state or "layers.0.0.conv1.weight" in state:
        rules = DARKNET if "_preconv.0.weight" in state else RESNET
        body = {name: value for name, value in state.items() if not name.startswith("fc.")}
        weights = {rename(f"backbone.{name}", rules): value for name, value in body.items()}
        return weights | missing_counters(weights)
    return resnet_body(state)


def config_of(
    weights: Mapping[str, Tensor], source: str, origin: Origin | None, variant: str | None
) -> tuple[Config, list[Decision]]:
    """The configuration of the recipe that a file is of, with the network that the weights' shapes tell."""
    fitting = fitting_recipes(weights, source)
    decides = {name: (VARIANTS[name].model, VARIANTS[name].test) for name in fitting}
    recipe = choose_recipe(decides, variant, origin, named_recipe(origin, fitting) if source == DBOLYA else None)
    config = deepcopy(VARIANTS[recipe.value])
    model = config.model
    model.backbone = backbone_of(weights)
    model.norm = "batch" if "backbone.bn1.running_mean" in weights or model.backbone == "darknet53" else "group"
    model.deformable_interval = deformable_interval_of(weights)
    model.channels = len(weights["head.shared.weight"])
    model.prototypes = len(weights["protonet.prototypes.weight"])
    model.mask_iou = "mask_iou.convs.0.weight" in weights
    told = {}
    if source == MMDETECTION:
        told = {name: Said(value, "MMDetection's YOLACT, always") for name, value in OF_MMDETECTION.items()}
        told |= of_mmdetection(origin) if origin else {}
    return config, settle(config, recipe, DECIDING, told)


def fitting_recipes(weights: Mapping[str, Tensor], source: str) -> list[str]:
    """The published variants that have these shapes, or at least this backbone."""
    backbone = backbone_of(weights)
    published = {name: each for name, each in VARIANTS.items() if name not in ("shapes", "small")}
    like = [name for name, each in published.items() if each.model.backbone == backbone]
    if source == MMDETECTION:
        return [name for name in like if name in ("resnet50_550", "base")] or ["shapes"]
    priors = len(weights["head.deltas.weight"]) // 4
    shape = ("mask_iou.convs.0.weight" in weights, deformable_interval_of(weights), priors)
    pascal = class_count(weights) == 20  # what one trains oneself with COCO's recipes may have as many
    exact = [
        name
        for name in like
        if (model := VARIANTS[name].model)
        and (model.mask_iou, model.deformable_interval, priors_per_cell(model)) == shape
        and (pascal or name != "resnet50_pascal")
    ]
    return exact or like or ["shapes"]


def named_recipe(origin: Origin | None, fitting: list[str]) -> Said | None:
    """dbolya/yolact names its files after the recipe, the epoch and the iteration: yolact_base_54_800000."""
    named = re.match(NAMED, origin.name) if origin else None
    if origin is None or named is None:
        return None
    recipe = CALLED.get(named[1], named[1])
    if recipe not in fitting:
        raise UserError(
            f"{origin.path}: its name says {named[1]}, and its weights are of another network ({', '.join(fitting)}); "
            "name the variant with --model"
        )
    return Said(recipe, "the file's name, as dbolya/yolact gives it")


def of_mmdetection(origin: Origin) -> dict[str, Said]:
    """Our settings as MMDetection's configuration gives them; what is not done here is refused."""
    refuse_others(origin, MMDETECTION_ONLY, "yolact")
    told = inputs(origin) | said(origin, MMDETECTION_SETTINGS)
    if "model.channels" in told and told.pop("model.channels").value != "rgb":
        raise UserError(f"{origin.path}: its configuration feeds BGR values; yolact takes RGB")
    unsaid = Said(INPUT_SIZE, "MMDetection's published recipes")
    (size, source), (short, _) = (told.pop(f"test.{side}_side", unsaid) for side in ("long", "short"))
    if size != short:
        raise UserError(f"{origin.path}: its configuration tests at {size} x {short}; yolact's input is a square")
    told["model.input_size"] = Said(size, source)
    anchors = "model.bbox_head.anchor_generator"
    base, scale, strides = (
        at(origin.recipe, f"{anchors}.{name}") for name in ("base_sizes", "octave_base_scale", "strides")
    )
    if base and scale:
        scales = tuple(float(number(side) * number(scale)) for side in base)
        told["model.scales"] = Said(scales, f"its configuration, {anchors}")
    if strides and [round(size / number(stride), 3) for stride in strides] != level_sizes(size):
        raise UserError(
            f"{origin.path}: its configuration has anchors at strides {strides}; yolact's are those of the feature "
            f"maps of an input of {size} pixels: {size} / {level_sizes(size)}"
        )
    return told


def ratios(value: Any) -> tuple[float, ...]:
    """MMDetection's are height over width."""
    if not isinstance(value, (list, tuple)) or not all(number(each) > 0 for each in value):
        raise ValueError("positive numbers")
    return tuple(1 / number(each) for each in value)


def backbone_of(weights: Mapping[str, Tensor]) -> Any:
    if "backbone.stem.0.weight" in weights:
        return "darknet53"
    blocks = count(weights, r"backbone\.layer3\.(\d+)\.conv1\.weight")
    return {1: "resnet10", 6: "resnet50"}.get(blocks, "resnet101")


def deformable_interval_of(weights: Mapping[str, Tensor]) -> int:
    """How far apart the deformable convolutions are in the longest stage; 0 where there is none."""
    pattern = r"backbone\.layer3\.(\d+)\.conv2\.offset\.weight"
    blocks = sorted(int(match[1]) for name in weights if (match := re.fullmatch(pattern, name)))
    if not blocks:
        return 0
    return blocks[1] - blocks[0] if len(blocks) > 1 else 1


MMDETECTION_SETTINGS: Settings = {
    "model.aspect_ratios": (ratios, ("model.bbox_head.anchor_generator.ratios",)),
    "test.level_candidates": (whole_number, tested("nms_pre")),
    "test.score_threshold": (number, tested("score_thr")),
    "test.iou_threshold": (number, tested("iou_thr")),
    "test.top_k": (whole_number, tested("top_k")),
    "test.max_instances": (whole_number, tested("max_per_img")),
}
