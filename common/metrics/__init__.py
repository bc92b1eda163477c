"""Scores: COCO average precision and panoptic quality, equal to the reference tools."""

from common.metrics.coco import CocoDetails, coco_details, evaluate_coco
from common.metrics.panoptic import evaluate_panoptic

__all__ = ["CocoDetails", "coco_details", "evaluate_coco", "evaluate_panoptic"]
