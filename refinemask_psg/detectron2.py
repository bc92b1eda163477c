"""Detectron2's Cascade R-CNN: its names -> ours, and what its config.yaml (as data) decides."""

from typing import Any

from maskworks.published.detectron2 import RESNET
from maskworks.published.reading import Settings, four_numbers, number, whole_number
from maskworks.published.renaming import Rules

SOURCE = "Detectron2, Cascade R-CNN"
MARKS = ("proposal_generator.rpn_head.conv.weight", "roi_heads.box_predictor.0.cls_score.weight")
NAMES: Rules = [
    *RESNET,
    *((rf"^backbone\.fpn_lateral{level}\.", f"fpn.lateral.{level - 2}.") for level in (2, 3, 4, 5)),
    *((rf"^backbone\.fpn_output{level}\.", f"fpn.output.{level - 2}.") for level in (2, 3, 4, 5)),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.conv."),
    (r"^roi_heads\.box_head\.(\d)\.fc1\.", r"box_heads.\1.first."),
    (r"^roi_heads\.box_head\.(\d)\.fc2\.", r"box_heads.\1.second."),
    (r"^roi_heads\.box_predictor\.(\d)\.cls_score\.", r"box_heads.\1.classes."),
    (r"^roi_heads\.box_predictor\.(\d)\.bbox_pred\.", r"box_heads.\1.deltas."),
    *((rf"^roi_heads\.mask_head\.mask_fcn{n}\.", f"mask_heads.0.convs.{n - 1}.0.") for n in (1, 2, 3, 4)),
    (r"^roi_heads\.mask_head\.deconv\.", "mask_heads.0.upsample."),
    (r"^roi_heads\.mask_head\.predictor\.", "mask_heads.0.logits."),
]


def stds_of_weights(value: Any) -> tuple[tuple[float, ...], ...]:
    """Detectron2's weights multiply where MMDetection's deviations divide."""
    if not isinstance(value, (list, tuple)):
        raise ValueError("four numbers for each stage")
    return tuple(tuple(1 / number for number in four_numbers(each)) for each in value)


# what is done here
ONLY: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.ANCHOR_GENERATOR.SIZES": ([[32], [64], [128], [256], [512]],),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": ([[0.5, 1.0, 2.0]],),
    "MODEL.ANCHOR_GENERATOR.OFFSET": (0.0,),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": (0,),
    "MODEL.RPN.BBOX_REG_WEIGHTS": ([1.0] * 4, (1.0,) * 4),
    "MODEL.ROI_HEADS.NAME": ("CascadeROIHeads",),
    **{f"MODEL.ROI_{head}_HEAD.POOLER_TYPE": ("ROIAlignV2",) for head in ("BOX", "MASK")},
    **{f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO": (0,) for head in ("BOX", "MASK")},
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": (False,),
}
SETTINGS: Settings = {
    "model.box_stds": (stds_of_weights, ("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS",)),
    "test.proposals_before_nms": (whole_number, ("MODEL.RPN.PRE_NMS_TOPK_TEST",)),
    "test.proposals": (whole_number, ("MODEL.RPN.POST_NMS_TOPK_TEST",)),
    "test.proposal_nms": (number, ("MODEL.RPN.NMS_THRESH",)),
    "test.score_threshold": (number, ("MODEL.ROI_HEADS.SCORE_THRESH_TEST",)),
    "test.nms": (number, ("MODEL.ROI_HEADS.NMS_THRESH_TEST",)),
    "test.max_instances": (whole_number, ("TEST.DETECTIONS_PER_IMAGE",)),
}
