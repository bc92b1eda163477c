"""Names in published checkpoints -> names here: uber-research/UPSNet, and EfficientNet-B0's two origins."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor

from maskworks.published.origin import Decision, Origin, choose_recipe, nearest, settle
from maskworks.published.renaming import Converted, Rules, count, rename, required, resnet_body, whole
from upsnet.classes import CITYSCAPES, COCO
from upsnet.config import VARIANTS, Config

UPSNET: Rules = [
    (r"^module\.", ""),
    (r"^resnet_backbone\.conv1\.", "backbone."),
    *((rf"^resnet_backbone\.res{stage}\.layers\.", f"backbone.layer{stage - 1}.") for stage in (2, 3, 4, 5)),
    (r"conv2_offset\.", "conv2.offset."),
    *((rf"^fpn\.fpn_p{level}_1x1\.", f"pyramid.lateral.{level - 2}.") for level in (2, 3, 4, 5)),
    *((rf"^fpn\.fpn_p{level}\.", f"pyramid.output.{level - 2}.") for level in (2, 3, 4, 5)),
    (r"^fpn\.fpn_gap\.", "pyramid.context."),
    (r"^rpn\.conv_proposal\.0\.", "proposal_head.conv."),
    (r"^rpn\.cls_score\.", "proposal_head.objectness."),
    (r"^rpn\.bbox_pred\.", "proposal_head.deltas."),
    (r"^rcnn\.fc6\.0\.", "box_head.fc1."),
    (r"^rcnn\.fc7\.0\.", "box_head.fc2."),
    (r"^rcnn\.cls_score\.", "box_head.classes."),
    (r"^rcnn\.bbox_pred\.", "box_head.deltas."),
    *((rf"^mask_branch\.mask_conv{number}\.0\.", f"mask_head.convs.{number - 1}.") for number in (1, 2, 3, 4)),
    (r"^mask_branch\.mask_deconv1\.0\.", "mask_head.upsample."),
    (r"^mask_branch\.mask_score\.", "mask_head.masks."),
    (r"^fcn_head\.fcn_subnet\.conv\.(\d)\.0\.conv_offset\.", r"semantic_head.layers.\1.offset."),
    (r"^fcn_head\.fcn_subnet\.conv\.(\d)\.0\.conv\.", r"semantic_head.layers.\1."),
    (r"^fcn_head\.score\.", "semantic_head.classes."),
]
SOURCES = ("uber-research/UPSNet",)
UPSNET_NAME = "fcn_head.score.weight"
TORCHVISION_NAME = "features.7.0.block.3.0.weight"
EFFICIENTNET_PYTORCH_NAME = "_conv_stem.weight"
EFFICIENTNET_DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage

# what decides results and is not in the tensors
DECIDING = (
    *("model.colours", "model.mean", "model.std", "model.batch_norm_eps", "test.long_side", "test.short_side"),
    *("test.score_threshold", "test.nms_threshold", "test.max_instances", "test.panoptic_score_threshold"),
    *("test.covered_fraction", "test.smallest_stuff"),
)


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Whose names these are, or None if they are not UPSNet's."""
    return SOURCES[0] if any(rename(name, UPSNET[:1]) == UPSNET_NAME for name in state) else None


@whole
def convert(state: Mapping[str, Tensor], origin: Origin | None = None, variant: str | None = None) -> Converted[Config]:
    """Rename a published state dict; the variant follows from its shapes, or is the one named."""
    source = required(recognise(state), "UPSNet", [UPSNET_NAME])
    names = {name: rename(name, UPSNET) for name in state}
    weights = {names[name]: value for name, value in state.items()}
    config, decisions = config_of(weights, origin, variant)
    return Converted(source, config, weights, names, decisions)


def config_of(
    weights: Mapping[str, Tensor], origin: Origin | None = None, variant: str | None = None
) -> tuple[Config, list[Decision]]:
    """The published variant whose network comes nearest to these weights, or the one named, with their network."""
    stage = count(weights, r"backbone\.layer3\.(\d+)\.conv1\.weight")
    structure: dict[str, Any] = {
        "backbone": {0: "efficientnet_b0", 23: "resnet101"}.get(stage, "resnet50"),
        "deformable": "backbone.layer2.0.conv2.offset.weight" in weights,
        "global_context": "pyramid.context.weight" in weights,
        "semantic_layers": count(weights, r"semantic_head\.layers\.(\d+)\.weight"),
        "semantic_channels": weights["semantic_head.classes.weight"].shape[1] // 4,
        "fpn_channels": len(weights["pyramid.lateral.0.weight"]),
        "box_channels": len(weights["box_head.fc2.weight"]),
        "mask_channels": len(weights["mask_head.convs.0.weight"]),
        "things": len(weights["box_head.classes.weight"]) - 1,
    }
    published = {name: each for name, each in VARIANTS.items() if name != "shapes"}
    likes = {
        name: (VARIANTS[name].test, replace(VARIANTS[name].model, **structure))
        for name in nearest(published, {"model": structure})
    }
    recipe = choose_recipe(likes, variant, origin)
    config = deepcopy(VARIANTS[recipe.value])
    config.model = replace(config.model, **structure)
    return config, settle(config, recipe, DECIDING)


@whole
def class_count(weights: Mapping[str, Tensor]) -> int:
    """Things and stuff together."""
    return len(weights["semantic_head.classes.weight"])


def known_classes(number: int) -> dict[str, int] | None:
    """The names and category ids of a published model with so many classes."""
    return {len(COCO): COCO, len(CITYSCAPES): CITYSCAPES}.get(number)


def backbone_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """An ImageNet classifier's weights under our backbone's names, or None if this is none."""
    if TORCHVISION_NAME in state:
        kept = {name: value for name, value in state.items() if not name.startswith(("features.8.", "classifier."))}
        return {f"backbone.{name}": value for name, value in kept.items()}
    if EFFICIENTNET_PYTORCH_NAME in state:
        body = {name: value for name, value in state.items() if not name.startswith(("_conv_head", "_bn1", "_fc"))}
        return {f"backbone.{rename(name, EFFICIENTNET_PYTORCH)}": value for name, value in body.items()}
    return resnet_body(state)


def _efficientnet_pytorch() -> Rules:
    """Blocks counted through, and layers by name -> torchvision's stages, blocks and places."""
    rules: Rules = [(r"^_conv_stem\.", "features.0.0."), (r"^_bn0\.", "features.0.1.")]
    places = ((stage, block) for stage, depth in enumerate(EFFICIENTNET_DEPTHS, start=1) for block in range(depth))
    for number, (stage, block) in enumerate(places):
        here = f"features.{stage}.{block}.block"
        first = 1 if number else 0  # the first block expands nothing, so it has one layer less
        for old, new in (
            ("_expand_conv", "0.0"),
            ("_bn0", "0.1"),
            ("_depthwise_conv", f"{first}.0"),
            ("_bn1", f"{first}.1"),
            ("_se_reduce", f"{first + 1}.fc1"),
            ("_se_expand", f"{first + 1}.fc2"),
            ("_project_conv", f"{first + 2}.0"),
            ("_bn2", f"{first + 2}.1"),
        ):
            rules.append((rf"^_blocks\.{number}\.{old}\.", f"{here}.{new}."))
    return rules


EFFICIENTNET_PYTORCH = _efficientnet_pytorch()
