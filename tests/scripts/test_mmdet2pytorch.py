"""A checkpoint of no model here is refused by the name of what it is, as far as its names tell."""

from pathlib import Path

import pytest
import torch

from common.errors import UserError
from maskworks.published.whole_files import understand
from scripts.mmdet2pytorch import package_of
from tests.faults.test_fuzz_checkpoints import state_of

DETECTRON2 = ("backbone.bottom_up.stem.conv1.weight", "proposal_generator.rpn_head.objectness_logits.weight")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("bbox_head.solo_cate.weight", "bbox_head.solo_ins_list.0.weight"), r"a SOLO of version 1 \(version 2 is\)"),
        (("bbox_head.dsolo_ins_list_x.0.weight",), r"a SOLO of version 1"),
        (("mask_head.conv_mask_list_y.0.weight",), r"a SOLO of version 1"),
        (("proto_net.0.weight", "fpn_phase_1.lat_layers.0.weight"), "a YolactEdge for videos"),
        (("proto_net.0.weight", "backbone.layers.0.0.weight"), "a YOLACT on MobileNetV2 or VGG"),
        (("backbone.bottom_up.stem.conv1.weight", "head.cls_subnet.0.weight"), "a RetinaNet of Detectron2"),
        ((*DETECTRON2, "roi_heads.box_predictor.cls_score.weight", "sem_seg_head.p2.0.weight"), "panoptic network"),
        (("neck.lateral_convs.0.conv.weight", "bbox_head.retina_cls.weight"), "a one-stage detector of MMDetection"),
        (("rpn_head.rpn_conv.weight", "backbone.layer1.0.conv2.fc1.weight"), "a detector of MMDetection on ResNeSt"),
        (("0.conv.weight", "1.conv.weight"), "a YOLO of Ultralytics"),
        (("roi_head.semantic_head.lateral_convs.0.conv.weight",), "a HTC, SCNet or Mask Scoring R-CNN"),
        (("roi_head.point_head.fcs.0.conv.weight",), "a PointRend, Grid R-CNN or SCNet"),
        (("panoptic_head.query_feat.weight",), "a Panoptic FPN or MaskFormer of MMDetection"),
        (("model.pixel_level_module.encoder.a",), "a MaskFormer of transformers"),
        (("backbone.body.conv1.weight", "head.regression_head.conv.0.weight"), "a one-stage detector of torchvision"),
        (("backbone.conv1.weight", "classifier.4.weight"), "a semantic or classifying network of torchvision"),
        (("conv1.weight", "fc.weight"), r"a classifier \(as a backbone, training starts from it: --weights\)"),
        (DETECTRON2[:1], "no model known here has its names, though they are Detectron2's: backbone.bottom_up"),
        (("roi_head.bbox_head.0.fc_cls.weight",), "though they are MMDetection's"),
        (("something.else",), "no model known here has its names: something.else"),
    ],
)
def test_what_a_file_is_that_no_package_knows_is_said(names, message):
    with pytest.raises(UserError, match=message):
        package_of(dict.fromkeys(names, torch.zeros(1)), Path("file.pth"))


@pytest.mark.parametrize("package", ["solov2", "yolact", "maskrcnn", "refinemask_psg", "upsnet", "glip", "pose2seg"])
def test_no_model_here_is_taken_for_one_of_those(package):
    assert package_of(state_of(package), Path("file.pth")) == package


def test_layers_of_no_network_here_are_named_before_a_recipe_is_asked_for(tmp_path):
    state = state_of("maskrcnn") | {"roi_heads.box_head.attention.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r"not known here, roi_heads\.box_head\.attention\.weight; known"):
        understand("maskrcnn", tmp_path / "file.pth", state, {}, None, "")


def test_weights_that_are_no_numbers_are_said(tmp_path):
    state = {name: torch.zeros(value.shape) for name, value in state_of("solov2").items()}
    state[next(iter(state))].view(-1)[0] = float("nan")
    said = understand("solov2", tmp_path / "file.pth", state, {}, None, "").notes
    assert any("1 of its tensors hold what is no number" in line for line in said)
