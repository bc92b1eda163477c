"""U-2-Net (arXiv 2005.09007): what is salient in a photograph."""

from collections.abc import Sequence
from typing import Any

from common.run.callbacks import Callback, Run
from maskworks import training
from refinemask_psg.u2net.config import VARIANTS, Config
from refinemask_psg.u2net.network import U2Net
from refinemask_psg.u2net.weights import load

__all__ = ["VARIANTS", "Config", "U2Net", "load", "train"]


def train(variant: str = "", *, callbacks: Sequence[Callback] = (), **settings: Any) -> Run:
    """Train as train.py does; settings are named as in its YAML files: data="photographs/", optimizer={"lr": 0.01}."""
    return training.start("refinemask_psg.u2net", variant, settings, callbacks)
