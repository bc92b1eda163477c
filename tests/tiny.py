"""Networks so small that a test makes them in passing, and pictures; untrained, they find something everywhere."""

from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.ops.batch_norm_folding import fold_batch_norms

CLASSES = ("person", "cat", "tree")
SIDE = 96


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def assert_folding_changes_nothing(
    network: nn.Module, answers: Callable[[], Sequence[Tensor]], most: float = 1e-4
) -> None:
    """Folds all batch norms, which first get statistics as training leaves them, and compares the answers."""
    for norm in network.modules():
        if hasattr(norm, "running_mean"):
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.8, 1.2)
            nn.init.normal_(norm.bias, std=0.2)
    with torch.no_grad():
        before = answers()
        fold_batch_norms(network.eval())
        after = answers()
    assert not any("running" in name for name in network.state_dict())
    for one, other in zip(before, after, strict=True):
        assert (one - other).norm() / one.norm() < most


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
