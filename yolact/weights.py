"""Where YOLACT's training starts: a checkpoint of ours, a published one, or an ImageNet backbone."""

from maskworks.published import starting_weights
from maskworks.published.renaming import renamed_by
from yolact.convert import backbone_weights, convert, recognise
from yolact.network import YOLACT

# without the mask IoU network's last layer among them, its classes would be the old ones
CLASS_LAYERS = ("head.class_logits.", "semantic.", "mask_iou.convs.5.")


def initialise(model: YOLACT, source: str) -> None:
    fixed = model.batch_norms_frozen and model.config.model.norm == "batch"
    starting_weights.initialise(model, source, renamed_by(recognise, convert), backbone_weights, CLASS_LAYERS, fixed)
