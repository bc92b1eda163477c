"""Published names and shapes: Microsoft's, from a table of its rules backwards, and MMDetection's given layout."""

import json
import re

import pytest
import torch

from common.errors import UserError
from glip.config import VARIANTS
from glip.convert import convert, of_mmdetection
from glip.network import GLIP
from maskworks.published.mmdetection import pixels_before_channels
from maskworks.published.origin import Origin
from maskworks.published.renaming import rename
from tests.given import given_folder

FILES = {"glip_a_tiny_o365": "glip/glip_a_tiny_o365", "glip_tiny": "glip/glip_tiny_o365"}


def layout(folder, name):
    content = json.loads((given_folder("MASKWORKS_PARITY", name) / "spec.json").read_text())["state_dict"]
    return {key: torch.empty(entry["shape"], device="meta") for key, entry in content.items()}


def fits(converted):
    with torch.device("meta"):
        expected = GLIP(converted.config, ["a"]).state_dict()
    return {name: value.shape for name, value in converted.weights.items()} == {
        name: value.shape for name, value in expected.items()
    }


@pytest.mark.parametrize(("variant", "case"), FILES.items())
def test_microsofts_files(variant, case):
    state = layout("MASKWORKS_PARITY", case)
    converted = convert(state)
    assert converted.source == "microsoft/GLIP"
    assert converted.config.variant == variant
    assert fits(converted)
    more = state | {"module.language_backbone.body.model.pooler.dense.weight": torch.empty(3, device="meta")}
    assert convert(more).weights.keys() == converted.weights.keys()


def test_mmdetections_files():
    path = given_folder("MASKWORKS_DATA", "mmdet3_checkpoints")
    content = json.loads((path / "glip__glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.json").read_text())
    converted = convert({key: torch.empty(shape, device="meta") for key, (shape, _) in content["state_dict"].items()})
    assert (converted.source, converted.config.variant) == ("MMDetection 3", "glip_a_tiny_o365")
    assert converted.config.test.conventions == "mmdetection"
    assert fits(converted)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "shapes"])
def test_every_variant_is_told_from_its_shapes(variant):
    with torch.device("meta"):
        ours = GLIP(VARIANTS[variant], ["a"]).state_dict()
    state = {published(name, VARIANTS[variant].model.early_fusion): value for name, value in ours.items()}
    converted = convert(state)
    assert converted.weights.keys() == ours.keys()
    assert converted.config.model == VARIANTS[converted.config.variant].model
    same_network = {"glip_tiny_o365": "glip_tiny", "glip_tiny_goldg": "glip_tiny"}  # they differ in data only
    assert converted.config.variant == same_network.get(variant, variant)
    assert convert(state, variant=variant).config.variant == variant


BACKWARDS = [  # our names as Microsoft has them: the rules turned round, spelled out
    (r"backbone\.patch_embedding", "backbone.body.patch_embed.proj"),
    (r"backbone\.patch_norm", "backbone.body.patch_embed.norm"),
    (r"backbone\.stages\.(\d)\.(\d+)", r"backbone.body.layers.\1.blocks.\2"),
    (r"backbone\.merges\.(\d)", r"backbone.body.layers.\1.downsample"),
    (r"backbone\.norms\.(\d)", lambda found: f"backbone.body.norm{int(found[1]) + 1}"),
    (r"(body.*)\.attention_norm", r"\1.norm1"),
    (r"(body.*)\.perceptron_norm", r"\1.norm2"),
    (r"(body.*)\.attention\.projection", r"\1.attn.proj"),
    (r"(body.*)\.attention\.position_bias", r"\1.attn.relative_position_bias_table"),
    (r"(body.*)\.attention\.qkv", r"\1.attn.qkv"),
    (r"(body.*)\.perceptron\.0", r"\1.mlp.fc1"),
    (r"(body.*)\.perceptron\.2", r"\1.mlp.fc2"),
    (r"pyramid\.(p[67])", r"backbone.fpn.top_blocks.\1"),
    (r"pyramid\.lateral\.(\d)", lambda found: f"backbone.fpn.fpn_inner{int(found[1]) + 2}"),
    (r"pyramid\.output\.(\d)", lambda found: f"backbone.fpn.fpn_layer{int(found[1]) + 2}"),
    (r"text\.bert", "language_backbone.body.model"),
    (r"head\.alignment\.projection", "rpn.head.dot_product_projection_text"),
    (r"head\.alignment\.log_scale", "rpn.head.log_scale"),
    (r"head\.alignment\.token_bias", "rpn.head.bias_lang"),
    (r"head\.alignment\.bias", "rpn.head.bias0"),
    (r"head\.box_scales\.(\d)", r"rpn.head.scales.\1.scale"),
    (r"head\.box", "rpn.head.bbox_pred"),
    (r"head\.centerness", "rpn.head.centerness"),
]
FUSION_BACKWARDS = [
    (r"image_norm", "b_attn.layer_norm_v"),
    (r"text_norm", "b_attn.layer_norm_l"),
    (r"image_gain", "b_attn.gamma_v"),
    (r"text_gain", "b_attn.gamma_l"),
    (r"attention\.image_query", "b_attn.attn.v_proj"),
    (r"attention\.text_key", "b_attn.attn.l_proj"),
    (r"attention\.image_value", "b_attn.attn.values_v_proj"),
    (r"attention\.text_value", "b_attn.attn.values_l_proj"),
    (r"attention\.image_output", "b_attn.attn.out_v_proj"),
    (r"attention\.text_output", "b_attn.attn.out_l_proj"),
]
TEXT_BACKWARDS = [
    (r"^(query|key|value)", r"attention.self.\1"),
    (r"^projection", "attention.output.dense"),
    (r"^attention_norm", "attention.output.LayerNorm"),
    (r"^inner", "intermediate.dense"),
    (r"^outer", "output.dense"),
    (r"^norm", "output.LayerNorm"),
]
BLOCK_BACKWARDS = [
    *((rf"^{ours}\.norm", f"DyConv.{index}.bn") for index, ours in enumerate(("coarser", "same", "finer"))),
    *((rf"^{ours}\.", f"DyConv.{index}.conv.") for index, ours in enumerate(("coarser", "same", "finer"))),
    (r"^attention", "AttnConv.1"),
    (r"^activation\.squeeze", "relu.fc.0"),
    (r"^activation\.expand", "relu.fc.2"),
]


def published(name, fused):
    """One of our names as Microsoft has it."""
    towers = {"fusions": (0, FUSION_BACKWARDS), "text_layers": (1, TEXT_BACKWARDS), "blocks": (2, BLOCK_BACKWARDS)}
    if tower := re.match(r"head\.(fusions|text_layers|blocks)\.(\d)\.", name):
        place, rules = towers[tower[1]]
        number = 3 * int(tower[2]) + place if fused else int(tower[2])
        return f"module.rpn.head.dyhead_tower.{number}.{rename(name[tower.end() :], rules)}"
    return f"module.{rename(name, BACKWARDS)}"


CONFIGURATION = """
model = dict(type='GLIP',
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], bgr_to_rgb=False),
    bbox_head=dict(anchor_generator=dict(ratios=[1.0], octave_base_scale=4, scales_per_octave=1)),
    test_cfg=dict(nms_pre=500, score_thr=0.2, nms=dict(type='nms', iou_threshold=0.7), max_per_img=30))
test_pipeline = [dict(type='FixScaleResize', scale=(1000, 600), keep_ratio=True)]
"""


def test_what_mmdetections_configuration_says_is_done():
    file = Origin.read("epoch_1.pth", {"meta": {"cfg": CONFIGURATION}})
    told = {setting: each.value for setting, each in of_mmdetection(file).items()}
    assert told == {
        "model.mean": (103.53, 116.28, 123.675),
        "model.std": (57.375, 57.12, 58.395),
        "model.anchor_scale": 4,
        "test.long_side": 1000,
        "test.short_side": 600,
        "test.score_threshold": 0.2,
        "test.max_candidates": 500,
        "test.nms_iou": 0.7,
        "test.max_detections": 30,
    }
    for old, new in (("bgr_to_rgb=False", "bgr_to_rgb=True"), ("'nms'", "'soft_nms'"), ("'GLIP'", "'ATSS'")):
        with pytest.raises(UserError, match=r"epoch_1\.pth: its configuration"):
            of_mmdetection(Origin.read("epoch_1.pth", {"meta": {"cfg": CONFIGURATION.replace(old, new)}}))


def test_a_configuration_of_microsofts_beside_the_weights_decides():
    with torch.device("meta"):
        ours = GLIP(VARIANTS["glip_tiny"], ["a"]).state_dict()
    state = {published(name, True): value for name, value in ours.items()}
    text = "INPUT: {MIN_SIZE_TEST: 600, PIXEL_MEAN: [1, 2, 3]}\nMODEL: {ATSS: {NMS_TH: 0.5, DETECTIONS_PER_IMG: 9}}\n"
    converted = convert(state, Origin.read("model.pth", {"cfg": text}), "glip_tiny")
    test = converted.config.test
    assert (converted.config.model.mean, test.short_side) == ((1.0, 2.0, 3.0), 600)
    assert (test.long_side, test.nms_iou, test.max_detections) == (1333, 0.5, 9)
    assert "its configuration, MODEL.ATSS.NMS_TH" in {each.source for each in converted.decisions}


def test_merged_patches_are_put_in_our_order():
    """Theirs: channel by channel, places (0,0) (0,1) (1,0) (1,1); ours: place by place, (0,0) (1,0) (0,1) (1,1)."""
    theirs = torch.tensor([[10 * channel + place for channel in range(3) for place in (0, 1, 2, 3)]])
    ours = [10 * channel + place for place in (0, 2, 1, 3) for channel in range(3)]
    assert pixels_before_channels(theirs)[0].tolist() == ours
    assert pixels_before_channels(theirs[0]).tolist() == ours
