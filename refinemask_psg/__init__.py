"""RefineMask (arXiv 2104.08569) on ResNets and on CBNetV2's composite Swin; U-2-Net; panoptic scene graphs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import maskworks
from common.run.callbacks import Callback, Run
from maskworks import training
from maskworks.published.names import Precision, open_model
from refinemask_psg.config import VARIANTS, Config
from refinemask_psg.network import RefineMask
from refinemask_psg.u2net import U2Net
from refinemask_psg.u2net import load as load_u2net

__all__ = ["VARIANTS", "Config", "RefineMask", "U2Net", "load", "load_u2net", "train"]

__version__ = maskworks.__version__


def load(
    file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32"
) -> RefineMask:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "refinemask_psg", Config, RefineMask, trainable, device, precision)


def train(variant: str = "", *, callbacks: Sequence[Callback] = (), **settings: Any) -> Run:
    """Train as train.py does; settings are named as in its YAML files: data="photographs/", optimizer={"lr": 0.01}."""
    return training.start("refinemask_psg", variant, settings, callbacks)
