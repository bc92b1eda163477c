"""Detectron2's names -> ours, and what its config.yaml (as data) decides under our settings' names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskrcnn.config import Neck, Proposals
from maskrcnn.detectron import least_side, refuse_unlike
from maskworks.published import detectron2
from maskworks.published.origin import Origin, Said
from maskworks.published.reading import Settings, four_numbers, number, whole_number
from maskworks.published.renaming import Rules

MARKS = ("proposal_generator.rpn_head.objectness_logits.weight", "roi_heads.box_predictor.cls_score.weight")
NAMES: Rules = [
    *detectron2.RESNET,
    (r"^roi_heads\.res5\.", "region_stage."),
    (r"^(region_stage\..*)conv(\d)\.norm\.", r"\1bn\2."),
    *[(rf"^roi_heads\.box_head\.conv{n}\.norm\.", f"box_head.convs.{n - 1}.1.") for n in (1, 2, 3, 4)],
    *[(rf"^roi_heads\.box_head\.conv{n}\.", f"box_head.convs.{n - 1}.0.") for n in (1, 2, 3, 4)],
    *[(rf"^backbone\.fpn_lateral{level}\.", f"fpn.inner_blocks.{level - 2}.0.") for level in (2, 3, 4, 5)],
    *[(rf"^backbone\.fpn_output{level}\.", f"fpn.layer_blocks.{level - 2}.0.") for level in (2, 3, 4, 5)],
    (r"^(fpn\..+)\.0\.norm\.", r"\1.1."),
    (r"^proposal_generator\.rpn_head\.conv\.(conv0\.)?(?=weight|bias)", "proposal_head.conv."),
    (r"^proposal_generator\.rpn_head\.conv\.conv1\.", "proposal_head.further.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "proposal_head.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "proposal_head.deltas."),
    (r"^roi_heads\.box_head\.fc1\.", "box_head.layers.0."),
    (r"^roi_heads\.box_head\.fc2\.", "box_head.layers.1."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box_head.category."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box_head.deltas."),
    *[(rf"^roi_heads\.mask_head\.mask_fcn{n}\.norm\.", f"mask_head.convs.{n - 1}.1.") for n in (1, 2, 3, 4)],
    *[(rf"^roi_heads\.mask_head\.mask_fcn{n}\.", f"mask_head.convs.{n - 1}.0.") for n in (1, 2, 3, 4)],
    (r"^roi_heads\.mask_head\.deconv\.", "mask_head.enlarge."),
    (r"^roi_heads\.mask_head\.predictor\.", "mask_head.logits."),
    (r"^(pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d)$", ""),  # constants
]
NORMS = ("FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "GN")  # which, the weights tell
# what is done here, beside what all of Detectron2's have
TYPES: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.BACKBONE.NAME": ("build_resnet_fpn_backbone", "build_resnet_backbone"),
    "MODEL.RESNETS.NORM": NORMS,
    "MODEL.FPN.NORM": ("", *NORMS),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.ANCHOR_GENERATOR.OFFSET": (0.0,),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.RPN.BBOX_REG_WEIGHTS": ([1.0] * 4, (1.0,) * 4),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads", "Res5ROIHeads"),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": (False,),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": (False,),
    "MODEL.ROI_MASK_HEAD.NORM": ("", *NORMS),
    "MODEL.ROI_BOX_HEAD.NORM": ("", *NORMS),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
}


def aligned(value: Any) -> bool:
    if value not in ("ROIAlign", "ROIAlignV2"):
        raise ValueError("'ROIAlign' or 'ROIAlignV2'")
    return bool(value == "ROIAlignV2")


def flattened(value: Any) -> tuple[float, ...]:
    """One list of numbers, or of those of each level."""
    if not isinstance(value, (list, tuple)):
        raise ValueError("lists of numbers")
    return tuple(number(each) for part in value for each in (part if isinstance(part, (list, tuple)) else [part]))


def sizes(value: Any) -> tuple[int, ...]:
    return tuple(map(int, flattened(value)))


def ratios(value: Any) -> tuple[float, ...]:
    return flattened(value[:1] if isinstance(value, (list, tuple)) else value)


SETTINGS: Settings = {
    "conventions.aligned": (aligned, ("MODEL.ROI_BOX_HEAD.POOLER_TYPE",)),
    "conventions.sampling_ratio": (whole_number, ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",)),
    "regions.delta_weights": (four_numbers, ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",)),
    "proposals.anchor_sizes": (sizes, ("MODEL.ANCHOR_GENERATOR.SIZES",)),
    "proposals.aspect_ratios": (ratios, ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",)),
    "proposals.before_nms": (whole_number, ("MODEL.RPN.PRE_NMS_TOPK_TEST",)),
    "proposals.kept": (whole_number, ("MODEL.RPN.POST_NMS_TOPK_TEST",)),
    "proposals.nms_threshold": (number, ("MODEL.RPN.NMS_THRESH",)),
    "proposals.smallest": (least_side, ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE",)),
    "model.mask_resolution": (whole_number, ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",)),
    "test.score_threshold": (number, ("MODEL.ROI_HEADS.SCORE_THRESH_TEST",)),
    "test.nms_threshold": (number, ("MODEL.ROI_HEADS.NMS_THRESH_TEST",)),
    "test.max_instances": (whole_number, ("TEST.DETECTIONS_PER_IMAGE",)),
}


# of the zoo's files, by the digits in model_final_<digits>.pkl, what differs from the others of their shapes
ZOO: dict[str, dict[str, Any]] = {
    "da7b4c": {"model.std": (57.375, 57.12, 58.395)},  # scratch_mask_rcnn_R_50_FPN_9x_gn
    "5ce33e": {"model.std": (57.375, 57.12, 58.395), "model.stride_in_1x1": False},  # ..._9x_syncbn
    "af9cf5": {"test.short_side": 1024, "test.long_side": 2048},  # Cityscapes/mask_rcnn_R_50_FPN
}


def of_detectron2(origin: Origin, state: Mapping[str, Tensor], neck: Neck) -> dict[str, Said]:
    """Our settings, as a config.yaml gives them, or as older files hold some of them; others are refused."""
    dilation = {"MODEL.RESNETS.RES5_DILATION": (2 if neck == "dc5" else 1,)}
    told = detectron2.of_detectron2(origin, TYPES | dilation, SETTINGS, "maskrcnn")
    refuse_unlike(origin, "MODEL.ROI_BOX_HEAD", "MODEL.ROI_MASK_HEAD", ("POOLER_TYPE", "POOLER_SAMPLING_RATIO"))
    held = {f"model.{name.removeprefix('pixel_')}": name for name in ("pixel_mean", "pixel_std") if name in state}
    values = {
        setting: Said(tuple(map(float, state[name].flatten().tolist())), f"the file's own {name}")
        for setting, name in held.items()
    }
    published = {
        setting: Said(value, "the file's name, a published one")
        for setting, value in ZOO.get(origin.name.removeprefix("model_final_"), {}).items()
    }
    return published | values | told


def anchors_by_ratio(weights: dict[str, Tensor], settings: Proposals) -> dict[str, Tensor]:
    """The proposal head of a single level, whose anchors go size by size there, and ratio by ratio here."""
    places = torch.arange(len(settings.anchor_sizes) * len(settings.aspect_ratios))
    order = places.view(len(settings.anchor_sizes), -1).T.flatten()
    head = {name: value for name, value in weights.items() if name.startswith("proposal_head.") and "conv" not in name}
    return weights | {name: value.reshape(len(order), -1)[order].reshape(value.shape) for name, value in head.items()}
