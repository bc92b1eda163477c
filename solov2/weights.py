"""Where training starts: a checkpoint of ours, a published one, or a torchvision backbone."""

import sys
from collections.abc import Mapping
from pathlib import Path

import torchvision
from torch import Tensor

from common.checkpoint import load_weights, read_checkpoint_or_published
from common.errors import UserError
from solov2.convert import convert, recognise
from solov2.network import SOLOv2

HUB_PREFIX = "torchvision:"  # --weights torchvision:resnet50 downloads; nothing else does
CATEGORY_LAYER = "category_kernel_head.category."


def initialise(model: SOLOv2, source: str) -> None:
    """Put the weights that `source` names into the model; a category layer for other classes stays new."""
    if not source:
        if model.config.model.norm == "frozen_batch":
            print(
                "warning: training starts from random weights, with normalisation statistics that stay as they are; "
                "--weights FILE starts from a checkpoint or a torchvision backbone",
                file=sys.stderr,
            )
        return None
    if source.startswith(HUB_PREFIX):
        body = torchvision.models.get_model(source.removeprefix(HUB_PREFIX), weights="IMAGENET1K_V1")
        return load_backbone(model, body.state_dict(), source)
    weights, class_names = read_checkpoint_or_published(Path(source))
    if recognise(weights):
        weights = convert(weights).weights
    if "layer1.0.conv1.weight" in weights:
        return load_backbone(model, weights, source)
    if class_names != model.class_names:
        here = model.state_dict()
        same = [name for name in weights if name.startswith(CATEGORY_LAYER)]
        if class_names or any(weights[name].shape != here[name].shape for name in same):
            print(
                f"{source} knows other classes than the data set: the category layer starts anew",
                file=sys.stderr,
            )
            weights |= {name: value for name, value in here.items() if name.startswith(CATEGORY_LAYER)}
    load_weights(model, weights, source)
    return None


def load_backbone(model: SOLOv2, weights: Mapping[str, Tensor], source: str) -> None:
    """A torchvision classifier's weights without its last layer; new convolutions, as offsets are, stay as they are."""
    here = model.state_dict()
    body = {f"backbone.{name}": value for name, value in weights.items() if not name.startswith("fc.")}
    if unknown := [name for name in body if name not in here]:
        raise UserError(f"{source}: not the weights of a {model.config.model.backbone}: {unknown[0]} is not in it")
    load_weights(model, here | body, source)
