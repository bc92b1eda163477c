"""Operators shared by the models: sigmoid focal loss and matrix NMS."""

from common.ops.focal_loss import convert_targets, sigmoid_focal_loss
from common.ops.matrix_nms import matrix_nms, matrix_nms_from_intersections

__all__ = ["convert_targets", "matrix_nms", "matrix_nms_from_intersections", "sigmoid_focal_loss"]
