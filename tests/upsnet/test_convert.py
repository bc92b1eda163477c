"""Published names of every variant, and starting weights of other classes and from ImageNet."""

import re
from copy import deepcopy

import pytest
import torch
import torchvision

import upsnet
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.published.origin import Origin
from upsnet.backbone import make_backbone
from upsnet.classes import CITYSCAPES, COCO, COCO_STUFF
from upsnet.convert import EFFICIENTNET_DEPTHS, backbone_weights, class_count, convert, known_classes, recognise
from upsnet.weights import initialise

PUBLISHED = ["resnet50_coco", "resnet101_dcn_coco", "resnet50_cityscapes", "resnet101_cityscapes"]


def names_of(variant: str) -> list[str]:
    return list(COCO if variant.endswith("coco") else CITYSCAPES)


def published(name: str) -> str:
    """A name of ours as uber-research/UPSNet writes it."""
    for ours, theirs in (
        (r"^backbone\.layer(\d)\.", lambda m: f"resnet_backbone.res{int(m[1]) + 1}.layers."),
        (r"^backbone\.", "resnet_backbone.conv1."),
        (r"conv2\.offset\.", "conv2_offset."),
        (r"^pyramid\.lateral\.(\d)\.", lambda m: f"fpn.fpn_p{int(m[1]) + 2}_1x1."),
        (r"^pyramid\.output\.(\d)\.", lambda m: f"fpn.fpn_p{int(m[1]) + 2}."),
        (r"^pyramid\.context\.", "fpn.fpn_gap."),
        (r"^proposal_head\.conv\.", "rpn.conv_proposal.0."),
        (r"^proposal_head\.objectness\.", "rpn.cls_score."),
        (r"^proposal_head\.deltas\.", "rpn.bbox_pred."),
        (r"^box_head\.fc(\d)\.", lambda m: f"rcnn.fc{int(m[1]) + 5}.0."),
        (r"^box_head\.classes\.", "rcnn.cls_score."),
        (r"^box_head\.deltas\.", "rcnn.bbox_pred."),
        (r"^mask_head\.convs\.(\d)\.", lambda m: f"mask_branch.mask_conv{int(m[1]) + 1}.0."),
        (r"^mask_head\.upsample\.", "mask_branch.mask_deconv1.0."),
        (r"^mask_head\.masks\.", "mask_branch.mask_score."),
        (r"^semantic_head\.layers\.(\d)\.offset\.", r"fcn_head.fcn_subnet.conv.\1.0.conv_offset."),
        (r"^semantic_head\.layers\.(\d)\.", r"fcn_head.fcn_subnet.conv.\1.0.conv."),
        (r"^semantic_head\.classes\.", "fcn_head.score."),
    ):
        name, times = re.subn(ours, theirs, name)
        if times and "offset" not in ours:
            break
    return name


@pytest.mark.parametrize("variant", PUBLISHED)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_published_variant_is_recognised_and_fits(variant, prefix):
    with torch.device("meta"):
        model = upsnet.UPSNet(upsnet.VARIANTS[variant], names_of(variant))
    state = {prefix + published(name): value for name, value in model.state_dict().items()}
    assert recognise(state)
    converted = convert(state)
    assert converted.config.variant == variant
    assert converted.config.model == upsnet.VARIANTS[variant].model
    assert class_count(converted.weights) == len(names_of(variant))
    model.load_state_dict(converted.weights, strict=True, assign=True)


def test_the_variant_can_be_named():
    with torch.device("meta"):
        model = upsnet.UPSNet(upsnet.VARIANTS["resnet50_coco"], list(COCO))
    state = {published(name): value for name, value in model.state_dict().items()}
    converted = convert(state, variant="resnet101_dcn_coco")
    assert converted.config.variant == "resnet101_dcn_coco"
    assert converted.config.model.backbone == "resnet50"


def test_each_decision_and_who_made_it_is_told():
    with torch.device("meta"):
        model = upsnet.UPSNet(upsnet.VARIANTS["resnet50_cityscapes"], list(CITYSCAPES))
    state = {published(name): value for name, value in model.state_dict().items()}
    told = {each.setting: each for each in convert(state, Origin("model.pth")).decisions}
    shapes = "the published recipe with these names and shapes"
    assert told["variant"] == ("variant", "resnet50_cityscapes", shapes)
    assert told["test.long_side"] == ("test.long_side", 2048, "the recipe of resnet50_cityscapes")
    assert told["model.colours"].value == "bgr"


def test_the_classes_are_cocos_and_cityscapes():
    assert len(COCO) == 133
    assert len(COCO_STUFF) == 53
    assert len(CITYSCAPES) == 19
    assert known_classes(133) == COCO
    assert known_classes(19) == CITYSCAPES
    assert known_classes(7) is None


def efficientnet_pytorch(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's EfficientNet-B0 under the names of efficientnet-pytorch."""
    names = {"features.0.0": "_conv_stem", "features.0.1": "_bn0", "features.8.0": "_conv_head", "features.8.1": "_bn1"}
    names["classifier.1"] = "_fc"
    block = 0
    for stage, depth in enumerate(EFFICIENTNET_DEPTHS, start=1):
        for index in range(depth):
            layers = [["_depthwise_conv", "_bn1"], ["_se_reduce", "_se_expand"], ["_project_conv", "_bn2"]]
            layers = layers if block == 0 else [["_expand_conv", "_bn0"], *layers]
            for place, pair in enumerate(layers):
                parts = ("fc1", "fc2") if pair[0] == "_se_reduce" else ("0", "1")
                for part, name in zip(parts, pair, strict=True):
                    names[f"features.{stage}.{index}.block.{place}.{part}"] = f"_blocks.{block}.{name}"
            block += 1
    return {names[name.rpartition(".")[0]] + "." + name.rpartition(".")[2]: value for name, value in state.items()}


@pytest.mark.parametrize("rename", [dict, efficientnet_pytorch])
def test_both_efficientnets_weights_start_the_backbone(rename):
    torch.manual_seed(0)
    classifier = torchvision.models.efficientnet_b0().eval()
    weights = backbone_weights(rename(classifier.state_dict()))
    assert weights is not None
    backbone = make_backbone(upsnet.VARIANTS["efficientnet_b0_coco"].model).eval()
    backbone.load_state_dict({name.removeprefix("backbone."): value for name, value in weights.items()}, strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)[3], classifier.features[:8](images))


@pytest.mark.parametrize(
    ("variant", "classifier"), [("resnet50_coco", "resnet50"), ("resnet101_dcn_coco", "resnet101")]
)
def test_a_resnets_imagenet_file_fills_the_backbone(variant, classifier):
    with torch.device("meta"):
        state = torchvision.models.get_model(classifier).state_dict()
        backbone = make_backbone(upsnet.VARIANTS[variant].model)
    weights = backbone_weights(state)
    assert weights is not None
    missing = {f"backbone.{name}" for name in backbone.state_dict()} - set(weights)
    assert not set(weights) - {f"backbone.{name}" for name in backbone.state_dict()}
    assert all(".conv2.offset." in name for name in missing)
    assert bool(missing) == ("dcn" in variant)


def test_cityscapes_training_takes_over_the_classes_that_coco_has_too(tmp_path, capsys):
    def small(variant: str) -> upsnet.UPSNet:
        config = deepcopy(upsnet.VARIANTS[variant])
        config.model.backbone, config.model.fpn_channels, config.model.box_channels = "resnet50", 32, 32
        config.model.mask_channels = config.model.semantic_channels = 32
        config.model.global_context, config.model.semantic_layers = False, 2
        return upsnet.UPSNet(config, names_of(variant))

    torch.manual_seed(0)
    coco, city = small("resnet50_coco"), small("resnet50_cityscapes")
    fresh = {name: value.clone() for name, value in city.state_dict().items()}
    path = tmp_path / "coco.safetensors"
    save(path, Checkpoint("upsnet", to_dict(coco.config), tuple(COCO), tuple(COCO.values()), coco.state_dict()))
    initialise(city, str(path))
    assert "other classes" in capsys.readouterr().err
    torch.testing.assert_close(city.box_head.fc1.weight, coco.box_head.fc1.weight)
    ours, theirs = list(CITYSCAPES), list(COCO)
    # instance classes count from 1; the original's table says 3 <- 3 for car and 4 <- 8 for truck
    assert (ours.index("car") + 1, theirs.index("car") + 1) == (3, 3)
    torch.testing.assert_close(city.box_head.classes.weight[4], coco.box_head.classes.weight[8])
    torch.testing.assert_close(city.box_head.deltas.weight[16:20], coco.box_head.deltas.weight[32:36])
    torch.testing.assert_close(city.box_head.classes.bias[0], coco.box_head.classes.bias[0])
    # semantic channels: 0 <- 20 road, 8 <- 36 vegetation, 18 <- 54 bicycle; 9, terrain, has no counterpart
    for here, there in ((0, 20), (1, 43), (2, 49), (3, 51), (4, 37), (6, 62), (8, 36), (10, 39), (11, 53), (18, 54)):
        torch.testing.assert_close(city.semantic_head.classes.weight[here], coco.semantic_head.classes.weight[there])
    torch.testing.assert_close(city.semantic_head.classes.weight[9], fresh["semantic_head.classes.weight"][9])
    torch.testing.assert_close(city.box_head.classes.weight[2], fresh["box_head.classes.weight"][2])  # rider
