"""Published names -> ours: every variant, every naming, strictly."""

import json
import os
from pathlib import Path

import pytest
import torch

from common.checkpoint import load_weights
from common.errors import UserError
from yolact.config import VARIANTS
from yolact.convert import backbone_weights, class_count, convert
from yolact.network import YOLACT

PUBLISHED = [name for name in VARIANTS if name != "shapes"]
LAYOUTS = sorted((Path(os.environ.get("MASKWORKS_DATA", "nowhere")) / "mmdet3_checkpoints").glob("yolact__*.json"))
LARGER_INPUT = {"im700", "im400"}  # the very network of "base"


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
    converted = convert(state)
    assert converted.source == "dbolya/yolact"
    assert class_count(converted.weights) == classes
    assert {name: value.shape for name, value in converted.weights.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    expected = "base" if variant in LARGER_INPUT else variant
    assert converted.config.variant == expected
    assert converted.config.model == VARIANTS[expected].model
    assert convert(state, variant=variant).config == VARIANTS[variant]


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


def test_names_that_belong_to_no_yolact_are_refused():
    with pytest.raises(UserError, match="not a YOLACT checkpoint"):
        convert({"roi_head.bbox_head.fc_cls.weight": torch.zeros(81, 1024)})


def test_a_missing_and_an_unexpected_weight_are_both_listed():
    model = YOLACT(VARIANTS["shapes"], ["a", "b"])
    weights = dict(model.state_dict())
    weights["extra"] = weights.pop("semantic.bias")
    with pytest.raises(UserError) as error:
        load_weights(model, weights, "file.pth")
    assert "missing: semantic.bias" in str(error.value)
    assert "unexpected: extra" in str(error.value)
