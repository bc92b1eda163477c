"""Where Mask R-CNN's training starts: a checkpoint of ours, a published one, or an ImageNet backbone."""

from collections.abc import Mapping

from torch import Tensor

from common import starting_weights
from maskrcnn.convert import convert, recognise
from maskrcnn.network import MaskRCNN

CLASS_LAYERS = ("box_head.category.", "box_head.deltas.", "mask_head.logits.")


def initialise(model: MaskRCNN, source: str) -> None:
    fixed_statistics = model.config.model.norm != "group"
    c4 = model.config.model.neck == "c4"

    def body(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        return backbone(state, c4, set(model.state_dict()))

    starting_weights.initialise(model, model.class_names, source, published, body, CLASS_LAYERS, fixed_statistics)


def published(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    return convert(state).weights if recognise(state) else None


def backbone(state: Mapping[str, Tensor], c4: bool, known: set[str]) -> dict[str, Tensor] | None:
    """A torchvision classifier's weights without its last layer; with "c4" its last stage is the regions'."""
    if "layer1.0.conv1.weight" not in state:
        return None
    body = {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    if c4:
        body = {name.replace("backbone.layer4.", "region_stage."): value for name, value in body.items()}
    counters = {name for name in body if name.endswith("num_batches_tracked")} - known  # frozen norms have none
    return {name: value for name, value in body.items() if name not in counters}
