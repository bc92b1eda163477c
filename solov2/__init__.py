"""SOLOv2: Dynamic and Fast Instance Segmentation (Wang et al., arXiv 2003.10152)."""

from pathlib import Path

import maskworks
from maskworks.published.names import Precision, open_model
from solov2.config import VARIANTS, Config
from solov2.network import SOLOv2

__all__ = ["VARIANTS", "Config", "SOLOv2", "load"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> SOLOv2:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "solov2", Config, SOLOv2, trainable, device, precision)
