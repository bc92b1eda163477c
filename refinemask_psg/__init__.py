"""RefineMask (arXiv 2104.08569) on ResNets and on CBNetV2's composite Swin; U-2-Net; panoptic scene graphs."""

from pathlib import Path

import maskworks
from maskworks.published.names import Precision, open_model
from refinemask_psg.config import VARIANTS, Config
from refinemask_psg.network import RefineMask
from refinemask_psg.u2net import U2Net
from refinemask_psg.u2net import load as load_u2net

__all__ = ["VARIANTS", "Config", "RefineMask", "U2Net", "load", "load_u2net"]

__version__ = maskworks.__version__


def load(
    file: str | Path, *, trainable: bool = False, device: str = "auto", precision: Precision = "fp32"
) -> RefineMask:
    """The model in a checkpoint of ours, or behind a name, ready to predict; `trainable`: with its batch norms."""
    return open_model(file, "refinemask_psg", Config, RefineMask, trainable, device, precision)
