"""Mask R-CNN (He, Gkioxari, Dollar, Girshick, arXiv 1703.06870)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import maskworks
from common.run.callbacks import Callback, Run
from maskrcnn.config import VARIANTS, Config
from maskrcnn.network import MaskRCNN
from maskworks import training
from maskworks.published.names import Precision, open_model

__all__ = ["VARIANTS", "Config", "MaskRCNN", "load", "train"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> MaskRCNN:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "maskrcnn", Config, MaskRCNN, trainable, device, precision)


def train(variant: str = "", *, callbacks: Sequence[Callback] = (), **settings: Any) -> Run:
    """Train as train.py does; settings are named as in its YAML files: data="photographs/", optimizer={"lr": 0.01}."""
    return training.start("maskrcnn", variant, settings, callbacks)
