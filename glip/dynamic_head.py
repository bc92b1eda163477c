"""The dynamic head (arXiv 2106.08322) over the pyramid, and what it says of each place: box, centre, tokens.

Each block looks at a level and its two neighbours through deformable convolutions, weighs the three, and rescales the
channels. With early fusion, image and text attend to each other before every block.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.ops.guarded_sampling import deform_conv2d
from common.ops.precision import full_precision
from glip.config import Model, Text
from glip.fusion import Fusion
from glip.text_encoder import TextLayer, bounded

TAPS = 9  # of a 3 x 3 convolution
LEVELS = 5


class Answers(NamedTuple):
    """What the network says about a batch of images, for each level."""

    token_logits: list[Tensor]  # [N, H W, T] how well each place goes with each token
    deltas: list[Tensor]  # [N, 4, H, W] from the anchor to the box
    centerness: list[Tensor]  # [N, 1, H, W] logits
    text: Tensor  # [N, T, width] what has become of the text


class DynamicHead(nn.Module):
    """[P3 .. P7] and the text -> Answers."""

    def __init__(self, model: Model, text: Text):
        super().__init__()
        self.checkpointing = model.checkpointing
        self.blocks = nn.ModuleList(DynamicBlock(model) for _ in range(model.blocks))
        fusions = model.blocks if model.early_fusion else 0
        sizes = model.channels, text.width, model.fusion_width, model.fusion_heads
        self.fusions = nn.ModuleList(Fusion(*sizes, model.fusion_dropout, model.blocks) for _ in range(fusions))
        self.text_layers = nn.ModuleList(TextLayer(text) for _ in range(fusions))
        self.box = nn.Conv2d(model.channels, 4, 1)
        self.box_scales = nn.ParameterList(torch.full((1,), model.box_scale) for _ in range(LEVELS))
        self.centerness = nn.Conv2d(model.channels, 1, 1)
        self.alignment = Alignment(model.channels, text.width, model.alignment_scale)
        for conv in (self.box, self.centerness):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor], text: Tensor, mask: Tensor) -> Answers:
        """Levels [N, C, H, W], text [N, T, width] from BERT, mask [N, T] bool."""
        if not self.fusions:
            text = text * mask[..., None]
        for index in range(len(self.blocks)):
            if self.checkpointing and self.training:
                levels, text = checkpoint(self.step, index, levels, text, mask, use_reentrant=False)
            else:
                levels, text = self.step(index, levels, text, mask)
        return self.answers(levels, text)

    def step(self, index: int, levels: Sequence[Tensor], text: Tensor, mask: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        if self.fusions:
            levels, text = self.fusions[index](levels, text, mask)
            text = self.text_layers[index](text, mask)
        return self.blocks[index](levels), text

    def answers(self, levels: Sequence[Tensor], text: Tensor) -> Answers:
        deltas = [self.box(level) * scale for level, scale in zip(levels, self.box_scales, strict=True)]
        return Answers(self.alignment(levels, text), deltas, [self.centerness(level) for level in levels], text)


class Alignment(nn.Module):
    """How well each place goes with each token: a dot product (paper, equation 3), with the token's own bias."""

    def __init__(self, channels: int, text_width: int, scale: float):
        super().__init__()
        self.projection = nn.Linear(text_width, channels)
        self.log_scale = nn.Parameter(torch.full((1,), -math.log(scale)))  # of what alignments are divided by
        self.token_bias = nn.Parameter(torch.zeros(text_width))
        self.bias = nn.Parameter(torch.full((1,), -math.log(99.0)))  # a probability of 0.01 to start with

    def forward(self, levels: Sequence[Tensor], text: Tensor) -> list[Tensor]:
        """For each level [N, H W, T]"""
        directions = F.normalize(text, dim=-1)
        keys = self.projection(directions / 2) / self.log_scale.exp()  # [N, T, C]
        biases = (directions @ self.token_bias + self.bias)[:, None]  # [N, 1, T]
        return [bounded(level.flatten(2).transpose(1, 2) @ keys.transpose(1, 2) + biases) for level in levels]


class DynamicBlock(nn.Module):
    """Each level together with its neighbours: [N, C, H, W] of all levels -> the same."""

    def __init__(self, model: Model):
        super().__init__()
        channels = model.channels
        self.offset = nn.Conv2d(channels, 3 * TAPS, 3, padding=1)
        self.finer, self.same, self.coarser = (DeformableConv(model, stride) for stride in (2, 1, 1))
        self.attention = nn.Conv2d(channels, 1, 1)
        self.activation = DynamicReLU(channels)
        for conv in (self.offset, self.attention):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        results = []
        for index, level in enumerate(levels):
            offsets, gates = self.offset(level).split((2 * TAPS, TAPS), dim=1)
            gates = gates.sigmoid()
            views = [self.same(level, offsets, gates)]
            if index > 0:
                views.append(self.finer(levels[index - 1], offsets, gates))
            if index < len(levels) - 1:
                coarse = levels[index + 1]
                view = self.coarser(coarse, reread(offsets, coarse), reread(gates, coarse))
                views.append(F.interpolate(view, level.shape[-2:], mode="bilinear", align_corners=True))
            results.append(self.weighed(views))
        return [self.activation(result) for result in results]

    def weighed(self, views: Sequence[Tensor]) -> Tensor:
        weights = [hard_sigmoid(F.relu(self.attention(view.mean((2, 3), keepdim=True)))) for view in views]
        total = torch.stack([view * weight for view, weight in zip(views, weights, strict=True)]).sum(dim=0)
        return total / len(views)


def reread(values: Tensor, coarse: Tensor) -> Tensor:
    """Offsets [N, K, H, W], of a level, as its coarser neighbour's convolution finds them: [N, K, h, w].

    The original passes offsets of the wrong size, and its CUDA kernel reads each image's memory as if they had the
    right one: the first K h w numbers, row after row. The published weights have been trained with that.
    """
    count, channels = values.shape[:2]
    height, width = coarse.shape[-2:]
    return values.flatten(1)[:, : channels * height * width].reshape(count, channels, height, width)


class DeformableConv(nn.Module):
    """Modulated deformable 3 x 3 convolution (arXiv 1811.11168), in float32 always, and group norm."""

    def __init__(self, model: Model, stride: int):
        super().__init__()
        self.stride, self.sampled = stride, model.deformable == "sampled"
        channels = model.channels
        limit = (TAPS * channels) ** -0.5
        weight = torch.empty(channels, channels, 3, 3)
        identity = model.head_identity * nn.init.dirac_(weight.clone())
        self.weight = nn.Parameter(weight.uniform_(-limit, limit) + identity)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norm = nn.GroupNorm(model.groups, channels)

    def forward(self, features: Tensor, offsets: Tensor, gates: Tensor) -> Tensor:
        with full_precision(features.device):
            inputs = [values.to(self.weight.dtype).contiguous() for values in (features, offsets, gates)]
            normed: Tensor = self.norm(self._sample(*inputs) if self.sampled else self._convolve(*inputs))
        return normed

    def _convolve(self, features: Tensor, offsets: Tensor, gates: Tensor) -> Tensor:
        stride = (self.stride, self.stride)
        moved: Tensor = deform_conv2d(features, offsets, self.weight, self.bias, stride, padding=(1, 1), mask=gates)
        return moved

    def _sample(self, features: Tensor, offsets: Tensor, gates: Tensor) -> Tensor:
        """The same by grid sampling: the nine taps of all places, then one matrix product."""
        count, channels, height, width = features.shape
        rows, columns = offsets.shape[-2:]
        steps = torch.arange(-1, 2, device=features.device)
        moves = offsets.reshape(count, TAPS, 2, rows, columns)  # [N, taps, 2, h, w], y before x
        y = moves[:, :, 0] + steps.repeat_interleave(3)[:, None, None] + self._places(rows, features)[:, None]
        x = moves[:, :, 1] + steps.repeat(3)[:, None, None] + self._places(columns, features)
        grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
        taps = F.grid_sample(features, grid.reshape(count, TAPS * rows, columns, 2), align_corners=False)
        taps = taps.reshape(count, channels, TAPS, rows, columns) * gates[:, None]
        mixed = self.weight.flatten(1) @ taps.reshape(count, channels * TAPS, rows * columns)
        return (mixed + self.bias[:, None]).reshape(count, -1, rows, columns)

    def _places(self, count: int, like: Tensor) -> Tensor:
        return self.stride * torch.arange(count, device=like.device, dtype=like.dtype)


class DynamicReLU(nn.Module):
    """max(a1 x + b1, a2 x + b2) (arXiv 2003.10027) with each channel's a and b from what the whole map holds."""

    def __init__(self, channels: int):
        super().__init__()
        self.squeeze, self.expand = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, 4 * channels)

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean((2, 3))
        parts = hard_sigmoid(self.expand(F.relu(self.squeeze(pooled)))) - 0.5
        slope1, shift1, slope2, shift2 = parts[..., None, None].chunk(4, dim=1)  # [N, C, 1, 1] each
        return torch.maximum(features * (2 * slope1 + 1) + shift1, features * (2 * slope2) + shift2)


def hard_sigmoid(values: Tensor) -> Tensor:
    return F.relu6(values + 3) / 6
