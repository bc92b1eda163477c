"""Which model a file is of, by the names that each package's convert.py calls its own; or what else it is."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from maskworks.packages import NETWORKS

# names that only networks have which are no models here, though others of their names are those of models here
RELATIVES = {
    r"bbox_head\.d?solo_ins_list|mask_head\.conv_mask_list": "SOLO of version 1 (version 2 is)",
    r"(fpn_phase_1|flow_net)\.": "YolactEdge for videos (its networks for photographs are)",
    r"backbone\.layers\.\d+\.0\.weight": "YOLACT on MobileNetV2 or VGG",
    r"roi_heads\.keypoint_(head|predictor)\.": "Keypoint R-CNN",
    r"head\.(cls|bbox)_subnet\.": "RetinaNet of Detectron2",
    r"sem_seg_head\.": "semantic or panoptic network of Detectron2",
    r"bbox_head\.(retina|atss|gfl)_cls\.": "one-stage detector of MMDetection",
    r"roi_head\.(mask_head\.\d\.conv_res|mask_iou_head|semantic_head\.lateral_convs)\.": "HTC, SCNet or Mask Scoring "
    "R-CNN of MMDetection",
    r"roi_head\.(point_head|grid_head|glbctx_head)\.": "PointRend, Grid R-CNN or SCNet of MMDetection",
    r"(semantic_head\.conv_upsample_layers|panoptic_head)\.": "Panoptic FPN or MaskFormer of MMDetection",
    r"backbone\.layer1\.0\.conv2\.(bn0|fc1)\.": "detector of MMDetection on ResNeSt",
    r"(transformer|bbox_embed)\.": "DETR",
    r"(model\.pixel_level_module|pixel_level_module)\.": "MaskFormer of transformers",
    r"head\.(classification|regression)_head\.": "one-stage detector of torchvision",
    r"(classifier\.\d|aux_classifier\.\d)\.": "semantic or classifying network of torchvision",
    r"fc\.weight|head\.fc\.weight|classifier\.weight": "classifier (as a backbone, training starts from it: --weights)",
    r"\d+\.(conv|cv1)\.": "YOLO of Ultralytics",
}
SALIENCY = "stage6.rebnconvin.conv_s1.weight"  # a name that only U-2-Net has
WHOSE = {
    re.compile(r"backbone\.(bottom_up|fpn_lateral)|proposal_generator\."): "Detectron2's",
    re.compile(r"(roi_head|rpn_head|neck|bbox_head|mask_head)\."): "MMDetection's",
    re.compile(r"(rpn|roi_heads)\."): "torchvision's or maskrcnn-benchmark's",
}


def package_of(state: dict[str, Tensor], path: Path) -> str:
    """The package that knows the names in a checkpoint."""
    for pattern, network in RELATIVES.items():
        if any(re.match(pattern, name) for name in state):
            raise UserError(f"{path}: by its names a {network}, which isn't among the models here")
    # a plain Mask R-CNN's names are in its relatives' files too: it is asked last
    for package in sorted(filter(find_spec, NETWORKS), key="maskrcnn".__eq__):
        if import_module(f"{package}.convert").recognise(state):
            return package
    whose = next((f", though they are {whose}" for mark, whose in WHOSE.items() if any(map(mark.match, state))), "")
    raise UserError(f"{path}: no model known here has its names{whose}: {', '.join(list(state)[:3])}")
