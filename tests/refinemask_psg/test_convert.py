"""Published names -> ours: every variant, every naming, strictly."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from refinemask_psg.config import VARIANTS, Model
from refinemask_psg.convert import class_count, convert, recognise
from refinemask_psg.network import RefineMask

DETECTORS = [name for name in VARIANTS if name.startswith(("refine", "mask_rcnn"))]
LAYOUTS = Path(os.environ.get("MASKWORKS_DATA", "nowhere")) / "mmdet3_checkpoints"
SWINS = {"swin__mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco": "mmdet_mask_rcnn_swin_tiny"}
CASCADES = {"cascade_rcnn__cascade-mask-rcnn_r50_fpn_1x_coco": "mmdet_cascade_mask_rcnn_r50_1x"}

# ours -> theirs, written the other way round
PUBLISHED = [
    (r"^backbone\.assisting\.", "backbone.cb_modules.0."),
    (r"^backbone\.lead\.", "backbone.cb_modules.1."),
    (r"^backbone\.connections\.", "backbone.cb_linears."),
    (r"^fpn\.lateral\.(\d)", r"neck.lateral_convs.\1.conv"),
    (r"^fpn\.output\.(\d)", r"neck.fpn_convs.\1.conv"),
    (r"^rpn\.conv", "rpn_head.rpn_conv"),
    (r"^rpn\.objectness", "rpn_head.rpn_cls"),
    (r"^rpn\.deltas", "rpn_head.rpn_reg"),
    (r"^(box_heads\.\d\.)first", r"\1shared_fcs.0"),
    (r"^(box_heads\.\d\.)second", r"\1shared_fcs.1"),
    (r"^(box_heads\.\d\.)classes", r"\1fc_cls"),
    (r"^(box_heads\.\d\.)deltas", r"\1fc_reg"),
    (r"^box_heads\.", "roi_head.bbox_head."),
    (r"^mask_heads\.0\.", "roi_head.mask_head."),
    (r"(mask_head\..*convs\.\d)\.0", r"\1.conv"),
    (r"mask_head\.logits", "mask_head.conv_logits"),
    (r"mask_head\.foreground", "mask_head.semantic_logits"),
    (r"mask_head\.final", "mask_head.final_instance_logits"),
    (r"\.semantic_in\.", ".semantic_transform_in."),
    (r"\.semantic_out\.", ".semantic_transform_out."),
    (r"(stages\.\d)\.logits", r"\1.instance_logits"),
    (r"\.fuse_in\.", ".fuse_conv.0."),
    (r"\.branches\.0", ".fuse_conv.1.dilation_conv_1.conv"),
    (r"\.branches\.1", ".fuse_conv.1.dilation_conv_2.conv"),
    (r"\.branches\.2", ".fuse_conv.1.dilation_conv_3.conv"),
    (r"\.merge\.", ".fuse_conv.1.merge_conv.conv."),
    (r"\.fuse_out\.", ".fuse_transform_out."),
]


def published_name(name: str, stages: int) -> str:
    for pattern, replacement in PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return name.replace("bbox_head.0.", "bbox_head.") if stages == 1 else name


def meta_model(variant: str, classes: int = 80) -> RefineMask:
    with torch.device("meta"):  # shapes only: the large variants hold 100 million weights
        return RefineMask(VARIANTS[variant], [f"class {n}" for n in range(classes)])


@pytest.mark.parametrize("variant", DETECTORS)
def test_every_variant_is_recognised_from_its_published_names_and_shapes(variant):
    model = meta_model(variant)
    stages = len(model.box_heads)
    state = {published_name(name, stages): value for name, value in model.state_dict().items()}
    assert not set(state) & set(model.state_dict()) - {name for name in state if name.startswith("backbone.")}
    converted = convert(state)
    assert set(converted.weights) == set(model.state_dict())
    assert converted.config.model == VARIANTS[variant].model
    assert class_count(converted.weights) == 80
    # one network, two schedules: the longer one is taken
    assert converted.config.variant == variant.replace("_1x", "_2x")
    assert convert(state, variant=variant).config.variant == variant


@pytest.mark.skipif(not LAYOUTS.is_dir(), reason="MASKWORKS_DATA names no folder with mmdet3_checkpoints")
@pytest.mark.parametrize(("layout", "variant"), (SWINS | CASCADES).items())
def test_mmdetections_layouts_fit(layout, variant):
    shapes = json.loads((LAYOUTS / f"{layout}.json").read_text())["state_dict"]
    state = {name: torch.empty(shape, device="meta") for name, (shape, _) in shapes.items()}
    converted = convert(state)
    expected = meta_model(variant).state_dict()
    assert {name: value.shape for name, value in converted.weights.items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert converted.config.model == VARIANTS[variant].model
    assert converted.config.test.nms_in == "input"


def test_stored_positions_are_left_out():
    model = meta_model("mask_rcnn_cbv2_swin_tiny")
    state = {published_name(name, 1): value for name, value in model.state_dict().items()}
    index = "backbone.cb_modules.0.layers.0.blocks.0.attn.relative_position_index"
    converted = convert(state | {index: torch.zeros(49, 49)})
    assert set(converted.weights) == set(model.state_dict())
    assert index not in converted.names


def test_other_networks_are_not_recognised():
    assert recognise({"conv1.weight": torch.zeros(1)}) is None
    plain = {
        "neck.lateral_convs.0.conv.weight": 0,
        "rpn_head.rpn_conv.weight": 0,
        "roi_head.mask_head.conv_logits.weight": 0,
    }
    assert recognise(dict.fromkeys(plain, torch.zeros(1))) is None  # a Mask R-CNN on ResNet
    with pytest.raises(UserError, match="neck, rpn_head or roi_head"):
        convert({"conv1.weight": torch.zeros(1)})


def test_the_documented_settings_are_the_published_ones():
    assert (VARIANTS["refinemask_r50_1x"].training.epochs, VARIANTS["refinemask_r50_2x"].training.epochs) == (12, 24)
    assert VARIANTS["refinemask_r50_2x"].schedule.milestones == [16, 22]
    cascade: Model = VARIANTS["refine_cbv2_swin_tiny_cascade_last"].model
    assert sum(cascade.box_stage_weights) == 1.75  # what the masks weigh
    assert VARIANTS["mask_rcnn_cbv2_swin_tiny"].model.fpn_upsampling == "nearest"
    assert cascade.fpn_upsampling == "bilinear"
