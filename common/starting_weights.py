"""Where training starts: a checkpoint of ours, a published one, or a backbone trained on ImageNet."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torchvision
from torch import Tensor, nn

from common.checkpoint import load_weights, read_checkpoint_or_published
from common.errors import UserError

HUB_PREFIX = "torchvision:"  # --weights torchvision:resnet50 downloads; nothing else does
State = Mapping[str, Tensor]


def initialise(
    model: nn.Module,
    class_names: tuple[str, ...],
    source: str,
    convert: Callable[[State], dict[str, Tensor] | None],
    backbone: Callable[[State], dict[str, Tensor] | None],
    class_layers: tuple[str, ...],
    fixed_statistics: bool,
) -> None:
    """Put the weights that `source` names into the model.

    `convert` renames a published checkpoint, `backbone` a classifier's file, or answers None to what it doesn't know;
    the layers whose names begin as one of `class_layers` start anew where the classes are others.
    """
    if not source:
        if fixed_statistics:
            print(
                "warning: training starts from random weights, with normalisation statistics that stay as they are; "
                "--weights FILE starts from a checkpoint or a torchvision backbone",
                file=sys.stderr,
            )
        return None
    if source.startswith(HUB_PREFIX):
        body = torchvision.models.get_model(source.removeprefix(HUB_PREFIX), weights="IMAGENET1K_V1")
        return load_backbone(model, backbone(body.state_dict()), source)
    weights, known_names = read_checkpoint_or_published(Path(source))
    body_weights = backbone(weights)
    if body_weights is not None:
        return load_backbone(model, body_weights, source)
    weights = convert(weights) or weights
    if known_names != class_names:
        weights = with_new_class_layers(model, weights, class_layers, bool(known_names), source)
    load_weights(model, weights, source)
    return None


def with_new_class_layers(
    model: nn.Module, weights: dict[str, Tensor], class_layers: tuple[str, ...], known: bool, source: str
) -> dict[str, Tensor]:
    """The weights; with the model's own class layers if the classes are `known` to be others, or the shapes say so."""
    here = model.state_dict()
    same = [name for name in weights if name.startswith(class_layers)]
    if not known and all(name in here and weights[name].shape == here[name].shape for name in same):
        return weights
    print(f"{source} knows other classes than the data set: the class layers start anew", file=sys.stderr)
    fresh = {name: value for name, value in here.items() if name.startswith(class_layers)}
    return {name: value for name, value in weights.items() if name not in same} | fresh


def load_backbone(model: nn.Module, body: dict[str, Tensor] | None, source: str) -> None:
    """A classifier's weights without its last layer; what they don't have, as offsets and heads, stays as it is."""
    here = model.state_dict()
    unknown = [name for name in body or {} if name not in here]
    if not body or unknown:
        problem = f"{unknown[0]} is not in it" if unknown else "none of its names is known"
        raise UserError(f"{source}: not the weights of this model's backbone: {problem}")
    load_weights(model, here | body, source)
