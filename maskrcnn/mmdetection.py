"""What an MMDetection configuration decides of a Mask R-CNN or Faster R-CNN, under our settings' names."""

import re
from typing import Any

import torch
from torch import Tensor

from maskrcnn.config import Neck
from maskrcnn.detectron import least_side, refuse_unlike
from maskworks.published import reading
from maskworks.published.mmdetection import caffe_style, inputs, tested
from maskworks.published.origin import Origin, Said, at

HEAD, REGIONS = "model.roi_head.bbox_head", "model.roi_head.bbox_roi_extractor"
MASK_REGIONS, ANCHORS = "model.roi_head.mask_roi_extractor", "model.rpn_head.anchor_generator"
# what is done here; tuples and lists are different values
TYPES: dict[str, tuple[Any, ...]] = {
    "model.type": ("MaskRCNN", "FasterRCNN"),
    "model.backbone.type": ("ResNet", "ResNeXt"),
    "model.backbone.conv_cfg.type": ("ConvWS",),
    "model.backbone.dcn.type": ("DCN", "DCNv2"),
    "model.backbone.dcn.fallback_on_stride": (False,),
    "model.backbone.norm_cfg.num_groups": (32,),
    "model.neck.type": ("FPN",),
    "model.neck.num_outs": (5,),
    "model.neck.start_level": (0,),
    "model.neck.add_extra_convs": (False,),
    f"{ANCHORS}.center_offset": (0.0,),
    "model.rpn_head.type": ("RPNHead",),
    f"{ANCHORS}.type": ("AnchorGenerator",),
    "model.rpn_head.bbox_coder.type": ("DeltaXYWHBBoxCoder",),
    "model.rpn_head.bbox_coder.target_stds": ([1.0] * 4, (1.0,) * 4),
    "model.roi_head.type": ("StandardRoIHead",),
    f"{REGIONS}.type": ("SingleRoIExtractor",),
    f"{REGIONS}.roi_layer.type": ("RoIAlign",),
    f"{MASK_REGIONS}.type": ("SingleRoIExtractor",),
    f"{MASK_REGIONS}.roi_layer.type": ("RoIAlign",),
    f"{REGIONS}.finest_scale": (56,),
    f"{HEAD}.type": ("Shared2FCBBoxHead", "BBoxHead", "Shared4Conv1FCBBoxHead"),
    f"{HEAD}.bbox_coder.type": ("DeltaXYWHBBoxCoder",),
    f"{HEAD}.bbox_coder.target_means": ([0.0] * 4, (0.0,) * 4),
    f"{HEAD}.cls_predictor_cfg.type": ("Linear",),
    f"{HEAD}.loss_cls.type": ("CrossEntropyLoss",),
    f"{HEAD}.loss_cls.use_sigmoid": (False,),
    "model.roi_head.mask_head.type": ("FCNMaskHead",),
    "model.roi_head.mask_head.predictor_cfg.type": ("Conv",),
    "model.roi_head.mask_head.upsample_cfg.type": ("deconv",),
    "model.test_cfg.rcnn.nms.type": ("nms",),
    "model.test_cfg.rpn.nms.type": ("nms",),
    "test_cfg.rcnn.nms.type": ("nms",),
}


def delta_weights(stds: Any) -> tuple[float, ...]:
    return tuple(1 / std for std in reading.four_numbers(stds))


def anchor_sizes(generator: Any) -> tuple[int, ...]:
    strides, scales = reading.whole_numbers(at(generator, "strides")), reading.whole_numbers(at(generator, "scales"))
    return tuple(stride * scale for stride in strides for scale in scales)


def aspect_ratios(values: Any) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)):
        raise ValueError("numbers as ratios")
    return tuple(float(reading.number(value)) for value in values)


# our setting: how it is read, and where it may stand
SETTINGS: reading.Settings = {
    "model.stride_in_1x1": (caffe_style, ("model.backbone.style",)),
    "conventions.sampling_ratio": (reading.whole_number, (f"{REGIONS}.roi_layer.sampling_ratio",)),
    "conventions.aligned": (reading.flag, (f"{REGIONS}.roi_layer.aligned",)),
    "conventions.size_divisor": (reading.whole_number, ("model.data_preprocessor.pad_size_divisor",)),
    "model.mask_resolution": (reading.whole_number, (f"{MASK_REGIONS}.roi_layer.output_size",)),
    "regions.delta_weights": (delta_weights, (f"{HEAD}.bbox_coder.target_stds",)),
    "proposals.anchor_sizes": (anchor_sizes, (ANCHORS,)),
    "proposals.anchor_strides": (reading.whole_numbers, (f"{ANCHORS}.strides",)),
    "proposals.aspect_ratios": (aspect_ratios, (f"{ANCHORS}.ratios",)),
    "proposals.before_nms": (reading.whole_number, tested("rpn.nms_pre")),
    "proposals.kept": (reading.whole_number, (*tested("rpn.max_per_img"), *tested("rpn.max_num"))),
    "proposals.nms_threshold": (reading.number, (*tested("rpn.nms.iou_threshold"), *tested("rpn.nms_thr"))),
    "proposals.smallest": (least_side, tested("rpn.min_bbox_size")),
    "test.score_threshold": (reading.number, tested("rcnn.score_thr")),
    "test.nms_threshold": (reading.number, (*tested("rcnn.nms.iou_threshold"), *tested("rcnn.nms.iou_thr"))),
    "test.max_instances": (reading.whole_number, tested("rcnn.max_per_img")),
    "test.mask_threshold": (reading.number, tested("rcnn.mask_thr_binary")),
}


def of_mmdetection(origin: Origin, neck: Neck) -> dict[str, Said]:
    """Our settings, as MMDetection's configuration gives them; what is not done here is refused."""
    reading.refuse_others(origin, TYPES | steps(neck), "maskrcnn")
    refuse_unlike(origin, REGIONS, MASK_REGIONS, ("roi_layer.aligned", "roi_layer.sampling_ratio"))
    told = inputs(origin) | reading.said(origin, SETTINGS)
    backbone = at(origin.recipe, "model.backbone")
    if backbone is not None and "model.stride_in_1x1" not in told:
        told["model.stride_in_1x1"] = Said(False, "its configuration, whose backbone has no style: pytorch")
    return told


def steps(neck: Neck) -> dict[str, tuple[Any, ...]]:
    """The strides and dilations of the stages, as a list or a tuple."""
    strides = {"fpn": (1, 2, 2, 2), "c4": (1, 2, 2), "dc5": (1, 2, 2, 1)}[neck]
    dilations = (1, 1, 1, 2) if neck == "dc5" else (1,) * len(strides)
    return {
        "model.backbone.strides": (strides, list(strides)),
        "model.backbone.dilations": (dilations, list(dilations)),
    }


def has_standardised_weights(origin: Origin) -> bool:
    """Whether convolutions are standardised at each use (arXiv 1903.10520), of which the weights say nothing."""
    return at(origin.recipe, "model.backbone.conv_cfg.type") == "ConvWS" or "gn_ws" in origin.name.replace("-", "_")


def with_standardised_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With those convolutions standardised already: of the backbone, the pyramid, and the box and mask heads' own."""
    standardised = re.compile(r"(backbone|fpn|box_head\.convs|mask_head\.convs)\..+\.weight")
    changed = {}
    for name, value in weights.items():
        if value.ndim == 4 and standardised.fullmatch(name):
            spread, mean = torch.std_mean(value.float(), dim=(1, 2, 3), keepdim=True)
            changed[name] = (value - mean) / (spread + 1e-5)
    return weights | changed
