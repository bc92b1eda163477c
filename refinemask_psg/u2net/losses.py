"""The loss: binary cross entropy of each of the seven maps, on logits, where the original takes probabilities."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Losses(NamedTuple):
    """The loss of a batch, and of each of the seven maps."""

    total: Tensor
    maps: list[Tensor]


def u2net_loss(maps: list[Tensor], wanted: Tensor) -> Losses:
    """The sum over the maps' logits of binary cross entropy against masks [N, 1, H, W] (paper, equation 1)."""
    each = [F.binary_cross_entropy_with_logits(logits.float(), wanted.float()) for logits in maps]
    return Losses(torch.stack(each).sum(), each)
