"""The settings of YOLACT's cases, in the originals' terms -> ours."""

from dataclasses import replace
from typing import Any

import numpy as np

from common.errors import UserError
from tests.parity.settings import Fixed
from yolact.config import Config, Inference, Losses, Model

FIXED: Fixed = {
    "settings.preserve_aspect_ratio": (False,),
    "settings.keep_ratio": (False,),
    "settings.preprocess.channel_order_into_net": ("RGB",),
    "settings.normalise.channel_order": ("RGB",),
    "settings.variances": ([0.1, 0.2],),
    "settings.mask.crop_padding": (1,),
    "settings.mask.threshold": (0.5,),
    "settings.mask.rescore_bbox": (False,),
    "settings.loss.conf_alpha": (1,),
    "settings.loss.discard_mask_area": (-1,),  # where masks aren't scored
    "settings.test_cfg.min_bbox_size": (0,),
    "settings.test_cfg.mask_thr*": (0.5,),
    "settings.nms.traditional_scale_px": (550,),
}
INFORMATION = (  # follows from the checkpoint, or from the other settings
    *("settings.backbone.*", "settings.fpn.channels", "settings.num_classes_with_background", "settings.mask_dim"),
    *("settings.mask.rescore_mask", "settings.priors.per_*", "settings.nms.fast_*"),
)


def with_settings(variant: Config, settings: dict[str, Any]) -> Config:
    """The variant with what a case may choose differently from the published configuration."""
    if "test_cfg" in settings:
        return replace(variant, model=with_input(variant.model, settings), test=with_test_cfg(variant.test, settings))
    return replace(
        variant,
        model=with_model_settings(variant.model, settings),
        losses=with_loss_settings(variant.losses, settings),
        test=with_nms_settings(variant.test, settings),
    )


def with_input(model: Model, settings: dict[str, Any]) -> Model:
    """MMDetection's cases: input size and colours; the rest follows from the checkpoint."""
    colours = settings["normalise"]
    return replace(model, input_size=settings["resize"][0], mean=tuple(colours["mean"]), std=tuple(colours["std"]))


def with_test_cfg(test: Inference, settings: dict[str, Any]) -> Inference:
    stated = settings["test_cfg"]
    return replace(
        test,
        level_candidates=stated["nms_pre"],
        score_threshold=stated["score_thr"],
        iou_threshold=stated["iou_thr"],
        top_k=stated["top_k"],
        max_instances=stated["max_per_img"],
    )


def with_model_settings(model: Model, settings: dict[str, Any]) -> Model:
    colours, priors = settings["preprocess"], settings["priors"]
    if priors["relative_to"] != settings["max_size"]:
        raise UserError(f"priors are relative to {priors['relative_to']}, and can only be to the network's input")
    return replace(
        model,
        input_size=settings["max_size"],
        mean=tuple(colours["mean_rgb"]) if colours["mean_rgb"] else (0.0, 0.0, 0.0),
        std=tuple(colours["std_rgb"]) if colours["std_rgb"] else (255.0, 255.0, 255.0),
        scales=tuple(level[0] for level in priors["scales_px"]),
        scale_factors=scale_factors(priors["scales_px"]),
        aspect_ratios=tuple(priors["aspect_ratios"]),
        square_priors=priors["square"],
    )


def scale_factors(levels: list[list[float]]) -> tuple[float, ...]:
    """What the first size of each level is multiplied by; the same on all levels."""
    factors = tuple(size / levels[0][0] for size in levels[0])
    if not np.allclose([[size / level[0] for size in level] for level in levels], factors, rtol=1e-6):
        raise UserError(f"scales_px is {levels}: the levels' sizes are not multiples of one another")
    return factors


def with_nms_settings(test: Inference, settings: dict[str, Any]) -> Inference:
    stated = settings["nms"]
    return replace(
        test,
        score_threshold=stated["conf_thresh"],
        iou_threshold=stated["iou_thresh"],
        top_k=stated["top_k"],
        max_instances=stated["max_num_detections"],
        min_score=float(stated.get("score_threshold_in_postprocess") or 0),
        drop_empty_boxes=False,  # the cases hold what comes before COCO's writer, which drops them
    )


def with_loss_settings(losses: Losses, settings: dict[str, Any]) -> Losses:
    stated = settings["loss"]
    changed = replace(
        losses,
        positive_iou=stated["positive_iou"],
        negative_iou=stated["negative_iou"],
        crowd_overlap=stated["crowd_iou"],
        negatives_per_positive=stated["ohem_negpos_ratio"],
        box_weight=stated["bbox_alpha"],
        mask_weight=stated["mask_alpha"],
        semantic_weight=stated["semantic_alpha"],
        max_masks=stated["masks_to_train"],
    )
    if stated["maskiou_alpha"] is None:
        return changed
    return replace(changed, mask_iou_weight=stated["maskiou_alpha"], smallest_mask=stated["discard_mask_area"])
