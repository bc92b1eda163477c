"""wangqixun/psg's semantic head: the inner stages of U-2-Net say what each pixel of P2 is, things and stuff."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.batches import UNLABELLED, Target
from refinemask_psg.u2net.network import ResidualU, sides, stages

INNER = (4, 2, 1, 1, 1)  # what comes into stage 3, and what stages 3 to 6 give: so many times less than the deepest
MIDDLE = (8, 4, 2, 2)
DEPTHS = (5, 4, 4, 4)


class SemanticU2Head(nn.Module):
    """P2 [N, C, h, w] -> logits [N, classes + 1, h, w], five times: d0, which counts, and d3 to d6, for training.

    The last channel is never trained: unlabelled pixels are left out.
    """

    def __init__(self, channels: int, classes: int, deepest: int = 512):
        super().__init__()
        inner, middle = [deepest // part for part in INNER], [deepest // part for part in MIDDLE]
        self.input_fc = nn.Conv2d(channels, inner[0], 1)
        for index in range(4):
            stage = ResidualU(DEPTHS[index], inner[index], middle[index], inner[index + 1], dilated=index >= 2)
            self.add_module(f"stage{index + 3}", stage)
        for index in (2, 1, 0):
            inputs, outputs = 2 * inner[index + 1], inner[index]
            stage = ResidualU(DEPTHS[index], inputs, middle[index], outputs, dilated=index == 2)
            self.add_module(f"stage{index + 3}d", stage)
        for index, width in zip((3, 4, 5, 6), (*inner[:3], inner[4]), strict=True):
            self.add_module(f"side{index}", nn.Conv2d(width, classes + 1, 3, padding=1))
        self.outconv = nn.Conv2d(4 * (classes + 1), classes + 1, 1)

    def forward(self, features: Tensor) -> list[Tensor]:
        return sides(self, stages(self, self.input_fc(features), first=3), first=3)


def semantic_target(targets: Sequence[Target], stride: int = 4) -> Tensor:
    """The class of every fourth pixel: [N, H/4, W/4] int64"""
    maps = [target.semantic for target in targets if target.semantic is not None]
    return torch.stack(maps)[:, ::stride, ::stride].long()


def semantic_losses(outputs: list[Tensor], wanted: Tensor) -> list[Tensor]:
    """Cross entropy of each output, averaged over the labelled pixels; 0 where none is."""
    labelled = (wanted != UNLABELLED).sum().clamp(min=1)
    return [
        F.cross_entropy(logits.float(), wanted, ignore_index=UNLABELLED, reduction="sum") / labelled
        for logits in outputs
    ]
