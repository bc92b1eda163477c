"""Published names -> ours: every variant, every naming, strictly."""

import json
import os
import re
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.run.checkpoint import load_weights
from maskworks.published.origin import Origin
from solov2.config import VARIANTS, Inference, Model
from solov2.convert import convert, structure_of
from solov2.network import SOLOv2

PUBLISHED = [name for name in VARIANTS if name not in ("shapes", "small")]
CLASSES = [f"class {n}" for n in range(80)]
LAYOUTS = sorted((Path(os.environ.get("MASKWORKS_DATA", "nowhere")) / "mmdet3_checkpoints").glob("solov2__*.json"))


def published_by_solo(name: str) -> str:
    """The name that WXinlong/SOLO's files have for one of ours, written the other way round."""
    name = name.replace(".offset.", ".conv_offset.")
    part, _, rest = name.partition(".")
    if part == "fpn":
        kind, level, _, last = rest.split(".")
        return f"neck.{'lateral' if kind == 'inner_blocks' else 'fpn'}_convs.{level}.conv.{last}"
    rest = rest.replace(".norm.", ".gn.").replace("project.norm.", "project.gn.")
    if part == "mask_feature_head":
        if rest.startswith("project."):
            return "mask_feat_head.conv_pred.0." + rest.removeprefix("project.")
        _, level, conv, last = rest.split(".", 3)
        return f"mask_feat_head.convs_all_levels.{level}.conv{conv}.{last}"
    if part == "category_kernel_head":
        for ours, theirs in (("category_tower", "cate_convs"), ("kernel_tower", "kernel_convs")):
            rest = rest.replace(ours, theirs)
        for ours, theirs in (("category.", "solo_cate."), ("kernel.", "solo_kernel.")):
            rest = theirs + rest.removeprefix(ours) if rest.startswith(ours) else rest
        return f"bbox_head.{rest}"
    return name


def meta_model(variant: str) -> SOLOv2:
    with torch.device("meta"):  # shapes only: the large variants hold 100 million weights
        return SOLOv2(VARIANTS[variant], CLASSES)


@pytest.mark.parametrize("variant", [name for name in PUBLISHED if not name.startswith("adelaidet")])
def test_every_variant_is_recognised_from_its_published_names_and_shapes(variant):
    model = meta_model(variant)
    state = {published_by_solo(name): value for name, value in model.state_dict().items()}
    assert len(state) == len(model.state_dict())
    converted = convert(state)
    assert converted.source == "WXinlong/SOLO"
    assert converted.config.model == VARIANTS[variant].model
    assert set(converted.weights) == set(model.state_dict())
    # one network, two schedules: the longer one is taken
    assert converted.config.variant == ("r50_3x" if variant == "r50_1x" else variant)
    assert convert(state, variant=variant).config.variant == variant


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda path: path.stem)
def test_mmdetection_3_layouts_load_strictly(layout):
    shapes = json.loads(layout.read_text())["state_dict"]
    converted = convert({name: torch.zeros(shape) for name, (shape, _) in shapes.items()})
    assert converted.source == "MMDetection 2 or 3"
    load_weights(SOLOv2(converted.config, CLASSES), converted.weights, layout.name)


def test_a_setting_that_the_shapes_do_not_tell_chooses_no_variant(monkeypatch):
    """As a field of Model that a later version adds: its default in `shapes` differs from the published ones'."""
    state = {published_by_solo(name): value for name, value in meta_model("r101_3x").state_dict().items()}
    for name in ("r101_3x", "r50_1x", "r50_3x"):
        changed = deepcopy(VARIANTS[name])
        changed.model = replace(changed.model, mean=(1.0, 2.0, 3.0), centre_fraction=0.3, frozen_stages=0)
        monkeypatch.setitem(VARIANTS, name, changed)
    assert convert(state, Origin("mine.pth")).config.variant == "r101_3x"
    assert structure_of(convert(state).weights).keys() <= {field.name for field in fields(Model)}


def test_pytorch_solov2_keeps_thirty_instances():
    state = {}
    for name, value in meta_model("light_r18_448").state_dict().items():
        name = published_by_solo(name)  # noqa: PLW2901
        name = re.sub(r"^neck\.(\w+)\.(\d)\.conv\.", r"fpn.\1.\2.", name)  # noqa: PLW2901
        name = re.sub(r"((?:cate|kernel)_convs\.\d|levels\.\d\.conv\d)\.conv\.", r"\1.0.", name)  # noqa: PLW2901
        name = re.sub(r"((?:cate|kernel)_convs\.\d|levels\.\d\.conv\d)\.gn\.", r"\1.1.", name)  # noqa: PLW2901
        name = re.sub(r"conv_pred\.0\.conv\.", "conv_pred.0.", name)  # noqa: PLW2901
        state[re.sub(r"conv_pred\.0\.gn\.", "conv_pred.1.", name)] = value
    converted = convert(state, Origin("solov2_448_r18_epoch_36.pth"))
    assert (converted.source, converted.config.variant) == ("pytorch_solov2", "light_r18_448")
    assert converted.weights.keys() == meta_model("light_r18_448").state_dict().keys()
    assert converted.config.test == replace(VARIANTS["light_r18_448"].test, max_instances=30)
    decision = next(each for each in converted.decisions if each.setting == "test.max_instances")
    assert (decision.value, decision.source) == (30, "pytorch_solov2's configuration")


def test_a_configuration_in_the_file_decides():
    state = {published_by_solo(name): value for name, value in meta_model("r50_3x").state_dict().items()}
    text = """
test_cfg = dict(nms_pre=400, score_thr=0.2, mask_thr=0.6, update_thr=0.07, kernel='linear', sigma=3.0, max_per_img=50)
test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(999, 555), transforms=[
    dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)])]
model = dict(type='SOLOv2', bbox_head=dict(type='SOLOv2Head', num_grids=[41, 36, 24, 16, 12]))
"""
    config = convert(state, Origin.read("mine.pth", {"meta": {"config": text}})).config
    assert config.test == Inference(999, 555, "opencv", 0.2, 0.6, 0.07, "linear", 3.0, 400, 50)
    assert (config.model.mean, config.model.std, config.model.grids[0]) == ((1, 2, 3), (4, 5, 6), 41)
    assert (config.model.channels, config.model.stride_in_1x1) == ("rgb", False)
    caffe = text.replace("to_rgb=True", "to_rgb=False").replace(
        "SOLOv2', bbox", "SOLOv2', backbone=dict(style='caffe'), bbox"
    )
    model = convert(state, Origin.read("mine.pth", {"meta": {"config": caffe}})).config.model
    assert (model.channels, model.stride_in_1x1) == ("bgr", True)


ADELAIDET = Path(__file__).parent.parent / "parity" / "cases" / "solov2" / "adelaidet_r50_3x" / "spec.json"


@pytest.mark.parametrize(("blocks", "variant"), [(6, "adelaidet_r50_3x"), (23, "adelaidet_r101_3x")])
def test_adelaidets_files_convert_with_their_config_yaml_or_without(tmp_path, blocks, variant):
    layout = json.loads(ADELAIDET.read_text(encoding="utf-8"))["state_dict"]
    fifth = {name: entry for name, entry in layout.items() if "res4.5." in name}
    further = {name.replace("res4.5.", f"res4.{n}."): entry for n in range(6, blocks) for name, entry in fifth.items()}
    state = {name: torch.zeros(entry["shape"], device="meta") for name, entry in (layout | further).items()}
    config = convert(state, Origin.read(str(tmp_path / "model_final.pth"), {"iteration": 269999})).config
    assert config == VARIANTS[variant]
    model = meta_model(variant)
    load_weights(model, convert(state).weights, variant)
    text = """
INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 512}
MODEL:
  META_ARCHITECTURE: SOLOv2
  SOLOV2: {NMS_TYPE: matrix, MAX_PER_IMG: 20, NUM_GRIDS: [41, 36, 24, 16, 12]}
  PIXEL_STD: [57.0, 57.0, 58.0]
  RESNETS: {STRIDE_IN_1X1: false}
"""
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    config = convert(state, Origin.read(str(tmp_path / "model_final.pth"), {})).config
    assert (config.model.channels, config.model.stride_in_1x1, config.model.std[2]) == ("rgb", False, 58.0)
    assert (config.test.max_instances, config.model.grids[0], config.test.short_side) == (20, 41, 512)
    (tmp_path / "config.yaml").write_text(text.replace("matrix", "mask"), encoding="utf-8")
    with pytest.raises(UserError, match=r"NMS_TYPE = 'mask', which solov2 does not do"):
        convert(state, Origin.read(str(tmp_path / "model_final.pth"), {}))


def test_offsets_of_very_old_files_are_recognised():
    state = {published_by_solo(name): value for name, value in meta_model("r101_dcn_3x").state_dict().items()}
    old = {name.replace("conv2.conv_offset.", "conv2_offset."): value for name, value in state.items()}
    assert old.keys() != state.keys()
    assert convert(old).weights.keys() == convert(state).weights.keys()


def test_a_missing_an_unexpected_and_a_misshapen_weight_are_all_listed():
    torch.manual_seed(0)
    model = SOLOv2(VARIANTS["shapes"], ["a", "b"])
    weights = dict(model.state_dict())
    weights.pop("backbone.conv1.weight")
    weights["extra"] = torch.zeros(1)
    weights["category_kernel_head.category.bias"] = torch.zeros(3)
    with pytest.raises(UserError) as error:
        load_weights(model, weights, "file.pth")
    for expected in ("missing: backbone.conv1.weight", "unexpected: extra", "shape (3,), expected (2,)"):
        assert expected in str(error.value)
