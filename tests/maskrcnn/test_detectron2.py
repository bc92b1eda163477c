"""Detectron2's files: what they say decides; that every number is the original's, tests/parity/cases/maskrcnn shows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torchvision.ops import boxes as box_ops

from common.data.batches import Prepared
from common.errors import UserError
from maskrcnn.config import DETECTRON2, VARIANTS, Inference
from maskrcnn.convert import convert, recognise
from maskrcnn.detectron2 import anchors_by_ratio
from maskrcnn.postprocess import Detections, instances
from maskrcnn.preprocessing import scaled_size
from maskworks.published.class_lists import classes_of
from maskworks.published.coco_classes import COCO_CLASSES, known_classes
from maskworks.published.origin import Origin

CASES = Path(__file__).parents[1] / "parity/cases/maskrcnn"


def layout(variant: str) -> dict[str, Tensor]:
    """The names and shapes that Detectron2 itself writes; the values are left out."""
    entries = json.loads((CASES / variant / "spec.json").read_text())["state_dict"]
    return {name: torch.empty(entry["shape"], device="meta") for name, entry in entries.items()}


@pytest.mark.parametrize(
    "variant", [f"detectron2_{name}" for name in ("r50_fpn", "r50_c4", "r50_dc5", "r50_fpn_gn", "x101_32x8d_fpn")]
)
def test_a_file_is_known_by_its_names_and_its_network_by_its_shapes(variant):
    converted = convert(layout(variant), Origin("model_final.pth"))
    assert (converted.source, converted.config.variant) == ("Detectron2", variant)
    without_masks = {name: value for name, value in layout(variant).items() if "mask_head" not in name}
    assert not convert(without_masks, Origin("model_final.pth")).config.model.masks


def test_what_older_files_hold_of_their_settings_decides():
    state = layout("detectron2_r50_fpn") | {
        "pixel_mean": torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1),
        "pixel_std": torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    converted = convert(state, Origin("model_final.pth"))
    assert (converted.config.model.mean, converted.config.model.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert {each.setting: each.source for each in converted.decisions}["model.std"] == "the file's own pixel_std"


def test_the_config_yaml_beside_a_checkpoint_decides(tmp_path):
    values = {
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TEST": 600, "MAX_SIZE_TEST": 1000},
        "MODEL": {
            "PIXEL_STD": [57.375, 57.12, 58.395],
            "RESNETS": {"STRIDE_IN_1X1": False},
            "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64], [128], [256]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
            "ROI_HEADS": {"SCORE_THRESH_TEST": 0.3, "NMS_THRESH_TEST": 0.4},
        },
        "TEST": {"DETECTIONS_PER_IMAGE": 7},
    }
    (tmp_path / "config.yaml").write_text(yaml.dump(values))
    origin = Origin.read(str(tmp_path / "model_final.pth"), {})
    assert origin.notes == (f"read with {tmp_path / 'config.yaml'}",)
    config = convert(layout("detectron2_r50_fpn"), origin).config
    assert (config.conventions.channels, config.model.stride_in_1x1) == ("rgb", False)
    assert config.model.std == (57.375, 57.12, 58.395)
    assert config.proposals.anchor_sizes == (16, 32, 64, 128, 256)
    assert config.test == Inference(1000, 600, 0.3, 0.4, 7)


def test_a_config_yaml_of_something_else_is_not_read(tmp_path):
    (tmp_path / "config.yaml").write_text("training: {epochs: 3}\n")
    assert Origin.read(str(tmp_path / "model_final.pth"), {}) == Origin(str(tmp_path / "model_final.pth"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ANCHOR_GENERATOR.OFFSET", 0.5),
        ("RESNETS.NORM", "LN"),
        ("RESNETS.RES5_DILATION", 2),
        ("ROI_BOX_HEAD.USE_SIGMOID_CE", True),
        ("ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
        ("META_ARCHITECTURE", "RetinaNet"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(path, value):
    content = value
    for part in reversed(path.split(".")):
        content = {part: content}
    with pytest.raises(UserError, match=rf"MODEL\.{path} = {value!r}, which maskrcnn does not do"):
        convert(layout("detectron2_r50_fpn"), Origin("model_final.pth", recipe={"MODEL": content}))


def test_other_networks_of_detectron2_are_not_taken_for_a_mask_rcnn():
    state = layout("detectron2_r50_fpn")
    cascade = {name.replace("box_predictor.", "box_predictor.0."): value for name, value in state.items()}
    retina = {name: value for name, value in state.items() if name.startswith("backbone.")}
    assert recognise(cascade) is None
    assert recognise(retina) is None


def test_masks_cut_out_otherwise_than_boxes_are_refused():
    heads = {"ROI_BOX_HEAD": {"POOLER_TYPE": "ROIAlignV2"}, "ROI_MASK_HEAD": {"POOLER_TYPE": "ROIAlign"}}
    with pytest.raises(UserError, match=r"MODEL\.ROI_MASK_HEAD\.POOLER_TYPE = 'ROIAlign'.*known: 'ROIAlignV2'"):
        convert(layout("detectron2_r50_fpn"), Origin("model_final.pth", recipe={"MODEL": heads}))


@pytest.mark.parametrize(
    ("case", "file", "setting", "value"),
    [
        ("detectron2_r50_fpn_gn", "model_final_da7b4c.pkl", "model.std", (57.375, 57.12, 58.395)),
        ("detectron2_r50_fpn_gn", "model_final_01ca85.pkl", "model.std", (1.0, 1.0, 1.0)),
        ("detectron2_r50_fpn_syncbn", "model_final_5ce33e.pkl", "model.stride_in_1x1", False),
        ("detectron2_r50_fpn_syncbn", "model_final_3b3c51.pkl", "model.stride_in_1x1", True),
        ("detectron2_r50_fpn", "model_final_af9cf5.pkl", "test.short_side", 1024),
    ],
)
def test_files_of_the_zoo_that_differ_from_others_of_their_shapes_are_known_by_name(case, file, setting, value):
    decisions = convert(layout(case), Origin(file)).decisions
    assert next(each.value for each in decisions if each.setting == setting) == value


def test_deformable_convolutions_in_a_dilated_stage_are_refused():
    offsets = {
        "backbone.res3.0.conv2_offset.bias": torch.empty(18),
        "backbone.res5.0.conv2_offset.bias": torch.empty(18),
    }
    with pytest.raises(UserError, match=r"dc5 takes a backbone of bottlenecks .* that is not deformable"):
        convert(layout("detectron2_r50_dc5") | offsets, Origin("model_final.pth"))


def test_heads_that_correct_boxes_alike_for_all_classes_are_known_by_their_shape():
    model = convert(layout("detectron2_r50_fpn_mdconv_agnostic"), Origin("model_final.pth")).config.model
    assert (model.class_agnostic, model.deformable, model.deformable_groups) == (True, "modulated", 2)


@pytest.mark.parametrize(
    ("rest", "recipe", "names"),
    [
        ({"__author__": "Detectron2 Model Zoo"}, {}, COCO_CLASSES),
        ({}, {"DATASETS": {"TRAIN": ["coco_2017_train"]}}, COCO_CLASSES),
        ({}, {"DATASETS": {"TRAIN": ["mine"]}}, None),
        ({}, {}, None),
    ],
)
def test_coco_names_its_classes_where_the_file_says_so(rest, recipe, names):
    found, _ = classes_of(Origin("model_final.pth", rest, recipe), 80, known_classes)
    assert found.names == (tuple(names) if names else tuple(f"class {number}" for number in range(1, 81)))


def test_lvis_heads_get_lvis_thresholds():
    state = layout("detectron2_r50_fpn")
    state["roi_heads.box_predictor.cls_score.weight"] = torch.empty(1204, 1024, device="meta")
    test = convert(state, Origin("model_final.pth")).config.test
    assert (test.score_threshold, test.max_instances) == (1e-4, 300)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(480, 640, (800, 1067)), (333, 1000, (444, 1333)), (1, 5000, (1, 1333))]
)
def test_sizes_are_rounded_to_the_nearest(height, width, expected):
    """By hand: 640 * 800 / 480 = 1066.67; 333 * 1333 / 1000 = 443.9; less than a pixel would be an error there."""
    assert scaled_size((height, width), 1333, 800, DETECTRON2) == expected


def test_anchors_size_by_size_become_ratio_by_ratio():
    order = [(size, ratio) for size in range(5) for ratio in range(3)]
    weights = {
        "proposal_head.objectness.weight": torch.arange(15.0).view(15, 1, 1, 1),
        "proposal_head.deltas.bias": torch.arange(60.0),
        "proposal_head.conv.weight": torch.arange(2.0),
    }
    found = anchors_by_ratio(weights, VARIANTS["detectron2_r50_c4"].proposals)
    here = [order[int(place)] for place in found["proposal_head.objectness.weight"].flatten()]
    assert here == [(size, ratio) for ratio in range(3) for size in range(5)]
    assert (found["proposal_head.deltas.bias"].view(15, 4)[:, 0] / 4).tolist() == [3.0 * s + r for s, r in here]
    assert found["proposal_head.conv.weight"].tolist() == [0, 1]


def test_boxes_that_end_up_without_extent_are_dropped_and_the_others_clipped():
    found = Detections(
        torch.tensor([[0.0, 0, 20.4, 10], [4, 4, 4, 8], [2, 2, 6, 6]]), torch.tensor([0.9, 0.8, 0.7]), torch.arange(3)
    )
    prepared = Prepared(torch.zeros(3, 10, 20), (5, 10), (10, 20))
    result = instances(found, torch.ones(3, 28, 28), prepared, Inference(), DETECTRON2, ("a", "b", "c"))
    clipped = box_ops.clip_boxes_to_image(found.boxes[[0, 2]] / 2, (5, 10))
    assert np.allclose(result.boxes, clipped)
    assert result.labels.tolist() == [0, 2]
    assert result.masks.shape == (2, 5, 10)
