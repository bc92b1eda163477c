"""A setting that decides results is followed or refused by name."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from maskrcnn.config import VARIANTS as MASKRCNN
from solov2.config import VARIANTS as SOLOV2
from tests.parity.case import Case
from tests.parity.maskrcnn.settings import with_mmdetection_settings
from tests.parity.refinemask.u2net import training_crops
from tests.parity.solov2 import with_test_settings

ONE_STAGE: dict[str, Any] = {
    "img_scale": [90, 40],
    "test_cfg": {
        "nms_pre": 7,
        "score_thr": 0.2,
        "mask_thr_binary": 0.4,
        "update_thr": 0.3,
        "kernel": "gaussian",
        "sigma": 1.5,
        "max_per_img": 3,
    },
}
TWO_STAGES: dict[str, Any] = {
    "img_scale": [90, 40],
    "normalise": {"channel_order": "RGB", "mean": [1, 2, 3], "std": [4, 5, 6]},
    "test_cfg": {
        "rpn": {"nms_pre": 9, "max_per_img": 8, "nms": {"type": "nms", "iou_threshold": 0.6}, "min_bbox_size": 0},
        "rcnn": {"score_thr": 0.1, "nms": {"iou_threshold": 0.4}, "max_per_img": 5, "mask_thr_binary": 0.3},
    },
}


def test_solov2_follows_mmdetections_names() -> None:
    test = with_test_settings(next(iter(SOLOV2.values())).test, ONE_STAGE)
    assert (test.long_side, test.short_side, test.mask_threshold, test.max_candidates) == (90, 40, 0.4, 7)


def test_maskrcnn_follows_mmdetections_names() -> None:
    test = with_mmdetection_settings(next(iter(MASKRCNN.values())), TWO_STAGES).test
    assert (test.long_side, test.short_side, test.mask_threshold, test.max_instances) == (90, 40, 0.3, 5)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [("", "score_thr", 0.1), ("test_cfg", "min_area", 3), ("test_cfg", "mask_thr", 0.9)],
)
def test_solov2_refuses_by_name_what_it_would_pass_over(place: str, name: str, value: object) -> None:
    settings = deepcopy(ONE_STAGE)
    (settings[place] if place else settings)[name] = value
    with pytest.raises(UserError, match=name):
        with_test_settings(next(iter(SOLOV2.values())).test, settings)


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("rpn", "min_bbox_size", 4),
        ("rpn", "nms_across_levels", True),
        ("rpn", "nms_post", 7),
        ("rcnn", "nms", {"type": "soft_nms", "iou_threshold": 0.5}),
        ("rcnn", "soft", 1),
    ],
)
def test_maskrcnn_refuses_by_name_what_it_would_pass_over(stage: str, name: str, value: object) -> None:
    settings = deepcopy(TWO_STAGES)
    settings["test_cfg"][stage][name] = value
    with pytest.raises(UserError, match=name):
        with_mmdetection_settings(next(iter(MASKRCNN.values())), settings)


def test_u2net_learns_from_the_crops_that_the_spec_states() -> None:
    tensor = torch.arange(2.0 * 6 * 8).reshape(1, 2, 6, 8)
    spec = {"inputs": {"train_tensor": {"meaning": "crops [:, :, 1:3, 0:4], [:, :, 4:6, 2:6] and [:, :, 0:2, 4:8]"}}}
    case = Case(Path("x"), spec, {"in/train_label": np.zeros((3, 1, 2, 4))})
    crops = training_crops(case, tensor)
    assert crops.shape == (3, 2, 2, 4)
    assert torch.equal(crops[1], tensor[0, :, 4:6, 2:6])
    case.arrays["in/train_label"] = np.zeros((2, 1, 2, 4))
    with pytest.raises(UserError, match="states 3 crops"):
        training_crops(case, tensor)
