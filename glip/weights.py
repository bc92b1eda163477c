"""Where training starts: a checkpoint of ours, a published one, or a Swin trained on ImageNet."""

from collections.abc import Mapping

from torch import Tensor

from common.run.checkpoint import load_weights
from glip.convert import SWIN, convert, recognise
from glip.network import GLIP
from maskworks.published.formats import read_checkpoint_or_published
from maskworks.published.names import BACKBONE, local_file
from maskworks.published.renaming import Rules, rename
from maskworks.published.starting_weights import load_backbone

OPTIONAL = ("text.prompt.", "word_guess.")  # layers of tuning modes; they start anew where a file lacks them
TORCHVISION: Rules = [
    (r"^features\.0\.0\.", "backbone.patch_embedding."),
    (r"^features\.0\.2\.", "backbone.patch_norm."),
    *((rf"^features\.{2 * stage + 1}\.", f"backbone.stages.{stage}.") for stage in range(4)),
    *((rf"^features\.{2 * stage}\.", f"backbone.merges.{stage - 1}.") for stage in range(1, 4)),
    *SWIN,
]


def initialise(model: GLIP, source: str) -> None:
    """Put the weights that `source` names into the model."""
    if not source:
        return
    weights, _ = read_checkpoint_or_published(local_file(source))
    if "features.0.0.weight" in weights or source.startswith(BACKBONE):
        load_backbone(model, backbone_weights(weights), source)
        return
    if recognise(weights):
        weights = convert(weights).weights
    here = model.state_dict()
    fresh = {name: value for name, value in here.items() if name.startswith(OPTIONAL) and name not in weights}
    kept = {name: value for name, value in weights.items() if name in here or not name.startswith(OPTIONAL)}
    load_weights(model, kept | fresh, source)


def backbone_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's Swin without its classifier."""
    return {
        rename(name, TORCHVISION): value
        for name, value in state.items()
        if name.startswith("features.") and not name.endswith("relative_position_index")
    }
