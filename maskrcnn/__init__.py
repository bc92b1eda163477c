"""Mask R-CNN (He, Gkioxari, Dollar, Girshick, arXiv 1703.06870)."""

from pathlib import Path

import maskworks
from maskrcnn.config import VARIANTS, Config
from maskrcnn.network import MaskRCNN
from maskworks.published.names import Precision, open_model

__all__ = ["VARIANTS", "Config", "MaskRCNN", "load"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> MaskRCNN:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "maskrcnn", Config, MaskRCNN, trainable, device, precision)
