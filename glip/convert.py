"""Names in published checkpoints -> names here: microsoft/GLIP and MMDetection 3."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor

from common.errors import UserError
from glip.config import VARIANTS, Config
from maskworks.published.coco_classes import COCO_CLASSES
from maskworks.published.mmdetection import inputs, pixels_before_channels
from maskworks.published.origin import Decision, Origin, Said, choose_recipe, nearest, settle
from maskworks.published.reading import Settings, number, refuse_others, said, three_numbers, whole_number
from maskworks.published.renaming import Converted, Rules, count, rename, required, whole

PARTS = ("backbone.", "pyramid.", "text.", "head.")  # of our network; what gets no such name has no place in it
DROPPED = (".cls_logits.", ".pooler.", ".position_ids", ".relative_position_index")  # not used by the originals either

SWIN: Rules = [  # also torchvision's blocks
    (r"^backbone\.(?:body\.)?patch_embed\.proj(?:ection)?\.", "backbone.patch_embedding."),
    (r"^backbone\.(?:body\.)?patch_embed\.norm\.", "backbone.patch_norm."),
    (r"^backbone\.(?:body\.layers|stages)\.(\d+)\.blocks\.", r"backbone.stages.\1."),
    (r"^backbone\.(?:body\.layers|stages)\.(\d+)\.downsample\.", r"backbone.merges.\1."),
    *((rf"^backbone\.(?:body\.)?norm{stage}\.", f"backbone.norms.{stage - 1}.") for stage in (1, 2, 3)),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm2\.", ".perceptron_norm."),
    (r"\.attn\.(?:w_msa\.)?qkv\.", ".attention.qkv."),
    (r"\.attn\.(?:w_msa\.)?proj\.", ".attention.projection."),
    (r"\.attn\.(?:w_msa\.)?relative_position_bias_table$", ".attention.position_bias"),
    (r"\.(?:mlp\.(?:fc1|0)|ffn\.layers\.0\.0)\.", ".perceptron.0."),
    (r"\.(?:mlp\.(?:fc2|3)|ffn\.layers\.1)\.", ".perceptron.2."),
]
BERT_LAYER: Rules = [
    (r"\.attention\.self\.(query|key|value)\.", r".\1."),
    (r"\.attention\.output\.dense\.", ".projection."),
    (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
    (r"\.intermediate\.dense\.", ".inner."),
    (r"\.output\.dense\.", ".outer."),
    (r"\.output\.LayerNorm\.", ".norm."),
]
HEAD: Rules = [
    (r"\.dot_product_projection_text\.", ".alignment.projection."),
    (r"\.log_scale$", ".alignment.log_scale"),
    (r"\.bias_lang$", ".alignment.token_bias"),
    (r"\.bias0$", ".alignment.bias"),
    (r"\.bbox_pred\.", ".box."),
    (r"\.scales\.(\d)\.scale$", r".box_scales.\1"),
    (r"\.(?:DyConv|dyconvs)\.0\.", ".coarser."),
    (r"\.(?:DyConv|dyconvs)\.1\.", ".same."),
    (r"\.(?:DyConv|dyconvs)\.2\.", ".finer."),
    (r"\.(coarser|same|finer)\.conv\.", r".\1."),
    (r"\.(coarser|same|finer)\.bn\.", r".\1.norm."),
    (r"\.(?:AttnConv|attnconv)\.1\.", ".attention."),
    (r"\.relu\.fc\.0\.", ".activation.squeeze."),
    (r"\.relu\.fc\.2\.", ".activation.expand."),
]
FUSION: Rules = [
    (r"\.b_attn\.layer_norm_v\.", ".image_norm."),
    (r"\.b_attn\.layer_norm_l\.", ".text_norm."),
    (r"\.b_attn\.gamma_v$", ".image_gain"),
    (r"\.b_attn\.gamma_l$", ".text_gain"),
    (r"\.b_attn\.attn\.v_proj\.", ".attention.image_query."),
    (r"\.b_attn\.attn\.l_proj\.", ".attention.text_key."),
    (r"\.b_attn\.attn\.values_v_proj\.", ".attention.image_value."),
    (r"\.b_attn\.attn\.values_l_proj\.", ".attention.text_value."),
    (r"\.b_attn\.attn\.out_v_proj\.", ".attention.image_output."),
    (r"\.b_attn\.attn\.out_l_proj\.", ".attention.text_output."),
]
MICROSOFT: Rules = [
    *((rf"^backbone\.fpn\.fpn_inner{level}\.", f"pyramid.lateral.{level - 2}.") for level in (2, 3, 4)),
    *((rf"^backbone\.fpn\.fpn_layer{level}\.", f"pyramid.output.{level - 2}.") for level in (2, 3, 4)),
    (r"^backbone\.fpn\.top_blocks\.(p6|p7)\.", r"pyramid.\1."),
    (r"^language_backbone\.body\.model\.", "text.bert."),
    (r"^rpn\.tunable_linear\.", "text.prompt."),
    (r"^rpn\.head\.", "head."),
]
MMDETECTION: Rules = [
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"pyramid.lateral.\1."),
    (r"^neck\.fpn_convs\.([012])\.conv\.", r"pyramid.output.\1."),
    (r"^neck\.fpn_convs\.3\.conv\.", "pyramid.p6."),
    (r"^neck\.fpn_convs\.4\.conv\.", "pyramid.p7."),
    (r"^language_model\.language_backbone\.body\.model\.", "text.bert."),
    (r"^bbox_head\.head\.", "head."),
]
# a name that only files of this origin have, and the origin's rules
SOURCES: dict[str, tuple[str, Rules]] = {
    "microsoft/GLIP": ("rpn.head.dot_product_projection_text.weight", MICROSOFT),
    "MMDetection 3": ("bbox_head.head.dot_product_projection_text.weight", MMDETECTION),
}
# what decides results and is not in the tensors
DECIDING = (
    *("model.mean", "model.std", "model.anchor_scale", "test.conventions", "test.long_side", "test.short_side"),
    *("test.score_threshold", "test.max_candidates", "test.nms_iou", "test.max_detections"),
)
MMDETECTION_SETTINGS: Settings = {
    "model.anchor_scale": (number, ("model.bbox_head.anchor_generator.octave_base_scale",)),
    "test.score_threshold": (number, ("model.test_cfg.score_thr",)),
    "test.max_candidates": (whole_number, ("model.test_cfg.nms_pre",)),
    "test.nms_iou": (number, ("model.test_cfg.nms.iou_threshold",)),
    "test.max_detections": (whole_number, ("model.test_cfg.max_per_img",)),
}
MICROSOFT_SETTINGS: Settings = {  # of a configuration in YAML, beside the weights
    "model.mean": (three_numbers, ("INPUT.PIXEL_MEAN",)),
    "model.std": (three_numbers, ("INPUT.PIXEL_STD",)),
    "test.long_side": (whole_number, ("INPUT.MAX_SIZE_TEST",)),
    "test.short_side": (whole_number, ("INPUT.MIN_SIZE_TEST",)),
    "test.score_threshold": (number, ("MODEL.ATSS.INFERENCE_TH",)),
    "test.max_candidates": (whole_number, ("MODEL.ATSS.PRE_NMS_TOP_N",)),
    "test.nms_iou": (number, ("MODEL.ATSS.NMS_TH",)),
    "test.max_detections": (whole_number, ("MODEL.ATSS.DETECTIONS_PER_IMG",)),
}
MMDETECTION_ONLY: dict[str, list[Any]] = {
    "model.type": ["GLIP"],
    "model.test_cfg.nms.type": ["nms"],
    "model.bbox_head.anchor_generator.ratios": [[1.0]],
    "model.bbox_head.anchor_generator.scales_per_octave": [1],
}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Whose names these are, or None if they are not GLIP's."""
    names = {name.removeprefix("module.") for name in state}
    return next((source for source, (name, _) in SOURCES.items() if name in names), None)


@whole
def convert(state: Mapping[str, Tensor], origin: Origin | None = None, variant: str | None = None) -> Converted[Config]:
    """Rename a published state dict; the variant follows from its shapes, or is the one named."""
    source = required(recognise(state), "GLIP", (mark for mark, _ in SOURCES.values()))
    fused = any(".b_attn." in name for name in state)
    names = {name: ours for name in state if (ours := our_name(name, SOURCES[source][1], fused)) is not None}
    weights = {ours: arranged(state[name], ours, source) for name, ours in names.items()}
    config, decisions = config_of(weights, source, origin, variant)
    return Converted(source, config, weights, names, decisions)


def arranged(value: Tensor, name: str, source: str) -> Tensor:
    """A published tensor in the shape and order of ours."""
    if name.startswith("head.box_scales."):
        return value.reshape(1)
    if name.startswith("backbone.merges.") and source.startswith("MMDetection"):
        return pixels_before_channels(value)
    return value


def our_name(name: str, rules: Rules, fused: bool) -> str | None:
    """A published name as it is here; None for what our network has no use for."""
    if any(part in name for part in DROPPED):
        return None
    renamed = rename(name.removeprefix("module."), rules)
    if renamed.startswith("backbone."):
        return rename(renamed, SWIN)
    if renamed.startswith("head.dyhead_tower."):
        return tower_name(renamed, fused)
    if renamed.startswith("head."):
        return rename(renamed, HEAD)
    return renamed if renamed.startswith(PARTS) else None


def tower_name(name: str, fused: bool) -> str:
    """Without fusion the tower is a row of blocks; with it, fusion, text layer and block take turns."""
    _, _, number, rest = name.split(".", 3)
    block = int(number) // 3 if fused else int(number)
    if rest.startswith("b_attn."):
        return rename(f"head.fusions.{block}.{rest}", FUSION)
    if rest.startswith(("attention.", "intermediate.", "output.")):
        return rename(f"head.text_layers.{block}.{rest}", BERT_LAYER)
    return rename(f"head.blocks.{block}.{rest}", HEAD)


def config_of(
    weights: Mapping[str, Tensor], source: str, origin: Origin | None, variant: str | None
) -> tuple[Config, list[Decision]]:
    """The published variant with this network, or the one named, with what the shapes and the file say."""
    model, text = model_of(weights), text_of(weights)
    published = {name: each for name, each in VARIANTS.items() if name != "shapes"}
    fitting = nearest(published, {"model": model, "text": text})
    recipe = choose_recipe({name: VARIANTS[name].test for name in fitting}, variant, origin)
    config = deepcopy(VARIANTS[recipe.value])
    config.model, config.text = replace(config.model, **model), replace(config.text, **text)
    told = {}
    if source.startswith("MMDetection"):
        told = {"test.conventions": Said("mmdetection", "MMDetection's names")}
        told |= of_mmdetection(origin) if origin else {}
    elif origin:
        told = said(origin, MICROSOFT_SETTINGS)
    return config, settle(config, recipe, DECIDING, told)


def of_mmdetection(origin: Origin) -> dict[str, Said]:
    """Our settings as MMDetection's configuration gives them; what is not done here is refused."""
    refuse_others(origin, MMDETECTION_ONLY, "glip")
    told = inputs(origin)
    if "model.channels" in told and told.pop("model.channels").value != "bgr":
        raise UserError(f"{origin.path}: its configuration feeds RGB values; glip takes BGR")
    return told | said(origin, MMDETECTION_SETTINGS)


def model_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of the network that weights under our names belong to, the settings that their names and shapes tell."""
    tables = [weights[f"backbone.stages.{stage}.0.attention.position_bias"] for stage in range(4)]
    fusions = count(weights, r"head\.fusions\.(\d+)\.image_gain")
    depths = [count(weights, rf"backbone\.stages\.{stage}\.(\d+)\.attention\.position_bias") for stage in range(4)]
    model = {
        "swin_width": len(weights["backbone.patch_embedding.weight"]),
        "swin_depths": tuple(depths),
        "swin_heads": tuple(table.shape[1] for table in tables),
        "window": (math.isqrt(len(tables[0])) + 1) // 2,
        "channels": len(weights["head.box.weight"][0]),
        "blocks": len({name.split(".")[2] for name in weights if name.startswith("head.blocks.")}),
        "early_fusion": fusions > 0,
    }
    if fusions:
        model["fusion_width"] = len(weights["head.fusions.0.attention.image_query.weight"])
    return model


def text_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    words, width = weights["text.bert.embeddings.word_embeddings.weight"].shape
    return {
        "words": words,
        "width": width,
        "layers": count(weights, r"text\.bert\.encoder\.layer\.(\d+)\.output\.dense\.weight"),
        "inner_width": len(weights["text.bert.encoder.layer.0.intermediate.dense.weight"]),
        "positions": len(weights["text.bert.embeddings.position_embeddings.weight"]),
        "prompt_rows": len(weights["text.prompt.weight"]) if "text.prompt.weight" in weights else 0,
    }


@whole
def class_count(weights: Mapping[str, Tensor]) -> int:
    """There is no layer of classes; the published models are used with COCO's 80 names."""
    return len(COCO_CLASSES)
