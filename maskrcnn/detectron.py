"""What a configuration of Detectron or maskrcnn-benchmark (YAML, as data) decides, under our settings' names."""

import struct
from collections.abc import Sequence
from typing import Any

from common.errors import UserError
from maskrcnn.config import ABOVE_ZERO
from maskworks.published import reading
from maskworks.published.origin import Origin, Said, at

# what is done here
TYPES: dict[str, tuple[Any, ...]] = {
    "TEST.SOFT_NMS.ENABLED": (False,),
    "TEST.BBOX_VOTE.ENABLED": (False,),
    "MODEL.CLS_AGNOSTIC_BBOX_REG": (False,),
    "MRCNN.CLS_SPECIFIC_MASK": (True,),
    "INPUT.TO_BGR255": (True,),
}


def pixel_values(value: Any) -> tuple[float, ...]:
    """Three numbers, also as NumPy prints an array [1, 1, 3] into YAML: its bytes are the last of its state."""
    state = at(value, "state")
    if isinstance(state, list) and isinstance(state[-1], bytes) and len(state[-1]) == 24:
        return struct.unpack("<3d", state[-1])
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return reading.three_numbers(value)


def one_side(value: Any) -> int:
    """A test size; of several there must be one only."""
    return reading.whole_number(value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value)


def least_side(value: Any) -> float:
    """MMDetection and Detectron2 keep what is larger than this, we what is as large."""
    return max(reading.number(value), ABOVE_ZERO)


# our setting: how it is read, and where Detectron and maskrcnn-benchmark have it
SETTINGS: reading.Settings = {
    "model.mean": (pixel_values, ("PIXEL_MEANS", "INPUT.PIXEL_MEAN")),
    "model.std": (reading.three_numbers, ("INPUT.PIXEL_STD",)),
    "model.stride_in_1x1": (reading.flag, ("RESNETS.STRIDE_1X1", "MODEL.RESNETS.STRIDE_IN_1X1")),
    "conventions.sampling_ratio": (
        reading.whole_number,
        ("FAST_RCNN.ROI_XFORM_SAMPLING_RATIO", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"),
    ),
    "regions.delta_weights": (reading.four_numbers, ("MODEL.BBOX_REG_WEIGHTS", "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS")),
    "proposals.before_nms": (reading.whole_number, ("TEST.RPN_PRE_NMS_TOP_N", "MODEL.RPN.PRE_NMS_TOP_N_TEST")),
    "proposals.after_nms": (reading.whole_number, ("TEST.RPN_POST_NMS_TOP_N", "MODEL.RPN.POST_NMS_TOP_N_TEST")),
    "proposals.kept": (reading.whole_number, ("TEST.RPN_POST_NMS_TOP_N", "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST")),
    "proposals.nms_threshold": (reading.number, ("TEST.RPN_NMS_THRESH", "MODEL.RPN.NMS_THRESH")),
    "test.short_side": (one_side, ("TEST.SCALE", "TEST.SCALES", "INPUT.MIN_SIZE_TEST")),
    "test.long_side": (reading.whole_number, ("TEST.MAX_SIZE", "INPUT.MAX_SIZE_TEST")),
    "test.score_threshold": (reading.number, ("TEST.SCORE_THRESH", "MODEL.ROI_HEADS.SCORE_THRESH")),
    "test.nms_threshold": (reading.number, ("TEST.NMS", "MODEL.ROI_HEADS.NMS")),
    "test.max_instances": (reading.whole_number, ("TEST.DETECTIONS_PER_IM", "MODEL.ROI_HEADS.DETECTIONS_PER_IMG")),
    "test.mask_threshold": (
        reading.number,
        ("MRCNN.THRESH_BINARIZE", "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD"),
    ),
}


def refuse_unlike(origin: Origin, first: str, second: str, names: Sequence[str]) -> None:
    """Stop where the regions of the mask head are cut out otherwise than those of the box head."""
    for name in names:
        own, other = at(origin.recipe, f"{first}.{name}"), at(origin.recipe, f"{second}.{name}")
        if own is not None and other is not None and own != other:
            raise UserError(
                f"{origin.path}: its configuration has {second}.{name} = {other!r}, which maskrcnn does not do; "
                f"known: {own!r}, as in {first}"
            )


def of_detectron(origin: Origin) -> dict[str, Said]:
    """Our settings, as the file's configuration gives them; what is not done here is refused."""
    reading.refuse_others(origin, TYPES, "maskrcnn")
    return reading.said(origin, SETTINGS)
