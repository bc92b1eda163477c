"""Published names -> ours: every variant, every naming, strictly."""

import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision.models.detection import maskrcnn_resnet50_fpn

from common.errors import UserError
from common.run.checkpoint import load_weights
from maskrcnn.backbone import ARCHITECTURES
from maskrcnn.config import VARIANTS
from maskrcnn.convert import class_count, convert
from maskrcnn.network import MaskRCNN
from maskworks.published.coco_classes import COCO_CATEGORY_IDS
from maskworks.published.formats import read_published
from maskworks.published.origin import Origin

CLASSES = [f"class {number}" for number in range(80)]
BENCHMARK = ["r50_c4_1x", "r50_fpn_1x", "r101_fpn_1x", "x101_32x8d_fpn_1x"]
CASES = Path(__file__).parents[1] / "parity/cases/maskrcnn"
LAYOUTS = sorted((Path(os.environ.get("MASKWORKS_DATA", "nowhere")) / "mmdet3_checkpoints").glob("mask_rcnn__*.json"))


def published_by_benchmark(name: str) -> str:
    """The name that maskrcnn-benchmark's files have for one of ours, written the other way round."""
    part, _, rest = name.partition(".")
    if part == "backbone":
        stem = "" if rest.startswith("layer") else "stem."
        return f"module.backbone.body.{stem}{rest}"
    if part == "fpn":
        kind, level, _, last = rest.split(".")
        return f"module.backbone.fpn.fpn_{kind.removesuffix('_blocks')}{int(level) + 1}.{last}"
    if part == "region_stage":
        return f"module.roi_heads.box.feature_extractor.head.layer4.{rest}"
    layer, last = rest.rsplit(".", 1)
    theirs = {
        "proposal_head.conv": "rpn.head.conv",
        "proposal_head.objectness": "rpn.head.cls_logits",
        "proposal_head.deltas": "rpn.head.bbox_pred",
        "box_head.layers.0": "roi_heads.box.feature_extractor.fc6",
        "box_head.layers.1": "roi_heads.box.feature_extractor.fc7",
        "box_head.category": "roi_heads.box.predictor.cls_score",
        "box_head.deltas": "roi_heads.box.predictor.bbox_pred",
        "mask_head.enlarge": "roi_heads.mask.predictor.conv5_mask",
        "mask_head.logits": "roi_heads.mask.predictor.mask_fcn_logits",
    } | {f"mask_head.convs.{n}": f"roi_heads.mask.feature_extractor.mask_fcn{n + 1}" for n in range(4)}
    return f"module.{theirs[f'{part}.{layer}']}.{last}"


def meta_model(variant: str) -> MaskRCNN:
    with torch.device("meta"):  # shapes only: the large variants hold 100 million weights
        return MaskRCNN(VARIANTS[variant], CLASSES)


@pytest.mark.parametrize("variant", BENCHMARK)
def test_every_variant_is_recognised_from_its_published_names_and_shapes(variant):
    model = meta_model(variant)
    state = {published_by_benchmark(name): value for name, value in model.state_dict().items()}
    assert len(state) == len(model.state_dict())
    state["module.rpn.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    if variant == "r50_c4_1x":  # the shared stage is in the file twice
        box, mask = "roi_heads.box.feature_extractor.head", "roi_heads.mask.feature_extractor.head"
        state |= {name.replace(box, mask): value for name, value in state.items() if box in name}
    converted = convert(state)
    assert converted.source == "maskrcnn-benchmark"
    assert converted.config == VARIANTS[variant]
    assert {name: value.shape for name, value in converted.weights.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda path: path.stem)
def test_mmdetection_3_layouts_load_strictly(layout):
    shapes = json.loads(layout.read_text())["state_dict"]
    state = {name: torch.zeros(shape) for name, (shape, _) in shapes.items()}
    variant = "mmdet_r50_caffe_fpn" if "caffe_fpn" in layout.stem else None
    converted = convert(state, variant=variant)
    assert converted.source == "MMDetection 2 or 3"
    assert class_count(converted.weights) == 80
    expected = variant or ("mmdet_r50_caffe_c4" if "c4" in layout.stem else "mmdet_r50_fpn")
    assert converted.config.variant == expected
    assert converted.config.model.backbone == ("resnet101" if "r101" in layout.stem else "resnet50")
    load_weights(MaskRCNN(converted.config, CLASSES), converted.weights, layout.name)


def published_by_mmdetection(name: str) -> str:
    """The name that MMDetection's files have for one of ours."""
    name = re.sub(r"^fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv.", name)
    name = re.sub(r"^fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv.", name)
    name = re.sub(r"^mask_head\.convs\.(\d)\.", r"roi_head.mask_head.convs.\1.conv.", name)
    for ours, theirs in (
        ("proposal_head.conv.", "rpn_head.rpn_conv."),
        ("proposal_head.objectness.", "rpn_head.rpn_cls."),
        ("proposal_head.deltas.", "rpn_head.rpn_reg."),
        ("box_head.layers.", "roi_head.bbox_head.shared_fcs."),
        ("box_head.category.", "roi_head.bbox_head.fc_cls."),
        ("box_head.deltas.", "roi_head.bbox_head.fc_reg."),
        ("mask_head.enlarge.", "roi_head.mask_head.upsample."),
        ("mask_head.logits.", "roi_head.mask_head.conv_logits."),
    ):
        name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
    return name


def state_by_mmdetection(variant: str = "mmdet_r50_fpn", classes: int = 80) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        model = MaskRCNN(VARIANTS[variant], [f"class {number}" for number in range(classes)])
    return {published_by_mmdetection(name): value for name, value in model.state_dict().items()}


# what MMDetection 2 writes for mask_rcnn_r50_caffe_fpn_1x_coco, and 3 for mask-rcnn_x101-32x8d_fpn_1x_coco, abridged
CAFFE_2 = """
model = dict(
    type='MaskRCNN',
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=False), style='caffe'),
    roi_head=dict(type='StandardRoIHead', bbox_head=dict(bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.25]))),
    test_cfg=dict(rpn=dict(nms_pre=900, nms=dict(type='nms', iou_threshold=0.6), min_bbox_size=0),
        rcnn=dict(score_thr=0.02, nms=dict(type='nms', iou_threshold=0.45), max_per_img=77, mask_thr_binary=0.4)))
data = dict(test=dict(type='CocoDataset', pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1400, 700), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='Normalize', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)])]))
"""
X101_3 = """
model = dict(
    backbone=dict(type='ResNeXt', depth=101, groups=32, base_width=8, style='pytorch'),
    data_preprocessor=dict(
        bgr_to_rgb=False, mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], type='DetDataPreprocessor'),
    rpn_head=dict(anchor_generator=dict(scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1333, 800), keep_ratio=True)]))
"""


def test_what_mmdetection_2_keeps_in_meta_decides():
    converted = convert(state_by_mmdetection(), Origin.read("any.pth", {"meta": {"config": CAFFE_2}}))
    config, test = converted.config, converted.config.test
    assert config.variant == "mmdet_r50_caffe_fpn"
    assert (config.conventions.channels, config.model.stride_in_1x1) == ("bgr", True)
    assert (config.model.mean, config.model.std) == ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
    assert (test.long_side, test.short_side, test.score_threshold, test.nms_threshold) == (1400, 700, 0.02, 0.45)
    assert (test.max_instances, test.mask_threshold) == (77, 0.4)
    assert (config.proposals.before_nms, config.proposals.nms_threshold) == (900, 0.6)
    assert config.regions.delta_weights == (10.0, 10.0, 5.0, 4.0)
    sources = {decision.setting: decision.source for decision in converted.decisions}
    assert sources["conventions.channels"] == "its configuration, Normalize.to_rgb"
    assert sources["model.norm_eps"] == "the recipe of mmdet_r50_caffe_fpn"


def test_what_mmdetection_3_keeps_in_meta_decides():
    state = state_by_mmdetection("mmdet_x101_32x8d_fpn")
    config = convert(state, Origin.read("any.pth", {"meta": {"cfg": X101_3}})).config
    assert (config.conventions.channels, config.model.stride_in_1x1) == ("bgr", False)
    assert config.model.std == (57.375, 57.12, 58.395)
    assert config.proposals.anchor_sizes == (16, 32, 64, 128, 256)
    config = convert(state, Origin("any.pth")).config  # only one recipe has this network
    assert (config.conventions.channels, config.model.std) == ("bgr", (57.375, 57.12, 58.395))


def test_without_metadata_the_name_decides_or_the_variant_is_asked_for():
    state = state_by_mmdetection()
    for name, variant in (
        ("mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco_bbox_mAP-0.408.pth", "mmdet_r50_caffe_fpn"),
        ("mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth", "mmdet_r50_fpn"),
    ):
        assert convert(state, Origin(name)).config.variant == variant
    with pytest.raises(UserError, match=r"mine\.pth.*mmdet_r50_caffe_fpn, mmdet_r50_fpn.*--model"):
        convert(state, Origin("mine.pth"))
    assert convert(state, Origin("mine.pth"), "mmdet_r50_fpn").config.conventions.channels == "rgb"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model = dict(test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms'))))", "soft_nms"),
        ("model = dict(roi_head=dict(bbox_head=dict(cls_predictor_cfg=dict(type='NormedLinear'))))", "NormedLinear"),
        ("model = dict(test_cfg=dict(rcnn=dict(score_thr='0.05')))", "score_thr; expected a number"),
        ("test_pipeline = [dict(type='Normalize', mean=[1, 2], std=[1, 2, 3])]", "three numbers"),
        ("model = dict(backbone=dict(style='tensorflow'))", "'caffe' or 'pytorch'"),
    ],
)
def test_what_a_configuration_has_and_the_network_cannot_do_is_refused_in_one_line(text, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        convert(state_by_mmdetection(), Origin.read("any.pth", {"meta": {"config": text}}))
    assert "\n" not in str(error.value) and "any.pth" in str(error.value)


@pytest.mark.parametrize("classes", [1203, 1230])
def test_lvis_heads_have_lvis_thresholds(classes):
    origin = Origin("mask_rcnn_r50_fpn_sample1e-3_mstrain_1x_lvis_v1-aa78ac3d.pth")
    converted = convert(state_by_mmdetection(classes=classes), origin, "mmdet_r50_fpn")
    assert (converted.config.test.score_threshold, converted.config.test.max_instances) == (1e-4, 300)
    assert "LVIS" in next(each.source for each in converted.decisions if each.setting == "test.max_instances")


def test_torchvisions_epsilon_is_told_by_the_published_name_the_counters_or_the_user():
    with torch.device("meta"):
        trained = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    frozen = {name: value for name, value in trained.items() if not name.endswith("num_batches_tracked")}
    assert convert(trained, Origin("mine.pth")).config.model.norm_eps == 1e-5
    assert convert(frozen, Origin("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")).config.model.norm_eps == 0.0
    with pytest.raises(UserError, match=r"torchvision_r50_fpn_imagenet, torchvision_r50_fpn.*--model"):
        convert(frozen, Origin("mine.pth"))


def test_a_resnext_of_other_groups_is_refused_by_name():
    state = state_by_mmdetection("mmdet_x101_32x8d_fpn")
    state["backbone.layer1.0.conv2.weight"] = torch.empty(128, 16, 3, 3, device="meta")
    with pytest.raises(UserError, match=r"of 8 groups of 16 channels; known: .*ResNeXt"):
        convert(state)


@pytest.mark.parametrize("backbone", sorted(set(ARCHITECTURES) - {"resnet10"}))
def test_every_backbone_is_known_by_its_shapes(backbone):
    model = replace(VARIANTS["mmdet_r50_fpn"].model, backbone=backbone)
    with torch.device("meta"):
        weights = MaskRCNN(replace(VARIANTS["mmdet_r50_fpn"], model=model), ["a", "b"]).state_dict()
    converted = convert({published_by_mmdetection(name): value for name, value in weights.items()})
    assert converted.config.model.backbone == backbone


def layout(case: str) -> dict[str, torch.Tensor]:
    """The names and shapes of a file that MMDetection itself has written; the values are left out."""
    entries = json.loads((CASES / case / "spec.json").read_text())["state_dict"]
    return {name: torch.empty(entry["shape"], device="meta") for name, entry in entries.items()}


@pytest.mark.parametrize(
    ("case", "name", "variant"),
    [
        ("mmdet_r50_gn", "mask_rcnn_r50_fpn_gn-all_2x_coco_20200206-8eee02a6.pth", "mmdet_r50_fpn_gn"),
        ("mmdet_r50_gn", "mask_rcnn_r50_fpn_gn-all_contrib_2x_coco_20200207-20d3e849.pth", "mmdet_r50_fpn"),
        (
            "mmdet_r50_gn",
            "scratch_mask_rcnn_r50_fpn_gn_6x_bbox_mAP-0.412__segm_mAP-0.374-1e190a40.pth",
            "mmdet_r50_fpn",
        ),
        ("mmdet_r50_lvis", "mask_rcnn_r50_fpn_sample1e-3_mstrain_2x_lvis-dbd06831.pth", "mmdet_r50_fpn"),
        ("mmdet_faster_r50_caffe_dc5", "mine.pth", "mmdet_r50_caffe_dc5"),
        ("mmdet_faster_x101_32x4d_dconv", "mine.pth", "mmdet_r50_fpn"),
    ],
)
def test_what_is_published_is_known_by_its_name_or_is_the_only_one_of_its_shapes(case, name, variant):
    assert convert(layout(case), Origin(name)).config.variant == variant


def test_group_norms_without_a_name_are_asked_about():
    with pytest.raises(UserError, match=r"mmdet_r50_fpn_gn, mmdet_r50_fpn.*--model"):
        convert(layout("mmdet_r50_gn"), Origin("mine.pth"))


def test_deformable_convolutions_are_known_by_their_offsets():
    model = convert(layout("mmdet_faster_r50_mdconv_group4"), Origin("x.pth"), "mmdet_r50_fpn").config.model
    assert (model.deformable, model.deformable_groups, model.masks) == ("modulated", 4, False)
    model = convert(layout("mmdet_faster_x101_32x4d_dconv"), Origin("x.pth")).config.model
    assert (model.backbone, model.deformable, model.deformable_groups) == ("resnext101_32x4d", "offsets", 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("faster_rcnn_r50_fpn_gn_ws-all_1x_coco_20200130-613d9fe2.pth", ""),
        ("mine.pth", "model = dict(backbone=dict(conv_cfg=dict(type='ConvWS')))"),
    ],
)
def test_standardised_weights_are_standardised_where_the_file_says_so(name, text):
    state = layout("mmdet_faster_r50_gn_ws")
    torch.manual_seed(0)
    conv, other = "neck.fpn_convs.0.conv.weight", "rpn_head.rpn_conv.weight"
    state |= {conv: 1 + torch.randn(256, 256, 3, 3), other: 1 + torch.randn(256, 256, 3, 3)}
    rest = {"meta": {"config": text}} if text else {}
    weights = convert(state, Origin.read(name, rest), "mmdet_r50_fpn").weights
    rows = weights["fpn.layer_blocks.0.0.weight"].flatten(1).double().numpy()
    assert np.allclose(rows.mean(1), 0, atol=1e-6) and np.allclose(rows.std(1, ddof=1), 1, atol=1e-4)
    assert torch.equal(weights["proposal_head.conv.weight"], state[other])


def test_layers_of_other_networks_are_refused_with_the_familys_name():
    state = state_by_mmdetection() | {
        "backbone.layer2.0.context_block_conv3.conv_mask.weight": torch.zeros(1, 512, 1, 1)
    }
    with pytest.raises(UserError, match=r"mine\.pth.*of MMDetection.*context_block_conv3[^ ]*; known: Faster R-CNN"):
        convert(state, Origin("mine.pth"), "mmdet_r50_fpn")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model = dict(backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)))", r"strides = \(1, 2, 2, 1\)"),
        ("model = dict(neck=dict(num_outs=4))", "num_outs = 4"),
        (
            "model = dict(roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=0)),"
            "mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2))))",
            "sampling_ratio = 2, which maskrcnn does not do; known: 0",
        ),
    ],
)
def test_what_changes_results_and_leaves_no_trace_in_shapes_is_refused(text, complaint):
    with pytest.raises(UserError, match=complaint):
        convert(state_by_mmdetection(), Origin.read("any.pth", {"meta": {"config": text}}))


def test_torchvisions_names_old_and_new():
    with torch.device("meta"):
        state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    converted = convert(state)
    assert (converted.source, converted.config.variant) == ("torchvision", "torchvision_r50_fpn_imagenet")
    assert class_count(converted.weights) == 90
    with torch.device("meta"):
        model = MaskRCNN(converted.config, [str(number) for number in range(90)])
    assert set(converted.weights) == set(model.state_dict())
    # the published file is older than the names of today, and its norms count no batches
    old = {}
    for name, value in state.items():
        for layer in range(4):
            name = name.replace(f"_blocks.{layer}.0.", f"_blocks.{layer}.")  # noqa: PLW2901
            name = name.replace(f"mask_head.{layer}.0.", f"mask_head.mask_fcn{layer + 1}.")  # noqa: PLW2901
        old[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
    old = {name: value for name, value in old.items() if not name.endswith("num_batches_tracked")}
    assert set(convert(old).weights) == set(converted.weights)
    assert (convert(old).config.model.norm_eps, converted.config.model.norm_eps) == (0.0, 1e-5)


def test_torchvisions_outputs_are_cocos_classes_and_ten_spare_ones():
    with torch.device("meta"):
        state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    state["roi_heads.box_predictor.cls_score.bias"] = torch.arange(91.0)
    state["roi_heads.box_predictor.bbox_pred.bias"] = torch.arange(91.0 * 4)
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"] = torch.arange(91.0)
    converted = convert(state, Origin("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"))
    assert converted.config.model.spare_outputs == 10
    outputs = [0, *COCO_CATEGORY_IDS, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    for name, step in (("box_head.category.bias", 1), ("mask_head.logits.bias", 1), ("box_head.deltas.bias", 4)):
        assert converted.weights[name][::step].tolist() == [step * number for number in outputs]
    assert convert(state, Origin("mine.pth")).config.model.spare_outputs == 0


def published_by_detectron(name: str) -> str:
    """The blob that Detectron has for one of maskrcnn-benchmark's names."""
    name = name.removeprefix("module.")
    name, last = name.rsplit(".", 1)
    letter = {"weight": "w", "bias": "b"}[last]
    norm = {"weight": "bn_s", "bias": "bn_b"}[last]
    if name == "backbone.body.stem.conv1":
        return f"conv1_{letter}"
    if name == "backbone.body.stem.bn1":
        return f"res_conv1_{norm}"
    if "layer" in name and "fpn" not in name:
        stage, block, layer = name.split("layer")[1].split(".", 2)
        prefix = f"res{int(stage) + 1}_{block}_branch"
        branches = {"downsample.0": "1", "downsample.1": "1"}
        branches |= {f"{kind}{n}": f"2{'abc'[n - 1]}" for kind in ("conv", "bn") for n in (1, 2, 3)}
        is_norm = layer.startswith("bn") or layer == "downsample.1"
        return f"{prefix}{branches[layer]}_{norm if is_norm else letter}"
    if "fpn_" in name:
        level = int(name[-1])
        block = {1: 2, 2: 3, 3: 5, 4: 2}[level]
        kind, lateral = ("fpn_inner", "_lateral" if level < 4 else "") if "inner" in name else ("fpn", "")
        return f"{kind}_res{level + 1}_{block}_sum{lateral}_{letter}"
    last_part = name.rpartition(".")[2]
    if name.startswith("rpn"):
        return {"conv": "conv_rpn", "cls_logits": "rpn_cls_logits", "bbox_pred": "rpn_bbox_pred"}[
            last_part
        ] + f"_fpn2_{letter}"
    return last_part.replace("mask_fcn", "_[mask]_fcn" if last_part != "mask_fcn_logits" else "mask_fcn") + f"_{letter}"


def test_detectrons_pickles_are_read_and_their_merged_norms_become_whole(tmp_path):
    torch.manual_seed(0)
    model = MaskRCNN(VARIANTS["r50_fpn_1x"], ["a", "b"]).eval()
    weights = {name: value for name, value in model.state_dict().items() if "running" not in name}
    blobs = {published_by_detectron(published_by_benchmark(name)): value.numpy() for name, value in weights.items()}
    assert len(blobs) == len(weights)
    blobs["conv1_w_momentum"] = np.zeros(3, np.float32)
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "MODEL: ..."}, protocol=2))
    state, _ = read_published(tmp_path / "model_final.pkl")
    converted = convert(state)
    assert (converted.source, converted.config.variant) == ("Detectron (Caffe2)", "r50_fpn_1x")
    again = MaskRCNN(converted.config, ["a", "b"])
    load_weights(again, converted.weights, "model_final.pkl")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def state_by_detectron() -> dict[str, torch.Tensor]:
    model = meta_model("r50_fpn_1x")
    kept = [name for name in model.state_dict() if "running" not in name]
    return {published_by_detectron(published_by_benchmark(name)): model.state_dict()[name] for name in kept}


def test_detectrons_own_configuration_decides():
    values = {
        "PIXEL_MEANS": np.array([[[100.0, 110.0, 120.5]]]),
        "TEST": {"SCALES": (600,), "MAX_SIZE": 1000, "SCORE_THRESH": 0.3, "NMS": 0.4, "DETECTIONS_PER_IM": 7},
        "MRCNN": {"THRESH_BINARIZE": 0.6},
        "MODEL": {"BBOX_REG_WEIGHTS": (10.0, 10.0, 4.0, 4.0)},
        "TRAIN": {"DATASETS": ("coco_2014_train",)},
    }
    origin = Origin.read("model_final.pkl", {"cfg": yaml.dump(values)})
    assert origin.notes == ()
    converted = convert(state_by_detectron(), origin)
    test = converted.config.test
    assert converted.config.model.mean == (100.0, 110.0, 120.5)
    assert (test.short_side, test.long_side, test.score_threshold) == (600, 1000, 0.3)
    assert (test.nms_threshold, test.max_instances, test.mask_threshold) == (0.4, 7, 0.6)
    assert converted.config.regions.delta_weights == (10.0, 10.0, 4.0, 4.0)
    told = {each.setting: each.source for each in converted.decisions}
    assert told["test.score_threshold"] == "its configuration, TEST.SCORE_THRESH"
    assert told["model.std"] == "the recipe of r50_fpn_1x"
    for path, problem in (("SOFT_NMS", "TEST.SOFT_NMS.ENABLED = True"), ("BBOX_VOTE", "TEST.BBOX_VOTE.ENABLED = True")):
        other = yaml.dump({"TEST": {path: {"ENABLED": True}}})
        with pytest.raises(UserError, match=problem):
            convert(state_by_detectron(), Origin.read("model_final.pkl", {"cfg": other}))


def test_maskrcnn_benchmarks_configuration_decides():
    text = (
        "INPUT: {PIXEL_MEAN: [1, 2, 3], PIXEL_STD: [4, 5, 6], MIN_SIZE_TEST: 500, MAX_SIZE_TEST: 900}\n"
        "MODEL: {ROI_HEADS: {SCORE_THRESH: 0.2, NMS: 0.45, DETECTIONS_PER_IMG: 9}, RPN: {NMS_THRESH: 0.65}}\n"
    )
    state = {published_by_benchmark(name): value for name, value in meta_model("r50_fpn_1x").state_dict().items()}
    config = convert(state, Origin.read("model_final.pth", {"cfg": text})).config
    assert (config.model.mean, config.model.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert (config.test.short_side, config.test.long_side, config.test.max_instances) == (500, 900, 9)
    assert (config.test.score_threshold, config.test.nms_threshold) == (0.2, 0.45)
    assert config.proposals.nms_threshold == 0.65
    with pytest.raises(UserError, match=r"its configuration has 'much' for MODEL\.ROI_HEADS\.NMS; expected a number"):
        convert(state, Origin.read("model_final.pth", {"cfg": text.replace("0.45", "much")}))
    with pytest.raises(UserError, match=r"INPUT\.TO_BGR255 = False"):
        convert(state, Origin.read("model_final.pth", {"cfg": "INPUT: {TO_BGR255: false}"}))
