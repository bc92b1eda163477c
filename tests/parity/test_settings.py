"""A setting that decides results is followed or refused by name."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from maskrcnn.config import VARIANTS as MASKRCNN
from solov2.config import VARIANTS as SOLOV2
from tests.parity import maskrcnn, solov2
from tests.parity.case import Case
from tests.parity.maskrcnn.settings import with_mmdetection_settings
from tests.parity.refinemask.u2net import training_crops
from tests.parity.runner import find_system
from tests.parity.settings import Noted, passed_over

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
ASSIGNER = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.6, "neg_iou_thr": 0.6, "min_pos_iou": 0.6}
TWO_STAGES: dict[str, Any] = {
    "img_scale": [90, 40],
    "normalise": {"channel_order": "RGB", "mean": [1, 2, 3], "std": [4, 5, 6]},
    "test_cfg": {
        "rpn": {"nms_pre": 9, "max_per_img": 8, "nms": {"type": "nms", "iou_threshold": 0.6}, "min_bbox_size": 0},
        "rcnn": {"score_thr": 0.1, "nms": {"iou_threshold": 0.4}, "max_per_img": 5, "mask_thr_binary": 0.3},
    },
    "train_cfg": {
        "rpn": {"assigner": ASSIGNER | {"pos_iou_thr": 0.8}, "sampler": {"num": 11, "pos_fraction": 0.5}},
        "rpn_proposal": {"nms_pre": 15, "max_per_img": 12, "nms": {"type": "nms", "iou_threshold": 0.7}},
        "rcnn": {"assigner": ASSIGNER, "sampler": {"num": 13, "pos_fraction": 0.25}, "mask_size": 28},
    },
}


def solov2_reads(settings: dict[str, Any]) -> Any:
    return solov2.with_test_settings(next(iter(SOLOV2.values())).test, settings)


def maskrcnn_reads(settings: dict[str, Any]) -> Any:
    return with_mmdetection_settings(next(iter(MASKRCNN.values())), settings)


def test_mmdetections_names_are_followed() -> None:
    test = solov2_reads(ONE_STAGE)
    assert (test.long_side, test.short_side, test.mask_threshold, test.max_candidates) == (90, 40, 0.4, 7)
    config = maskrcnn_reads(TWO_STAGES)
    test = config.test
    assert (test.long_side, test.short_side, test.mask_threshold, test.max_instances) == (90, 40, 0.3, 5)
    assert (config.proposals.samples, config.proposals.training_kept, config.regions.samples) == (11, 12, 13)


@pytest.mark.parametrize(
    ("system", "stated", "reads", "path", "value", "said"),
    [
        (solov2, ONE_STAGE, solov2_reads, "score_thr", 0.1, "settings.score_thr is 0.1, which"),
        (solov2, ONE_STAGE, solov2_reads, "test_cfg/min_area", 3, "settings.test_cfg.min_area is 3, which"),
        (solov2, ONE_STAGE, solov2_reads, "keep_ratio", False, "settings.keep_ratio is False, and can only be True"),
        (solov2, ONE_STAGE, solov2_reads, "keep_ratio", True, ""),
        (solov2, ONE_STAGE, solov2_reads, "resize_how", "as the original does it", ""),
        (solov2, ONE_STAGE, solov2_reads, "scale_factor", 2.5, ""),
        (maskrcnn, TWO_STAGES, maskrcnn_reads, "test_cfg/rpn/min_bbox_size", 4, "settings.test_cfg.rpn.min_bbox_size"),
        (maskrcnn, TWO_STAGES, maskrcnn_reads, "test_cfg/rpn/nms_across_levels", True, "settings.test_cfg.rpn.nms_ac"),
        (maskrcnn, TWO_STAGES, maskrcnn_reads, "test_cfg/rcnn/nms/type", "soft_nms", "settings.test_cfg.rcnn.nms.type"),
        (maskrcnn, TWO_STAGES, maskrcnn_reads, "test_cfg/rcnn/soft", 1, "settings.test_cfg.rcnn.soft is 1"),
        (maskrcnn, TWO_STAGES, maskrcnn_reads, "train_cfg/rpn/nearest", 1, "settings.train_cfg.rpn.nearest is 1"),
        (maskrcnn, TWO_STAGES, maskrcnn_reads, "train_cfg/rcnn/debug", False, ""),
    ],
)
def test_what_would_be_passed_over_is_refused_by_name_and_what_only_tells_is_not(
    system: Any, stated: dict[str, Any], reads: Callable[[Any], Any], path: str, value: object, said: str
) -> None:
    settings = deepcopy(stated)
    *tables, name = path.split("/")
    table = settings
    for each in tables:
        table = table[each]
    table[name] = value
    spec = Noted({"settings": settings})
    reads(spec["settings"])
    found = passed_over(spec, system.FIXED, system.INFORMATION)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_settings_that_contradict_each_other_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="mask_thr"):
        solov2_reads(ONE_STAGE | {"test_cfg": ONE_STAGE["test_cfg"] | {"mask_thr": 0.9}})
    settings = deepcopy(TWO_STAGES)
    settings["test_cfg"]["rpn"]["nms_post"] = 7
    with pytest.raises(UserError, match="nms_post"):
        maskrcnn_reads(settings)


@pytest.mark.parametrize("name", ["solov2", "yolact", "maskrcnn", "upsnet", "pose2seg", "glip", "refinemask", "psg"])
@pytest.mark.parametrize(
    "spec",
    [
        {"settings": {"test_cfg": {"min_area": 3}}},
        {"settings": {"loss": {"kind": "focal"}}},
        {"settings": {"train_cfg": {"rcnn": [{}, {"sampler": {"hard": True}}]}}},
        {"train_batch": "in/image2 and in/image3"},
        {"stages": [1, 2]},
    ],
)
def test_each_system_refuses_what_it_never_heard_of(name: str, spec: dict[str, Any]) -> None:
    system = find_system(name)
    found = passed_over(Noted(spec), system.FIXED, system.INFORMATION)
    assert found.startswith(next(iter(spec)))
    assert found.split()[0].endswith(("min_area", "kind", "hard", "train_batch", "stages"))


def test_u2net_learns_from_the_crops_that_the_spec_states() -> None:
    tensor = torch.arange(2.0 * 6 * 8).reshape(1, 2, 6, 8)
    text = "crops [:, :, 1:3, :4], [:, :, 4:6, 2:6] and [:, :, 0:2, 4:8]"
    for spec in ({"inputs": {"train_tensor": {"meaning": text}}}, {"inputs": {}, "settings": {"train_batch": text}}):
        case = Case(Path("x"), spec, {"in/train_label": np.zeros((3, 1, 2, 4))})
        crops = training_crops(case, tensor)
        assert crops.shape == (3, 2, 2, 4)
        assert torch.equal(crops[:2], torch.stack((tensor[0, :, 1:3, :4], tensor[0, :, 4:6, 2:6])))
        case.arrays["in/train_label"] = np.zeros((2, 1, 2, 4))
        with pytest.raises(UserError, match="states 3 crops"):
            training_crops(case, tensor)
