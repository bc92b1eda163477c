"""Where Pose2Seg's training starts: a checkpoint of ours, the published one, or a torchvision backbone."""

from collections.abc import Mapping

from torch import Tensor

from maskworks.published import starting_weights
from pose2seg.convert import backbone_weights, convert, recognise
from pose2seg.network import Pose2Seg


def initialise(model: Pose2Seg, source: str) -> None:
    starting_weights.initialise(model, source, converted, backbone_weights, class_layers=(), fixed_statistics=False)


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    return convert(state).weights if recognise(state) else None
