"""Where training starts: a checkpoint of ours, a published one, or a backbone trained on ImageNet; or their names."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from common.errors import UserError
from common.run.checkpoint import load_weights
from common.run.model import Model
from maskworks.published.formats import read_checkpoint_or_published
from maskworks.published.names import BACKBONE, local_file

STRONG_ANSWER = 0.03  # of a first layer to a step of 1: some 0.2 in torchvision's ResNets, 58 times less in Caffe's
State = Mapping[str, Tensor]


def initialise(
    model: Model[Any],
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
    weights, known_names = read_checkpoint_or_published(local_file(source))
    body_weights = backbone(weights)
    if body_weights is not None or source.startswith(BACKBONE):
        warn_of_another_kind(body_weights, model.config.model.std, source)
        return load_backbone(model, body_weights, source)
    weights = convert(weights) or weights
    if known_names != model.class_names:
        weights = with_new_class_layers(model, weights, class_layers, bool(known_names), source)
    load_weights(model, weights, source)
    return None


def with_new_class_layers(
    model: Model[Any], weights: dict[str, Tensor], class_layers: tuple[str, ...], known: bool, source: str
) -> dict[str, Tensor]:
    """The weights; with the model's own class layers if the classes are `known` to be others, or the shapes say so."""
    here = model.state_dict()
    same = [name for name in weights if name.startswith(class_layers)]
    if not known and all(name in here and weights[name].shape == here[name].shape for name in same):
        return weights
    print(f"{source} knows other classes than the data set: the class layers start anew", file=sys.stderr)
    fresh = {name: value for name, value in here.items() if name.startswith(class_layers)}
    return {name: value for name, value in weights.items() if name not in same} | fresh


def warn_of_another_kind(body: State | None, std: Sequence[float], source: str) -> None:
    """Say so where a ResNet was trained on values of another scale than the model's.

    There are two kinds under the same names: torchvision's, for RGB values divided by their standard deviation (58 or
    so), and Caffe's, for BGR values that aren't. The first layer tells them apart: how strongly it answers to a step
    of 1, batch norm included, differs by that factor.
    """
    wanted = ("backbone.conv1.weight", "backbone.bn1.weight", "backbone.bn1.running_var")
    if body is None or any(name not in body for name in wanted):
        return
    filters, scale, variance = (body[name].float() for name in wanted)
    answers = scale.abs() * filters.flatten(1).norm(dim=1) / (variance + 1e-5).sqrt()  # [channels]
    kinds = ("Caffe's kind (BGR, not divided by the standard deviation)", "torchvision's (RGB, divided by it)")
    theirs, ours = float(answers.median()) > STRONG_ANSWER, min(std) > 2
    if theirs != ours:
        print(
            f"warning: {source} is a backbone of {kinds[theirs]}, and this variant feeds {kinds[ours]}, with strides "
            "to match: it will learn worse than published; take the other file, or the other kind of variant",
            file=sys.stderr,
        )


def load_backbone(model: Model[Any], body: dict[str, Tensor] | None, source: str) -> None:
    """A classifier's weights without its last layer; what they don't have, as offsets and heads, stays as it is."""
    here = model.state_dict()
    unknown = [name for name in body or {} if name not in here]
    if not body or unknown:
        problem = f"{unknown[0]} is not in it" if unknown else "none of its names is known"
        raise UserError(f"{source}: not the weights of this model's backbone: {problem}")
    load_weights(model, here | body, source)
