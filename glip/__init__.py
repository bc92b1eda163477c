"""GLIP: Grounded Language-Image Pre-training (Li et al., arXiv 2112.03857)."""

from pathlib import Path

import maskworks
from glip.config import VARIANTS, Config
from glip.network import GLIP
from glip.prompts import Prompt
from maskworks.published.names import Precision, open_model

__all__ = ["GLIP", "VARIANTS", "Config", "Prompt", "load"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> GLIP:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "glip", Config, GLIP, trainable, device, precision)
