"""Published names -> ours: every variant, every naming, strictly."""

import json
import os
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.results import Instances
from maskworks.published.origin import Origin
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
    classes = {"refinemask_r50_cityscapes": 8}.get(variant, 1203 if variant.endswith("lvis") else 80)
    model = meta_model(variant, classes)
    stages = len(model.box_heads)
    state = {published_name(name, stages): value for name, value in model.state_dict().items()}
    assert not set(state) & set(model.state_dict()) - {name for name in state if name.startswith("backbone.")}
    converted = convert(state)
    assert set(converted.weights) == set(model.state_dict())
    assert converted.config.model == VARIANTS[variant].model
    assert class_count(converted.weights) == classes
    # one network, two schedules: the longer one is taken
    assert converted.config.variant == variant.replace("_1x", "_2x")
    assert convert(state, variant=variant).config.variant == variant
    assert convert(state, Origin("cityscapes.pth")).config == VARIANTS[variant.replace("_1x", "_2x")]


def published_state(variant: str, classes: int) -> dict[str, torch.Tensor]:
    model = meta_model(variant, classes)
    return {published_name(name, len(model.box_heads)): value for name, value in model.state_dict().items()}


def test_cityscapes_and_lvis_are_tested_as_published():
    """RefineMask's configs: 2048 x 1024; 300 instances from 0.0001 up, and a last stage without classes."""
    cityscapes, lvis = VARIANTS["refinemask_r50_cityscapes"], VARIANTS["refinemask_r101_lvis"]
    assert (cityscapes.test.long_side, cityscapes.test.short_side) == (2048, 1024)
    assert (lvis.test.score_threshold, lvis.test.max_instances) == (0.0001, 300)
    state = published_state("refinemask_r101_lvis", 1203)
    assert state["roi_head.mask_head.final_instance_logits.weight"].shape[0] == 1
    config = convert(state, Origin("model.pth")).config
    assert (config.variant, config.test) == ("refinemask_r101_lvis", lvis.test)
    # COCO's recipe with LVIS's classes, as one trains it without the last stage's own
    own = convert(published_state("refinemask_r50_2x", 1203), Origin("model.pth")).config
    assert (own.test.score_threshold, own.test.max_instances) == (0.0001, 300)


def test_a_refinemask_of_eight_classes_may_be_of_cityscapes_or_not():
    state = published_state("refinemask_r50_cityscapes", 8)
    with pytest.raises(UserError, match=r"model\.pth.*refinemask_r50_2x, refinemask_r50_cityscapes.*--model"):
        convert(state, Origin("model.pth"))
    for size, variant in (("2048, 1024", "refinemask_r50_cityscapes"), ("1333, 800", "refinemask_r50_2x")):
        text = f"test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=({size}), transforms=[])]"
        converted = convert(state, Origin.read("model.pth", {"meta": {"config": text}}))
        assert converted.config == VARIANTS[variant]
        assert converted.decisions[0].source == "its configuration, the test pipeline's img_scale"


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (
            "cascade_mask_rcnn_r50_caffe_fpn_1x_coco_bbox_mAP-0.412__segm_mAP-0.36_20200504_174659-5004b251.pth",
            "caffe_",
        ),
        ("cascade_mask_rcnn_r50_fpn_1x_coco_20200203-9d4dcb24.pth", ""),
        ("epoch_12.pth", None),
    ],
)
def test_a_cascade_in_the_manner_of_caffe_is_told_by_its_name(name, variant):
    state = cascade_state()
    if variant is None:
        with pytest.raises(UserError, match=r"epoch_12\.pth.*caffe_1x.*--model"):
            convert(state, Origin(name))
    else:
        assert convert(state, Origin(name)).config.variant == f"mmdet_cascade_mask_rcnn_r50_{variant}1x"


def cascade_state() -> dict[str, torch.Tensor]:
    variant = "mmdet_cascade_mask_rcnn_r50_1x"
    state = published_state(variant, 80)
    heads = {name: value for name, value in state.items() if "mask_head" not in name}
    for name, value in meta_model(variant).state_dict().items():
        if name.startswith("mask_heads."):
            theirs = re.sub(r"convs\.(\d)\.0", r"convs.\1.conv", name.replace("logits", "conv_logits"))
            heads[theirs.replace("mask_heads.", "roi_head.mask_head.")] = value
    return heads


CASCADE = """
model = dict(type='CascadeRCNN',
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(type='ResNet', depth=50, style='caffe'),
    rpn_head=dict(anchor_generator=dict(scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])),
    test_cfg=dict(rpn=dict(nms_pre=900, max_per_img=800, nms=dict(type='nms', iou_threshold=0.6)),
        rcnn=dict(score_thr=0.001, nms=dict(type='nms', iou_threshold=0.4), max_per_img=50, mask_thr_binary=0.3)))
test_pipeline = [dict(type='Resize', scale=(1000, 600), keep_ratio=True)]
"""


def test_what_mmdetections_configuration_says_is_done():
    state = cascade_state()
    converted = convert(state, Origin.read("epoch_12.pth", {"meta": {"cfg": CASCADE}}))
    config, test = converted.config, converted.config.test
    assert config.model == VARIANTS["mmdet_cascade_mask_rcnn_r50_caffe_1x"].model
    assert (config.model.channels, config.model.std, config.model.stride_in_1x1) == ("bgr", (1.0, 1.0, 1.0), True)
    assert (test.long_side, test.short_side, test.score_threshold, test.nms) == (1000, 600, 0.001, 0.4)
    assert (test.proposals_before_nms, test.proposals, test.proposal_nms) == (900, 800, 0.6)
    assert (test.max_instances, test.mask_threshold, test.nms_in) == (50, 0.3, "input")
    meta = {"config": CASCADE.replace("'caffe'", "'pytorch'"), "mmdet_version": "2.3.0"}
    older = convert(state, Origin.read("epoch_12.pth", {"meta": meta})).config
    assert (older.variant, older.test.nms_in) == ("mmdet_cascade_mask_rcnn_r50_1x", "photograph")
    for old, new in (("'caffe'", "'tf'"), ("[8]", "[8, 16]"), ("type='nms', iou_threshold=0.4", "type='soft_nms'")):
        with pytest.raises(UserError, match=r"epoch_12\.pth: its configuration"):
            convert(state, Origin.read("epoch_12.pth", {"meta": {"cfg": CASCADE.replace(old, new)}}))


PARITY = Path(__file__).parent.parent / "parity" / "cases" / "refinemask"


def layout_of(case: str) -> dict[str, torch.Tensor]:
    """The original's names and shapes, as its own code wrote them."""
    spec = json.loads((PARITY / case / "spec.json").read_text(encoding="utf-8"))
    return {name: torch.empty(entry["shape"], device="meta") for name, entry in spec["state_dict"].items()}


@pytest.mark.parametrize(
    ("case", "variant", "expected"),
    [
        ("mmdet_cascade_r101", "mmdet_cascade_mask_rcnn_r50_1x", ("resnet101", "none", 0)),
        ("mmdet_cascade_mask_x101_32x4d_dconv", "mmdet_cascade_mask_rcnn_r50_1x", ("resnext101_32x4d", "v1", 3)),
        ("mmdet_mask_rcnn_swin_small", "mmdet_mask_rcnn_swin_small", ("swin_small", "none", 1)),
        ("detectron2_cascade_mask_r50", "detectron2_cascade_mask_rcnn_r50_3x", ("resnet50", "none", 1)),
    ],
)
def test_what_a_zoos_network_is_made_of_is_told_by_its_shapes(case, variant, expected):
    name = "cascade_rcnn_r101_fpn_1x_coco_20200317-0b6a2fbf.pth" if case == "mmdet_cascade_r101" else "x.pth"
    config = convert(layout_of(case), Origin(name)).config
    assert (config.variant, config.model.conventions) == (variant, VARIANTS[variant].model.conventions)
    assert (config.model.backbone, config.model.deformable, config.model.mask_heads) == expected


def test_the_swins_of_their_authors_are_those_of_mmdetection_2():
    """Swin-Transformer-Object-Detection's names, which are ours within the backbone; it is on MMDetection 2.11."""
    for variant in ("mmdet_mask_rcnn_swin_tiny", "mmdet_mask_rcnn_swin_small"):
        state = published_state(variant, 80)
        converted = convert(state, Origin("mask_rcnn_swin_small_patch4_window7.pth"))
        assert (converted.source, converted.config.variant) == ("Swin-Transformer-Object-Detection", variant)
        merged = "backbone.layers.0.downsample.reduction.weight"
        assert converted.weights[merged] is state[merged]  # in its own order already
        test = converted.config.test
        assert (test.nms_in, test.drop_empty_proposals, converted.config.model) == (
            "photograph",
            False,
            VARIANTS[variant].model,
        )


def test_resnext_101_32x8d_gets_the_values_of_its_recipe():
    """Its ImageNet weights are Detectron2's, for BGR values divided by their deviation."""
    config = deepcopy(VARIANTS["mmdet_cascade_mask_rcnn_r50_1x"])
    config.model.backbone, config.model.mask_heads = "resnext101_32x8d", 0
    with torch.device("meta"):
        here = RefineMask(config, ["a", "b"]).state_dict()
    model = convert(
        {published_name(name, 3): value for name, value in here.items()}, Origin("epoch_36.pth")
    ).config.model
    assert (model.backbone, model.channels, model.std) == ("resnext101_32x8d", "bgr", (57.375, 57.12, 58.395))


def test_detectron2s_cascade_follows_its_config_yaml(tmp_path):
    state = layout_of("detectron2_cascade_mask_r50")
    text = "INPUT: {FORMAT: RGB, MAX_SIZE_TEST: 900}\nMODEL: {ROI_HEADS: {NAME: CascadeROIHeads, NMS_THRESH_TEST: 0.4}"
    text += ", ROI_BOX_CASCADE_HEAD: {BBOX_REG_WEIGHTS: [[10, 10, 5, 5], [20, 20, 10, 10], [40, 40, 20, 20]]}}"
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    config = convert(state, Origin.read(str(tmp_path / "model_final.pth"), {})).config
    assert (config.model.channels, config.test.long_side, config.test.nms) == ("rgb", 900, 0.4)
    assert config.model.box_stds[2] == (0.025, 0.025, 0.05, 0.05)
    (tmp_path / "config.yaml").write_text(text.replace("CascadeROIHeads", "StandardROIHeads"), encoding="utf-8")
    with pytest.raises(UserError, match="NAME = 'StandardROIHeads'"):
        convert(state, Origin.read(str(tmp_path / "model_final.pth"), {}))


def test_a_cascade_with_other_layers_is_refused_by_its_family():
    state = layout_of("detectron2_cascade_mask_r50") | {"roi_heads.mask_head.mask_fcn5.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r"model_0039999\.pkl: .*family of Detectron2, Cascade.*mask_fcn5.*known:"):
        convert(state, Origin("model_0039999.pkl"))


def test_a_cascade_without_masks_answers_with_boxes_alone():
    config = deepcopy(VARIANTS["shapes"])
    config.model.mask_head, config.model.mask_heads = "plain", 0
    torch.manual_seed(0)
    (found,) = RefineMask(config, ["a", "b"]).eval().predict([np.zeros((64, 64, 3), np.uint8)])
    assert isinstance(found, Instances)
    assert found.masks is None


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
