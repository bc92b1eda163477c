"""Published names -> ours: every variant, every naming, strictly."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

from common.checkpoint import load_weights, read_published
from common.errors import UserError
from maskrcnn.config import VARIANTS
from maskrcnn.convert import class_count, convert, known_classes, recognise
from maskrcnn.network import MaskRCNN

CLASSES = [f"class {number}" for number in range(80)]
BENCHMARK = ["r50_c4_1x", "r50_fpn_1x", "r101_fpn_1x", "x101_32x8d_fpn_1x"]
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


def test_torchvisions_names_old_and_new():
    with torch.device("meta"):
        state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    converted = convert(state)
    assert (converted.source, converted.config.variant) == ("torchvision", "torchvision_r50_fpn")
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


def test_torchvisions_classes_are_cocos_at_their_ids():
    classes = known_classes(90)
    assert len(classes) == 90
    assert (classes["person"], classes["toothbrush"], classes["unused 12"]) == (1, 90, 12)
    assert known_classes(80)["toothbrush"] == 90
    assert known_classes(7) is None


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


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


def test_a_pickle_that_holds_code_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bomb.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": Bomb()}}))
    with pytest.raises(UserError, match="holds more than"):
        read_published(Path("bomb.pkl"))
    assert not Path("exploded").exists()


def test_names_that_belong_to_no_mask_rcnn_are_refused():
    assert recognise({"backbone.conv1.weight": torch.zeros(1)}) is None
    with pytest.raises(UserError, match="not a Mask R-CNN checkpoint"):
        convert({"bbox_head.solo_cate.weight": torch.zeros(80, 512)})


def test_a_detector_without_masks_is_one_too():
    model = meta_model("r50_fpn_1x")
    state = {published_by_benchmark(name): value for name, value in model.state_dict().items() if "mask" not in name}
    converted = convert(state)
    assert not converted.config.model.masks
    with torch.device("meta"):
        assert set(MaskRCNN(converted.config, CLASSES).state_dict()) == set(converted.weights)
