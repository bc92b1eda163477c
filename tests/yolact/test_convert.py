"""Published names -> ours: every variant, every naming, strictly."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from maskworks.published.origin import Origin
from yolact.config import VARIANTS
from yolact.convert import backbone_weights, class_count, convert
from yolact.network import YOLACT

PUBLISHED = [name for name in VARIANTS if name not in ("shapes", "small")]
LAYOUTS = sorted((Path(os.environ.get("MASKWORKS_DATA", "nowhere")) / "mmdet3_checkpoints").glob("yolact__*.json"))


PARTS = [  # ours -> dbolya's, the longer first
    ("backbone.stem.", "backbone._preconv."),
    ("backbone.stages.", "backbone.layers."),
    *((f"backbone.layer{stage + 1}.", f"backbone.layers.{stage}.") for stage in range(4)),
    *((f"fpn.lateral.{level}.", f"fpn.lat_layers.{2 - level}.") for level in range(3)),
    *((f"fpn.output.{level}.", f"fpn.pred_layers.{2 - level}.") for level in range(3)),
    ("fpn.downsample.", "fpn.downsample_layers."),
    *((f"protonet.coarse.{number}.", f"proto_net.{2 * number}.") for number in range(3)),
    ("protonet.fine.", "proto_net.8."),
    ("protonet.prototypes.", "proto_net.10."),
    ("head.shared.", "prediction_layers.0.upfeature.0."),
    ("head.class_logits.", "prediction_layers.0.conf_layer."),
    ("head.deltas.", "prediction_layers.0.bbox_layer."),
    ("head.coefficients.", "prediction_layers.0.mask_layer."),
    ("semantic.", "semantic_seg_conv."),
    *((f"mask_iou.convs.{number}.", f"maskiou_net.maskiou_net.{2 * number}.") for number in range(6)),
]


def published_by_dbolya(name: str) -> str:
    """The name that dbolya/yolact's files have for one of ours, written the other way round."""
    name = name.replace(".offset.", ".conv_offset_mask.")
    ours, theirs = next(((a, b) for a, b in PARTS if name.startswith(a)), ("", ""))
    return theirs + name.removeprefix(ours)


def meta_model(variant: str, classes: int = 80) -> YOLACT:
    with torch.device("meta"):  # shapes only
        return YOLACT(VARIANTS[variant], [f"class {number}" for number in range(classes)])


def published_state(variant: str, classes: int = 80) -> dict[str, torch.Tensor]:
    return {published_by_dbolya(name): value for name, value in meta_model(variant, classes).state_dict().items()}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_every_variant_is_recognised_from_its_published_names_and_shapes(variant):
    classes = 20 if variant == "resnet50_pascal" else 80
    model, state = meta_model(variant, classes), published_state(variant, classes)
    assert len(state) == len(model.state_dict())
    converted = convert(state, Origin(f"yolact_{variant.removesuffix('_550')}_54_800000.pth"))
    assert converted.source == "dbolya/yolact"
    assert class_count(converted.weights) == classes
    assert {name: value.shape for name, value in converted.weights.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    published = "yolact_" + variant.removesuffix("_550")
    for name in (f"{published}_54_800000.pth", f"{published}_10_32100.pth", f"{published}_3_999_interrupt.pth"):
        named = convert(state, Origin(f"weights/{name}"))
        assert named.config == VARIANTS[variant]
        assert named.decisions[0] == ("variant", variant, "the file's name, as dbolya/yolact gives it")
    assert convert(state, Origin("any.pth"), variant).config == VARIANTS[variant]


@pytest.mark.parametrize(
    ("variant", "classes", "listed"),
    [
        ("base", 80, "base, im700, im400"),
        ("resnet50_pascal", 20, "resnet50_550, resnet50_pascal"),
        ("base", 3, "base, im700, im400"),
    ],
)
@pytest.mark.parametrize("name", ["model.pth", "yolact_im500_54_800000.pth", "yolact_base_mine_10_32100.pth"])
def test_where_shapes_leave_a_choice_that_decides_results_the_user_is_asked(variant, classes, listed, name):
    with pytest.raises(UserError, match=rf"{name}: .*\({listed}\).*--model"):
        convert(published_state(variant, classes), Origin(name))


@pytest.mark.parametrize(("name", "variant"), [("edge", "base"), ("edge_resnet50", "resnet50_550")])
def test_yolact_edges_files_for_photographs_are_dbolyas_networks(name, variant):
    assert convert(published_state(variant), Origin(f"yolact_{name}_54_800000.pth")).config == VARIANTS[variant]


def test_shapes_that_leave_no_choice_need_no_name():
    for variant in ("resnet50_550", "darknet53_550", "plus_base", "plus_resnet50_550"):
        assert convert(published_state(variant), Origin("model.pth")).config == VARIANTS[variant]


def test_a_name_that_contradicts_the_network_is_told():
    with pytest.raises(UserError, match=r"yolact_im700_54_800000\.pth: its name says im700, .*\(resnet50_550\)"):
        convert(published_state("resnet50_550"), Origin("yolact_im700_54_800000.pth"))


# as MMDetection 2 and 3 write it into their files
CONFIGURATION = """
model = dict(type='YOLACT', backbone=dict(type='ResNet', depth=50, style='pytorch'),
    bbox_head=dict(type='YOLACTHead', num_classes=80, num_protos=32,
        anchor_generator=dict(type='AnchorGenerator', octave_base_scale=3, scales_per_octave=1,
            base_sizes=[8, 16, 32, 64, 128], ratios=[0.5, 1.0, 2.0], strides=[STRIDES]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])),
    test_cfg=dict(nms_pre=1000, score_thr=0.05, iou_thr=0.5, top_k=200, max_per_img=100))
test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(SIZE, SIZE), flip=False, transforms=[
    dict(type='Resize', keep_ratio=False),
    dict(type='Normalize', mean=[123.68, 116.78, 103.94], std=[58.4, 57.12, 57.38], to_rgb=True)])]
"""


def mmdetection_file(size: int = 550, **changes: str) -> Origin:
    strides = ", ".join(str(size / -(-size // 2**level)) for level in range(3, 8))
    text = CONFIGURATION.replace("STRIDES", strides).replace("SIZE", str(size))
    for old, new in changes.items():
        assert f"{old}=" in text
        text = re.sub(rf"\b{old}=(\[[^]]*\]|[^,)]*)", f"{old}={new}", text)
    return Origin.read("epoch_55.pth", {"meta": {"config": text}})


@pytest.mark.skipif(not LAYOUTS, reason="needs the layouts that MASKWORKS_DATA names")
def test_what_mmdetections_configuration_says_is_done():
    shapes = json.loads(next(path for path in LAYOUTS if "_r50_" in path.name).read_text())["state_dict"]
    with torch.device("meta"):
        state = {name: torch.zeros(shape) for name, (shape, _) in shapes.items()}
    published = convert(state, Origin("yolact_r50_1x8_coco_20200908-f38d58df.pth")).config
    assert convert(state, mmdetection_file()).config == published
    changed = convert(state, mmdetection_file(700, score_thr="0.1", octave_base_scale="4", top_k="50"))
    model, test = changed.config.model, changed.config.test
    assert (model.input_size, model.scales, test.score_threshold, test.top_k) == (700, (32, 64, 128, 256, 512), 0.1, 50)
    sources = {decision.setting: decision.source for decision in changed.decisions}
    assert sources["model.input_size"] == "its configuration, the test pipeline's img_scale"
    assert sources["test.max_instances"] == "its configuration, model.test_cfg.max_per_img"
    for change in ({"to_rgb": "False"}, {"target_stds": "[1, 1, 1, 1]"}, {"style": "'caffe'"}, {"strides": "[8, 8]"}):
        with pytest.raises(UserError, match=r"epoch_55\.pth: its configuration"):
            convert(state, mmdetection_file(**change))


def test_what_old_files_hold_beside_the_network_is_left_out():
    state = published_state("resnet50_550")
    expected = convert(state).weights.keys()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    old |= {
        "fpn.downsample_layers.2.weight": torch.zeros(256, 256, 3, 3),
        "fpn.downsample_layers.2.bias": torch.zeros(256),
        "backbone.layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1),
    }
    converted = convert(old)
    assert converted.weights.keys() == expected
    assert converted.weights["backbone.bn1.num_batches_tracked"] == 0
    assert "fpn.downsample_layers.2.bias" not in converted.names


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda path: path.stem)
def test_mmdetection_layouts_load_strictly(layout):
    shapes = json.loads(layout.read_text())["state_dict"]
    state = {name: torch.zeros(shape) for name, (shape, _) in shapes.items()}
    converted = convert(state)
    assert converted.source == "MMDetection 2 or 3"
    assert converted.config.variant == ("base" if "r101" in layout.stem else "resnet50_550")
    with torch.device("meta"):
        model = YOLACT(converted.config, ["a"] * class_count(converted.weights))
    assert {n: v.shape for n, v in converted.weights.items()} == {n: v.shape for n, v in model.state_dict().items()}
    older = {name.replace("mask_head.segm_branch.", "segm_head."): value for name, value in state.items()}
    assert convert(older).weights.keys() == converted.weights.keys()


def test_mmdetections_background_moves_from_the_last_place_to_the_first():
    state = {name: torch.zeros(1) for name in ("mask_head.protonet.0.weight", "neck.fpn_convs.3.conv.weight")}
    small = {
        "bbox_head.head_convs.0.conv.weight": torch.zeros(8, 8, 3, 3),
        "mask_head.protonet.10.weight": torch.zeros(4, 8, 1, 1),
        "mask_head.segm_branch.segm_conv.weight": torch.zeros(2, 8, 1, 1),
        "bbox_head.conv_cls.weight": torch.arange(6.0).view(6, 1, 1, 1),  # two priors of a, b, background
        "bbox_head.conv_cls.bias": torch.arange(6.0),
    }
    weights = convert(state | small).weights
    assert weights["head.class_logits.bias"].tolist() == [2, 0, 1, 5, 3, 4]
    assert weights["head.class_logits.weight"].flatten().tolist() == [2, 0, 1, 5, 3, 4]


@pytest.mark.parametrize("variant", ["resnet50_550", "darknet53_550"])
def test_a_classifiers_file_becomes_the_backbone(variant):
    """Darknet-53 under dbolya's names, and ResNets under his or torchvision's."""
    body = {name: value for name, value in published_state(variant).items() if name.startswith("backbone.")}
    classifier = {name.removeprefix("backbone."): value for name, value in body.items()} | {"fc.weight": torch.zeros(1)}
    ours = {name for name in meta_model(variant).state_dict() if name.startswith("backbone.")}
    weights = backbone_weights(classifier)
    assert weights is not None
    assert weights.keys() == ours
    if variant == "resnet50_550":
        torchvisions = {name.removeprefix("backbone."): torch.zeros(1) for name in ours}
        assert (backbone_weights(torchvisions) or {}).keys() == ours
    assert backbone_weights({"proto_net.0.weight": torch.zeros(1)}) is None
