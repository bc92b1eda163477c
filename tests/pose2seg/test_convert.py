"""Published names -> ours, strictly; with and without what files of different ages have."""

import re

import pytest
import torch

from maskworks.published.origin import Origin
from pose2seg import VARIANTS, Pose2Seg
from pose2seg.convert import backbone_weights, class_count, convert, recognise


def published(name: str) -> str:
    """The name that the original's files have for one of ours, written the other way round."""
    if name.startswith("backbone."):
        return name.replace("downsample.0", "conv4").replace("downsample.1", "bn4")
    if match := re.fullmatch(r"fpn\.(lateral|output)\.(\d)\.(.+)", name):
        level = int(match[2]) + 1
        return f"backbone.fpn_{f'c{level}' if match[1] == 'lateral' else ''}p{level}.{match[3]}"
    return name.replace("segmentation.", "segnet.")


@pytest.fixture(scope="module")
def model() -> Pose2Seg:
    with torch.device("meta"):
        return Pose2Seg(VARIANTS["coco_occ"])


@pytest.fixture(scope="module")
def state(model) -> dict[str, torch.Tensor]:
    return {published(name): value for name, value in model.state_dict().items()}


def test_the_published_variant_is_recognised_from_its_names_and_shapes(model, state):
    assert len(state) == len(model.state_dict()) == 588
    assert recognise(state) == "liruilong940607/Pose2Seg"
    converted = convert(state)
    assert converted.config == VARIANTS["coco_occ"]
    assert converted.weights.keys() == model.state_dict().keys()
    assert class_count(converted.weights) == 1
    assert converted.names["backbone.layer1.0.conv4.weight"] == "backbone.layer1.0.downsample.0.weight"


def test_each_decision_and_who_made_it_is_told(state):
    told = {each.setting: each for each in convert(state, Origin("pose2seg_release.pkl")).decisions}
    assert told["variant"].value == "coco_occ"
    assert told["model.input_size"] == ("model.input_size", 512, "the recipe of coco_occ")


def test_older_files_have_other_names_and_no_counters(model, state):
    older = {
        name.replace("segnet", "pose2seg.seg_branch"): value
        for name, value in state.items()
        if "num_batches_tracked" not in name
    }
    assert convert(older).weights.keys() == model.state_dict().keys()


def test_widths_follow_from_the_weights():
    config = VARIANTS["coco_occ"]
    with torch.device("meta"):
        narrow = Pose2Seg(type(config)(model=type(config.model)(segmentation_channels=64, segmentation_blocks=2)))
    converted = convert({published(name): value for name, value in narrow.state_dict().items()})
    assert converted.config.model.segmentation_channels == 64
    assert converted.config.model.segmentation_blocks == 2


def test_an_imagenet_backbone_is_taken_without_its_classes(model):
    body = {name.removeprefix("backbone."): v for name, v in model.state_dict().items() if name.startswith("backbone.")}
    older = {name: value for name, value in body.items() if "num_batches" not in name} | {"fc.weight": torch.zeros(1)}
    weights = backbone_weights(older)
    assert weights.keys() == {f"backbone.{name}" for name in body}
    assert backbone_weights({"something.else": torch.zeros(1)}) is None
