"""Where Mask R-CNN's training starts: a checkpoint of ours, a published one, or an ImageNet backbone."""

import re
from collections.abc import Mapping

from torch import Tensor

from maskrcnn.caffe2 import MARK, RULES, with_statistics
from maskrcnn.convert import BENCHMARK, convert, recognise
from maskrcnn.network import MaskRCNN
from maskworks.published import starting_weights
from maskworks.published.renaming import rename, renamed_by, resnet_body

CLASS_LAYERS = ("box_head.category.", "box_head.deltas.", "mask_head.logits.")


def initialise(model: MaskRCNN, source: str) -> None:
    fixed_statistics = model.config.model.norm != "group"
    c4 = model.config.model.neck == "c4"

    def body(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        return backbone(state, c4, set(model.state_dict()))

    starting_weights.initialise(model, source, renamed_by(recognise, convert), body, CLASS_LAYERS, fixed_statistics)


def backbone(state: Mapping[str, Tensor], c4: bool, known: set[str]) -> dict[str, Tensor] | None:
    """A classifier's weights without its last layer; with "c4" its last stage is the regions'.

    Under torchvision's names, or Caffe2's.
    """
    body = classifier_weights(state) if MARK in state and recognise(state) is None else resnet_body(state)
    if body is None:
        return None
    if c4:
        body = {name.replace("backbone.layer4.", "region_stage."): value for name, value in body.items()}
    counters = {name for name in body if name.endswith("num_batches_tracked")} - known  # frozen norms have none
    return {name: value for name, value in body.items() if name not in counters}


def classifier_weights(blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Caffe2's ImageNet classifiers, as MSRA's R-50.pkl; their first bias has no effect and no place here."""
    left_out = re.compile(r"conv1_b|(fc1000|pred)_[wb]|.*_momentum")
    names = {blob: rename(blob, [*RULES, *BENCHMARK]) for blob in blobs if not left_out.fullmatch(blob)}
    return with_statistics({name: blobs[blob] for blob, name in names.items()})
