"""GLIP: Grounded Language-Image Pre-training (Li et al., arXiv 2112.03857)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import maskworks
from common.run.callbacks import Callback, Run
from glip.config import VARIANTS, Config
from glip.network import GLIP
from glip.prompts import Prompt
from maskworks import training
from maskworks.published.names import Precision, open_model

__all__ = ["GLIP", "VARIANTS", "Config", "Prompt", "load", "train"]

__version__ = maskworks.__version__


def load(file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32") -> GLIP:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "glip", Config, GLIP, trainable, device, precision)


def train(variant: str = "", *, callbacks: Sequence[Callback] = (), **settings: Any) -> Run:
    """Train as train.py does; settings are named as in its YAML files: data="photographs/", optimizer={"lr": 0.01}."""
    return training.start("glip", variant, settings, callbacks)
