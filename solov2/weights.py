"""Where SOLOv2's training starts: a checkpoint of ours, a published one, or a torchvision backbone."""

from collections.abc import Mapping

from torch import Tensor

from maskworks.published import starting_weights
from solov2.convert import convert, recognise
from solov2.network import SOLOv2

CLASS_LAYERS = ("category_kernel_head.category.",)


def initialise(model: SOLOv2, source: str) -> None:
    fixed_statistics = model.config.model.norm == "frozen_batch"
    std = model.config.model.std
    starting_weights.initialise(
        model, model.class_names, source, converted, backbone, CLASS_LAYERS, fixed_statistics, std
    )


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    return convert(state).weights if recognise(state) else None


def backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A torchvision classifier's weights without its last layer."""
    if "layer1.0.conv1.weight" not in state:
        return None
    return {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}
