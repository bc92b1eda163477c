"""UPSNet: A Unified Panoptic Segmentation Network (Xiong et al., arXiv 1901.03784)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import maskworks
from common.run.callbacks import Callback, Run
from maskworks import training
from maskworks.published.names import Precision, open_model
from upsnet.config import VARIANTS, Config
from upsnet.network import UPSNet

__all__ = ["VARIANTS", "Config", "UPSNet", "load", "train"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> UPSNet:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "upsnet", Config, UPSNet, trainable, device, precision)


def train(variant: str = "", *, callbacks: Sequence[Callback] = (), **settings: Any) -> Run:
    """Train as train.py does; settings are named as in its YAML files: data="photographs/", optimizer={"lr": 0.01}."""
    return training.start("upsnet", variant, settings, callbacks)
