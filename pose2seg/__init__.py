"""Pose2Seg: Detection Free Human Instance Segmentation (Zhang et al., arXiv 1803.10683)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import maskworks
from common.run.callbacks import Callback, Run
from maskworks import training
from maskworks.published.names import Precision, open_model
from pose2seg.config import VARIANTS, Config
from pose2seg.network import Pose2Seg

__all__ = ["VARIANTS", "Config", "Pose2Seg", "load", "train"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> Pose2Seg:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "pose2seg", Config, Pose2Seg, trainable, device, precision)


def train(variant: str = "", *, callbacks: Sequence[Callback] = (), **settings: Any) -> Run:
    """Train as train.py does; settings are named as in its YAML files: data="photographs/", optimizer={"lr": 0.01}."""
    return training.start("pose2seg", variant, settings, callbacks)
