"""Where Pose2Seg's training starts: a checkpoint of ours, the published one, or a torchvision backbone."""

from maskworks.published import starting_weights
from maskworks.published.renaming import renamed_by
from pose2seg.convert import backbone_weights, convert, recognise
from pose2seg.network import Pose2Seg


def initialise(model: Pose2Seg, source: str) -> None:
    starting_weights.initialise(
        model, source, renamed_by(recognise, convert), backbone_weights, (), fixed_statistics=False
    )
