"""The settings of Mask R-CNN's cases, in the originals' terms -> ours."""

from dataclasses import replace
from typing import Any

from common.errors import UserError
from maskrcnn.config import Config, Inference, Proposals, Regions
from tests.parity.settings import TWO_STAGES, Fixed, check_cap, one_of

FIXED: Fixed = TWO_STAGES | {
    "settings.train_cfg.rcnn.sampler.type": ("RandomSampler",),
    "settings.train_cfg.rcnn.assigner.match_low_quality": (False,),
    "settings.train_cfg.rpn_proposal.nms.iou_threshold": (0.7,),
    "settings.MODEL.RPN.RPN_HEAD": ("SingleConvRPNHead",),
    "settings.MODEL.ROI_HEADS.BG_IOU_THRESHOLD": (0.5,),
    "settings.MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS": (False,),
    "settings.MODEL.*.POOLER_RESOLUTION": (7, 14),
    "settings.MODEL.*DILATION": (1,),
    "settings.MODEL.*.USE_GN": (False,),
    "settings.RPN box coder weights": ([1, 1, 1, 1],),
    "settings.bbox_xform_clip": (4.135166556742356,),
    "settings.mask_padding": (1,),
}
INFORMATION = (  # follows from the checkpoint and its variant, or from other settings; inputs of training are given
    *("settings.MODEL.RESNETS.*", "settings.MODEL.BACKBONE.CONV_BODY", "settings.MODEL.ROI_BOX_HEAD.*"),
    *("settings.MODEL.ROI_MASK_HEAD.*", "settings.MODEL.*.USE_FPN", "settings.MODEL.RPN.*POST_NMS*"),
    *("settings.INPUT.M*_SIZE_TRAIN", "settings.INPUT.*PROB_TRAIN", "settings.train_cfg.*.debug"),
    *(f"settings.INPUT.{name}" for name in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")),
    *("settings.confidence_threshold", "gt_polygons", "settings.detectron2.*"),  # a config.yaml: the converter reads it
    "settings.mmdetection",  # a configuration: likewise
    *("settings.backbone*", "settings.anchors*", "settings.boxes*", "settings.roi_align*", "settings.masks*"),
    *("settings.network_size", "settings.resize_how", "settings.normalise.pad"),
)


def with_mmdetection_settings(variant: Config, settings: dict[str, Any]) -> Config:
    long_side, short_side = sorted(one_of(settings, ("resize", "img_scale"), "settings"), reverse=True)
    first, second, normalise = settings["test_cfg"]["rpn"], settings["test_cfg"]["rcnn"], settings["normalise"]
    check_cap(first)
    variant = with_mmdetection_training(variant, settings["train_cfg"]) if "train_cfg" in settings else variant
    scale = 255 if max(normalise["mean"]) <= 1 else 1  # torchvision's values are from 0 to 1
    body = settings.get("backbone")
    body = body if isinstance(body, dict) else {}
    return replace(
        variant,
        model=replace(
            variant.model,
            mean=tuple(value * scale for value in normalise["mean"]),
            std=tuple(value * scale for value in normalise["std"]),
            stride_in_1x1=body.get("stride_in_1x1", variant.model.stride_in_1x1),
        ),
        conventions=replace(variant.conventions, channels=normalise["channel_order"].lower()),
        proposals=replace(
            variant.proposals,
            before_nms=first["nms_pre"],
            after_nms=first["nms_pre"],
            kept=first["max_per_img"],
            nms_threshold=first["nms"]["iou_threshold"],
        ),
        test=Inference(
            long_side=long_side,
            short_side=short_side,
            score_threshold=second["score_thr"],
            nms_threshold=second["nms"]["iou_threshold"],
            max_instances=second["max_per_img"],
            mask_threshold=second["mask_thr_binary"],
        ),
    )


def with_mmdetection_training(variant: Config, settings: dict[str, Any]) -> Config:
    first, proposed, second = settings["rpn"], settings["rpn_proposal"], settings["rcnn"]
    check_cap(proposed)
    one_of(second["assigner"], ("pos_iou_thr", "neg_iou_thr", "min_pos_iou"), "train_cfg.rcnn.assigner")
    return replace(
        variant,
        proposals=replace(
            variant.proposals,
            training_before_nms=proposed["nms_pre"],
            training_after_nms=proposed["nms_pre"],
            training_kept=proposed["max_per_img"],
            foreground_iou=first["assigner"]["pos_iou_thr"],
            background_iou=one_of(first["assigner"], ("neg_iou_thr", "min_pos_iou"), "train_cfg.rpn.assigner"),
            samples=first["sampler"]["num"],
            positive_fraction=first["sampler"]["pos_fraction"],
        ),
        regions=replace(
            variant.regions,
            foreground_iou=second["assigner"]["pos_iou_thr"],
            samples=second["sampler"]["num"],
            positive_fraction=second["sampler"]["pos_fraction"],
        ),
    )


def with_benchmark_settings(variant: Config, settings: dict[str, Any]) -> Config:
    """Everything but the layers: those follow from the checkpoint, and strict loading checks them."""
    image, heads = settings["INPUT"], settings["MODEL.ROI_HEADS"]
    bytes_, ratio = image["TO_BGR255"], settings["MODEL.ROI_BOX_HEAD"]["POOLER_SAMPLING_RATIO"]
    if settings["MODEL.ROI_MASK_HEAD"]["POOLER_SAMPLING_RATIO"] != ratio:
        raise UserError(f"MODEL.ROI_MASK_HEAD: POOLER_SAMPLING_RATIO can only be {ratio}, as the box head's")
    scale = 1 if bytes_ else 255
    betas = settings["smooth_l1_beta"]
    return replace(
        variant,
        model=replace(
            variant.model,
            stride_in_1x1=settings["MODEL.RESNETS"]["STRIDE_IN_1X1"],
            frozen_stages=settings["MODEL.BACKBONE"]["FREEZE_CONV_BODY_AT"] - 1,
            mean=tuple(value * scale for value in image["PIXEL_MEAN"]),
            std=tuple(value * scale for value in image["PIXEL_STD"]),
        ),
        conventions=replace(
            variant.conventions,
            channels="bgr" if bytes_ else "rgb",
            size_divisor=max(settings["DATALOADER.SIZE_DIVISIBILITY"], 1),
            sampling_ratio=ratio,
        ),
        proposals=benchmark_proposals(settings["MODEL.RPN"], betas["rpn"]),
        regions=Regions(
            foreground_iou=heads["FG_IOU_THRESHOLD"],
            samples=heads["BATCH_SIZE_PER_IMAGE"],
            positive_fraction=heads["POSITIVE_FRACTION"],
            smooth_l1_beta=betas["box"],
            delta_weights=tuple(heads["BBOX_REG_WEIGHTS"]),
        ),
        test=Inference(
            long_side=image["MAX_SIZE_TEST"],
            short_side=image["MIN_SIZE_TEST"],
            score_threshold=heads["SCORE_THRESH"],
            nms_threshold=heads["NMS"],
            max_instances=heads["DETECTIONS_PER_IMG"],
            mask_threshold=settings["mask_threshold"],
        ),
    )


def benchmark_proposals(settings: dict[str, Any], smooth_l1_beta: float) -> Proposals:
    pyramid = settings["USE_FPN"]
    cap = "FPN_POST_NMS_TOP_N" if pyramid else "POST_NMS_TOP_N"
    return Proposals(
        anchor_sizes=tuple(settings["ANCHOR_SIZES"]),
        anchor_strides=tuple(settings["ANCHOR_STRIDE"]),
        aspect_ratios=tuple(settings["ASPECT_RATIOS"]),
        before_nms=settings["PRE_NMS_TOP_N_TEST"],
        after_nms=settings["POST_NMS_TOP_N_TEST"],
        kept=settings[f"{cap}_TEST"],
        nms_threshold=settings["NMS_THRESH"],
        smallest=settings["MIN_SIZE"],
        training_before_nms=settings["PRE_NMS_TOP_N_TRAIN"],
        training_after_nms=settings["POST_NMS_TOP_N_TRAIN"],
        training_kept=settings[f"{cap}_TRAIN"],
        kept_of_batch=pyramid and settings["FPN_POST_NMS_PER_BATCH"],
        inside_only=settings["STRADDLE_THRESH"] >= 0,
        foreground_iou=settings["FG_IOU_THRESHOLD"],
        background_iou=settings["BG_IOU_THRESHOLD"],
        samples=settings["BATCH_SIZE_PER_IMAGE"],
        positive_fraction=settings["POSITIVE_FRACTION"],
        smooth_l1_beta=smooth_l1_beta,
    )
