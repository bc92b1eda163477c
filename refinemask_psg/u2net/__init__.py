"""U-2-Net (arXiv 2005.09007): what is salient in a photograph."""

from refinemask_psg.u2net.config import VARIANTS, Config
from refinemask_psg.u2net.network import U2Net
from refinemask_psg.u2net.weights import load

__all__ = ["VARIANTS", "Config", "U2Net", "load"]
