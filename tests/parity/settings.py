"""The settings of a spec that decide results: each is followed, or refused by name, never passed over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from common.errors import UserError

# decide results wherever they stand, so outside the table that is read they would be passed over
DECIDING = {
    "score_thr",
    "nms_pre",
    "max_per_img",
    "mask_thr",
    "mask_thr_binary",
    "update_thr",
    "filter_thr",
    "iou_thr",
    "nms",
    "img_scale",
    "min_bbox_size",
}


def check_known(settings: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuses a setting that no one here reads."""
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise UserError(f"{where}: {', '.join(unknown)} is not a setting that this adapter follows")


def check_fixed(settings: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    """Refuses a setting that has one value here, where a spec states another."""
    for name, value in fixed.items():
        if name in settings and settings[name] != value:
            raise UserError(f"{where}: {name} is {settings[name]!r}, and can only be {value!r} here")


def one_of(settings: Mapping[str, Any], names: Collection[str], where: str) -> Any:
    """The setting that has one of these names; stated under two of them, it must be the same."""
    values = [settings[name] for name in names if name in settings]
    if not values or any(value != values[0] for value in values):
        raise UserError(f"{where}: exactly one of {', '.join(names)} must be stated")
    return values[0]


def check_places(settings: Mapping[str, Any], read: Collection[str] = ()) -> None:
    """Refuses what decides results where no one reads it: beside the tables instead of in them."""
    stray = sorted((DECIDING & set(settings)) - set(read))
    if stray:
        raise UserError(f"settings: {', '.join(stray)} must stand in test_cfg or train_cfg to be followed")


def check_stages(test_cfg: Mapping[str, Any]) -> None:
    """The test settings of a detector with two stages, in MMDetection's terms."""
    check_known(test_cfg, ("rpn", "rcnn"), "test_cfg")
    rpn, rcnn = test_cfg["rpn"], test_cfg["rcnn"]
    known = ("nms_pre", "max_per_img", "max_num", "nms", "nms_thr", "nms_post", "min_bbox_size", "nms_across_levels")
    check_known(rpn, known, "test_cfg.rpn")
    check_fixed(rpn, {"min_bbox_size": 0, "nms_across_levels": False}, "test_cfg.rpn")
    kept = rpn.get("max_per_img", rpn.get("max_num"))
    if rpn.get("nms_post", kept) < kept:
        raise UserError(
            f"test_cfg.rpn: nms_post is {rpn['nms_post']}, and can't be less than the {kept} kept of all levels"
        )
    check_known(rcnn, ("score_thr", "nms", "max_per_img", "mask_thr_binary"), "test_cfg.rcnn")
    for stage in (rpn, rcnn):
        suppression = stage.get("nms", {})
        check_known(suppression, ("type", "iou_threshold"), "nms")
        check_fixed(suppression, {"type": "nms"}, "nms")
