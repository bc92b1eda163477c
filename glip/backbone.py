"""Swin (arXiv 2103.14030) as detectors use it: maps of any size, windows that are always shifted.

torchvision's Swin does not shift where a map is no larger than a window; the published detectors do, so the blocks
are ours and only the merging of patches is torchvision's.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.swin_transformer import PatchMerging
from torchvision.ops import StochasticDepth

from common.data.batches import round_up

PATCH = 4
FOREIGN = -100.0  # added to the attention between places that only the shift brought into one window


class Swin(nn.Module):
    """Images -> the maps of the last three stages, at strides 8, 16, 32; the first stage's with `with_first`."""

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        drop_path: float,
        checkpointing: bool = False,
    ):
        super().__init__()
        self.checkpointing = checkpointing
        self.patch_embedding = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.patch_norm = nn.LayerNorm(width)
        rates = [drop_path * block / max(sum(depths) - 1, 1) for block in range(sum(depths))]
        self.stages, self.merges, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.channels: list[int] = []
        for stage, depth in enumerate(depths):
            channels = width * 2**stage
            own = rates[sum(depths[:stage]) : sum(depths[: stage + 1])]
            shifts = [window // 2 * (index % 2) for index in range(depth)]
            blocks = (SwinBlock(channels, heads[stage], window, *each) for each in zip(shifts, own, strict=True))
            self.stages.append(nn.ModuleList(blocks))
            if stage > 0:
                self.merges.append(PatchMerging(channels // 2))
                self.norms.append(nn.LayerNorm(channels))
                self.channels.append(channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, with_first: bool = False) -> list[Tensor]:
        """[N, 3, H, W] -> [N, C, H/8, W/8] .. [N, 4C, H/32, W/32]"""
        height, width = images.shape[-2:]
        missing = (0, round_up(width, PATCH) - width, 0, round_up(height, PATCH) - height)
        features = self.patch_norm(self.patch_embedding(F.pad(images, missing)).permute(0, 2, 3, 1))  # [N, h, w, C]
        maps = []
        for stage, blocks in enumerate(self.stages):
            if stage > 0:
                features = self.merges[stage - 1](features)
            for block in blocks:  # type: ignore[attr-defined]
                if self.checkpointing and self.training:
                    features = checkpoint(block, features, use_reentrant=False)
                else:
                    features = block(features)
            if stage > 0:
                maps.append(self.norms[stage - 1](features).permute(0, 3, 1, 2))
            elif with_first:
                maps.append(features.permute(0, 3, 1, 2))
        return maps


class SwinBlock(nn.Module):
    """Attention inside of windows and a two-layer perceptron, each with a residual."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop_path: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, shift)
        self.perceptron_norm = nn.LayerNorm(channels)
        self.perceptron = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, features: Tensor) -> Tensor:
        features = features + self.drop_path(self.attention(self.attention_norm(features)))
        result: Tensor = features + self.drop_path(self.perceptron(self.perceptron_norm(features)))
        return result


class WindowAttention(nn.Module):
    """Self-attention of [N, H, W, C] inside of windows; in every other block they are shifted by half their side."""

    def __init__(self, channels: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)
        self.position_bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))  # [offsets, heads]
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        self.register_buffer("offset_index", relative_offsets(window), persistent=False)
        self.offset_index: Tensor

    def forward(self, features: Tensor) -> Tensor:
        count, height, width, channels = features.shape
        size, heads = self.window, self.heads
        rows, columns = round_up(height, size), round_up(width, size)
        padded = F.pad(features, (0, 0, 0, columns - width, 0, rows - height))
        if self.shift:
            padded = padded.roll((-self.shift, -self.shift), (1, 2))
        windows = into_windows(padded, size)  # [N, windows, size^2, C]
        tokens = windows.shape[1:3]
        queries, keys, values = (
            self.qkv(windows).reshape(count, *tokens, 3, heads, channels // heads).permute(3, 0, 1, 4, 2, 5)
        )
        bias = self.position_bias[self.offset_index].permute(2, 0, 1)[None]  # [1, heads, size^2, size^2]
        if self.shift:
            bias = bias + foreign_places(rows, columns, size, self.shift, features.device)[:, None].to(bias.dtype)
        mixed = F.scaled_dot_product_attention(queries, keys, values, bias.to(queries.dtype))
        mixed = self.projection(mixed.transpose(2, 3).reshape(count, *tokens, channels))
        whole: Tensor = (
            mixed.reshape(count, rows // size, columns // size, size, size, channels)
            .transpose(2, 3)
            .reshape(count, rows, columns, channels)
        )
        if self.shift:
            whole = whole.roll((self.shift, self.shift), (1, 2))
        return whole[:, :height, :width]


def into_windows(features: Tensor, size: int) -> Tensor:
    """[N, H, W, C] -> [N, windows, size^2, C]"""
    count, height, width, channels = features.shape
    grid = features.reshape(count, height // size, size, width // size, size, channels)
    return grid.transpose(2, 3).reshape(count, -1, size * size, channels)


def relative_offsets(size: int) -> Tensor:
    """[size^2, size^2] int64: which row of the table of biases each pair of a window's places takes."""
    places = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    difference = places[:, None] - places[None] + size - 1
    return difference[..., 0] * (2 * size - 1) + difference[..., 1]


def foreign_places(height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
    """[windows, size^2, size^2]: 0 between neighbours, FOREIGN between places from opposite ends of the map."""

    def bands(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - size).long() + (position >= length - shift).long()

    region = 3 * bands(height)[:, None] + bands(width)
    regions = into_windows(region[None, :, :, None], size)[0, :, :, 0]  # [windows, size^2]
    return FOREIGN * (regions[:, :, None] != regions[:, None, :])
