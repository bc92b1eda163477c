"""U-2-Net (arXiv 2005.09007): what is salient in a photograph."""

from refinemask_psg.u2net.config import INPUT_SIZE, VARIANTS, Config
from refinemask_psg.u2net.losses import Losses, u2net_loss
from refinemask_psg.u2net.network import MEAN, STD, ConvNormReLU, ResidualU, U2Net, halve, resize_like
from refinemask_psg.u2net.postprocess import as_picture, stretch
from refinemask_psg.u2net.weights import load

load_u2net = load

__all__ = [
    "INPUT_SIZE",
    "MEAN",
    "STD",
    "VARIANTS",
    "Config",
    "ConvNormReLU",
    "Losses",
    "ResidualU",
    "U2Net",
    "as_picture",
    "halve",
    "load",
    "load_u2net",
    "resize_like",
    "stretch",
    "u2net_loss",
]
