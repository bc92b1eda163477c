"""YOLACT: Real-time Instance Segmentation (Bolya et al., arXiv 1904.02689), and YOLACT++ (arXiv 1912.06218)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import maskworks
from common.run.callbacks import Callback, Run
from maskworks import training
from maskworks.published.names import Precision, open_model
from yolact.config import VARIANTS, Config
from yolact.network import YOLACT

__all__ = ["VARIANTS", "YOLACT", "Config", "load", "train"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> YOLACT:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "yolact", Config, YOLACT, trainable, device, precision)


def train(variant: str = "", *, callbacks: Sequence[Callback] = (), **settings: Any) -> Run:
    """Train as train.py does; settings are named as in its YAML files: data="photographs/", optimizer={"lr": 0.01}."""
    return training.start("yolact", variant, settings, callbacks)
