"""YOLACT: Real-time Instance Segmentation (Bolya et al., arXiv 1904.02689), and YOLACT++ (arXiv 1912.06218)."""

from pathlib import Path

import maskworks
from maskworks.published.names import Precision, open_model
from yolact.config import VARIANTS, Config
from yolact.network import YOLACT

__all__ = ["VARIANTS", "YOLACT", "Config", "load"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> YOLACT:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "yolact", Config, YOLACT, trainable, device, precision)
