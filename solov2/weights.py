"""Where SOLOv2's training starts: a checkpoint of ours, a published one, or a torchvision backbone."""

from maskworks.published import starting_weights
from maskworks.published.renaming import renamed_by, resnet_body
from solov2.convert import convert, recognise
from solov2.network import SOLOv2

CLASS_LAYERS = ("category_kernel_head.category.",)


def initialise(model: SOLOv2, source: str) -> None:
    fixed_statistics = model.config.model.norm == "frozen_batch"
    starting_weights.initialise(
        model, source, renamed_by(recognise, convert), resnet_body, CLASS_LAYERS, fixed_statistics
    )
