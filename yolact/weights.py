"""Where YOLACT's training starts: a checkpoint of ours, a published one, or an ImageNet backbone."""

from collections.abc import Mapping

from torch import Tensor

from maskworks.published import starting_weights
from yolact.convert import backbone_weights, convert, recognise
from yolact.network import YOLACT

# without the mask IoU network's last layer among them, its classes would be the old ones
CLASS_LAYERS = ("head.class_logits.", "semantic.", "mask_iou.convs.5.")


def initialise(model: YOLACT, source: str) -> None:
    fixed = model.batch_norms_frozen and model.config.model.norm == "batch"
    starting_weights.initialise(model, source, converted, backbone_weights, CLASS_LAYERS, fixed)


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    return convert(state).weights if recognise(state) else None
