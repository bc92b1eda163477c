"""Configurations of networks so small that a test makes them in passing; untrained, they find something everywhere."""

from copy import copy, deepcopy
from dataclasses import replace
from importlib import import_module
from typing import Any

CLASSES = ("person", "cat", "tree")
SIDE = 96


def tiny(package: str) -> Any:
    """A package's, for pictures of SIDE pixels and three classes."""
    config = import_module(package).VARIANTS["shapes"]
    config = copy(config)
    config.model, config.test = deepcopy(config.model), deepcopy(config.test)
    if package == "yolact":
        config.model.input_size, config.model.channels, config.model.scales = SIDE, 32, (8, 16, 32, 64, 96)
        config.test.score_threshold, config.test.max_instances = 0.01, 5
        return config
    config.test.long_side = config.test.short_side = SIDE
    if package == "upsnet":
        config.model.fpn_channels = config.model.box_channels = config.model.mask_channels = 16
        config.model.semantic_channels, config.test.proposals.kept = 16, 20
        config.test.panoptic_score_threshold, config.test.smallest_stuff, config.model.things = 0.1, 1, 2
        return config
    config.model.fpn_channels, config.test.score_threshold, config.test.max_instances = 16, 0.0, 5
    if package == "solov2":
        config.model.fpn_channels = config.model.tower_channels = 32
        config.model.tower_depth, config.test.score_threshold, config.test.update_threshold = 1, 0.005, 0.0
    elif package == "maskrcnn":
        config.model.box_channels = config.model.mask_channels = 16
        config.model.mask_depth, config.proposals = 1, replace(config.proposals, kept=20)
    else:
        config.model.fpn_channels, config.model.box_channels, config.model.mask_channels = 32, 32, 24
        config.test.proposals = 20
    return config
