"""Where training starts: a checkpoint of ours, a published one, or a backbone trained on ImageNet."""

from collections.abc import Mapping

import torch
from torch import Tensor

from maskworks.published import starting_weights
from maskworks.published.formats import read_checkpoint_or_published
from maskworks.published.names import BACKBONE, local_file
from maskworks.published.renaming import renamed_by
from upsnet.classes import COCO, COCO_NAMES
from upsnet.convert import backbone_weights, convert, known_classes, recognise
from upsnet.network import UPSNet

CLASS_LAYERS = ("box_head.classes.", "box_head.deltas.", "mask_head.masks.", "semantic_head.classes.")


def initialise(model: UPSNet, source: str) -> None:
    """Put the weights that `source` names into the model; of other classes, those with a counterpart are taken over."""
    starting_weights.initialise(
        model,
        source,
        renamed_by(recognise, convert),
        backbone_weights,
        CLASS_LAYERS,
        fixed_statistics=model.config.model.norm == "frozen_batch",
    )
    if source and not source.startswith(BACKBONE):
        weights, names = read_checkpoint_or_published(local_file(source))
        if recognise(weights):
            weights = convert(weights).weights
            names = tuple(known_classes(len(weights["semantic_head.classes.weight"])) or ())
        if names and names != model.class_names and CLASS_LAYERS[0] + "weight" in weights:
            things = len(weights["box_head.classes.weight"]) - 1
            take_over_classes(model, weights, names, things)


@torch.no_grad()
def take_over_classes(model: UPSNet, weights: Mapping[str, Tensor], names: tuple[str, ...], things: int) -> None:
    """Copy each class's rows from those of the class of that name, or of its counterpart in COCO."""
    is_coco = set(names) == set(COCO)
    counterparts = {name: COCO_NAMES.get(name, name) if is_coco else name for name in model.class_names}
    found = [
        (here, names.index(counterparts[name]))
        for here, name in enumerate(model.class_names)
        if counterparts[name] in names
    ]
    both_things = [(here, there) for here, there in found if here < model.things and there < things]
    rows = [(0, 0), *((here + 1, there + 1) for here, there in both_things)]
    own = model.state_dict()
    for layer in CLASS_LAYERS[:3]:
        for part in ("weight", "bias"):
            here, there = per_class(own[layer + part], 1 + model.things), per_class(weights[layer + part], 1 + things)
            for to, origin in rows:
                here[to] = there[origin]
    stuff = len(names) - things
    for part in ("weight", "bias"):
        here, there = own[CLASS_LAYERS[3] + part], weights[CLASS_LAYERS[3] + part]
        for to, origin in found:
            here[(to + model.stuff) % len(here)] = there[(origin + stuff) % len(there)]


def per_class(values: Tensor, classes: int) -> Tensor:
    """A layer's rows grouped by class: the deltas have four for each."""
    return values.reshape(classes, -1, *values.shape[1:])
