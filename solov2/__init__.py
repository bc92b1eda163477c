"""SOLOv2: Dynamic and Fast Instance Segmentation (Wang et al., arXiv 2003.10152)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import maskworks
from common.run.callbacks import Callback, Run
from maskworks import training
from maskworks.published.names import Precision, open_model
from solov2.config import VARIANTS, Config
from solov2.network import SOLOv2

__all__ = ["VARIANTS", "Config", "SOLOv2", "load", "train"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> SOLOv2:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "solov2", Config, SOLOv2, trainable, device, precision)


def train(variant: str = "", *, callbacks: Sequence[Callback] = (), **settings: Any) -> Run:
    """Train as train.py does; settings are named as in its YAML files: data="photographs/", optimizer={"lr": 0.01}."""
    return training.start("solov2", variant, settings, callbacks)
